"""Implements `engine label --cluster`: labels videos on the workers of a Ray cluster.

Ray Data sends parts of the list to the workers, each of which opens the model once. If a worker
dies, its part goes to another one. The driver writes all predictions into one journal, so results
equal those of a single machine. The videos and the model must have the same paths on all workers.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dali_pipelines.loaders.loader_config import LoaderReport
from engine.errors import RefusedError
from engine.labelling.discovery import Item
from engine.labelling.journal import Journal, WindowAnswer
from trt.probe import install_command

if TYPE_CHECKING:
    from engine.labelling.label import LabelSettings, Progress
    from engine.predictor import Predictor

PARTS_EACH = 8
MIN, MAX = 16, 256
"""Limits for the number of files per part. A worker that dies loses one part; small parts are slow,
because prefetching starts again with each part."""
NO_FILE = Path()


def require_ray() -> None:
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise RefusedError(
            f"`cluster=True` needs Ray, which isn't installed: {install_command('cluster')}."
        ) from error


def label_on_cluster(
    items: Iterator[Item],
    model: Path,
    journal: Journal,
    settings: "LabelSettings",
    *,
    device: str,
    workers: int | None,
    on_file: "Callable[[Progress], None]",
) -> "Progress":
    """Label all files that the journal doesn't hold yet.

    Args:
        items: The files.
        model: Absolute path of the model on all workers.
        journal: Receives the predictions, in this process.
        settings: As for `label`.
        device: auto, gpu or cpu.
        workers: Number of workers; by default one per GPU, or one per node without GPUs.
        on_file: Called after each file.

    Returns:
        Counts of labelled, known and failed files.
    """
    import ray

    from engine.labelling.label import Progress, count_known

    tally = Progress()

    def pending_files() -> Iterator[dict[str, Any]]:
        for item in items:
            if journal.status(item, settings.model)[0]:
                count_known(item, tally, on_file)
            else:
                yield {
                    "name": os.fsencode(item.name),
                    "path": os.fsencode(item.path.absolute()),
                    "size": item.size,
                    "mtime_ns": item.mtime_ns,
                }

    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="error")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    on_gpus = device != "cpu" and bool(ray.cluster_resources().get("GPU"))
    workers = workers or _default_workers(ray, on_gpus)
    pending = list(pending_files())
    if not pending:
        return tally
    batches = (
        ray.data.from_items(pending, override_num_blocks=_num_parts(len(pending), workers))
        .map_batches(
            Labeller,
            fn_kwargs={"model": model, "device": device, "settings": settings},
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=1 if on_gpus else None,
            num_cpus=None if on_gpus else _cores_per_worker(ray, workers),
        )
        .iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
    )
    for batch in batches:
        _write(batch, journal, settings.model, tally, on_file)
    return tally


def _num_parts(num_files: int, workers: int) -> int:
    part = min(MAX, max(MIN, num_files // (PARTS_EACH * workers)))
    return -(-num_files // part)


def _default_workers(ray: Any, on_gpus: bool) -> int:
    count = ray.cluster_resources().get("GPU", 0) if on_gpus else len(ray.nodes())
    return max(1, int(count))


def _cores_per_worker(ray: Any, workers: int) -> float:
    """Divide all cores between the workers, so that Ray spreads them over all nodes."""
    return max(1, ray.cluster_resources().get("CPU", 1) // workers)


class Labeller:
    """Ray actor that labels one part of the list at a time, with a temporary journal."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None

    def __call__(
        self, batch: dict[str, Any], model: Path, device: str, settings: "LabelSettings"
    ) -> dict[str, Any]:
        from engine.labelling.label import label
        from engine.predictor import open_predictor

        if self._predictor is None:
            self._predictor = open_predictor(model, device)
        rows = zip(batch["name"], batch["path"], batch["size"], batch["mtime_ns"], strict=True)
        items = [
            Item(
                name=os.fsdecode(bytes(name)),
                path=Path(os.fsdecode(bytes(path))),
                size=int(size),
                mtime_ns=int(mtime_ns),
            )
            for name, path, size, mtime_ns in rows
        ]
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "part") as part:
            tally = label(items, self._predictor, part, settings)
            return _columns(items, part, tally.report)


def _columns(items: list[Item], part: Journal, report: LoaderReport) -> dict[str, Any]:
    """Columns with a row per window, and a row with number -1 per failed file.

    Damage reports of a file are in its last row.
    """
    item_of = {item.name: item for item in items}
    rows: list[tuple[Any, ...]] = []
    for file in part.labelled():
        count = len(file.windows)
        rows += [
            (file.name, number, start, end, probabilities.tobytes(), number == count - 1, "")
            for number, (start, end, probabilities) in enumerate(file.windows)
        ]
    rows += [(name, -1, 0.0, 0.0, b"", True, reason) for name, reason in part.failures()]
    files = [item_of[row[0]] for row in rows]
    reported = [file.path if row[5] else NO_FILE for file, row in zip(files, rows, strict=True)]
    return {
        "name": np.array([os.fsencode(file.name) for file in files], object),
        "size": np.array([file.size for file in files], np.int64),
        "mtime_ns": np.array([file.mtime_ns for file in files], np.int64),
        "number": np.array([row[1] for row in rows], np.int64),
        "start_s": np.array([row[2] for row in rows], np.float64),
        "end_s": np.array([row[3] for row in rows], np.float64),
        "probabilities": np.array([row[4] for row in rows], object),
        "is_last": np.array([row[5] for row in rows], bool),
        "reason": np.array([row[6] for row in rows], object),
        "num_damaged": np.array(
            [report.damaged_frames.get(path, 0) for path in reported], np.int64
        ),
        "flaw": np.array([report.flaws.get(path, "") for path in reported], object),
        "num_streams": np.array([report.num_streams.get(path, 1) for path in reported], np.int64),
    }


def _write(
    batch: dict[str, Any],
    journal: Journal,
    digest: str,
    tally: "Progress",
    on_file: "Callable[[Progress], None]",
) -> None:
    from engine.labelling.label import write_answers

    answers: list[WindowAnswer] = []
    failures: list[tuple[Item, str]] = []
    for row, name in enumerate(batch["name"]):
        decoded_name = os.fsdecode(bytes(name))
        item = Item(
            name=decoded_name,
            path=Path(decoded_name),
            size=int(batch["size"][row]),
            mtime_ns=int(batch["mtime_ns"][row]),
        )
        if num_damaged := int(batch["num_damaged"][row]):
            tally.report.damaged_frames[item.path] = num_damaged
        if flaw := str(batch["flaw"][row]):
            tally.report.flaws[item.path] = flaw
        if (num_streams := int(batch["num_streams"][row])) > 1:
            tally.report.num_streams[item.path] = num_streams
        if batch["number"][row] < 0:
            failures.append((item, str(batch["reason"][row])))
            continue
        answers.append(
            WindowAnswer(
                item=item,
                number=int(batch["number"][row]),
                start_s=float(batch["start_s"][row]),
                end_s=float(batch["end_s"][row]),
                probabilities=np.frombuffer(bytes(batch["probabilities"][row]), np.float32),
                is_last=bool(batch["is_last"][row]),
            )
        )
    write_answers(journal, answers, failures, digest, tally, on_file)
