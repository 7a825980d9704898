"""`engine label --cluster`: the same labelling on the workers of a Ray cluster.

Ray Data hands parts of the list to workers, each of which opens the model once; the part of a
worker that was lost goes to another one. Answers come back here and into the journal, so that the
results are those of one machine. Workers find the videos and the model under the same paths.
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
"""Files that a worker gets at a time, and loses where it dies; each part begins anew to read
ahead, so that small ones cost time."""


NO_FILE = Path()


def require_ray() -> None:
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise RefusedError(
            f"--cluster needs Ray, which isn't installed: {install_command('cluster')}."
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
    """Everything that the journal doesn't hold yet.

    Args:
        items: The files.
        model: Where all workers find it, an absolute path.
        journal: Takes their answers, in this process.
        settings: As for `label`.
        device: auto, gpu or cpu.
        workers: How many; by itself one for each GPU, or each node.
        on_file: Called after each file.
    """
    import ray

    from engine.labelling.label import Progress, pass_over

    tally = Progress()

    def left() -> Iterator[dict[str, Any]]:
        for item in items:
            if journal.status(item, settings.model)[0]:
                pass_over(item, tally, on_file)
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
    waiting = list(left())
    if not waiting:
        return tally
    answered = (
        ray.data.from_items(waiting, override_num_blocks=_num_parts(len(waiting), workers))
        .map_batches(
            Labeller,
            fn_kwargs={"model": model, "device": device, "settings": settings},
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=1 if on_gpus else None,
            num_cpus=None if on_gpus else _cores_each(ray, workers),
        )
        .iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
    )
    for batch in answered:
        _write(batch, journal, settings.model, tally, on_file)
    return tally


def _num_parts(num_files: int, workers: int) -> int:
    part = min(MAX, max(MIN, num_files // (PARTS_EACH * workers)))
    return -(-num_files // part)


def _default_workers(ray: Any, on_gpus: bool) -> int:
    found = ray.cluster_resources().get("GPU", 0) if on_gpus else len(ray.nodes())
    return max(1, int(found))


def _cores_each(ray: Any, workers: int) -> float:
    """All cores are shared out, so that Ray puts workers of a CPU cluster on all nodes."""
    return max(1, ray.cluster_resources().get("CPU", 1) // workers)


class Labeller:
    """Lives in a worker; labels a part of the list as one machine would, in its own journal."""

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
    """A row for each window, and one for each file that failed, whose number is -1.

    What is to be reported of a file stands in its last row.
    """
    item_of = {item.name: item for item in items}
    rows: list[tuple[Any, ...]] = []
    for each in part.labelled():
        count = len(each.windows)
        rows += [
            (each.name, number, start, end, found.tobytes(), number == count - 1, "")
            for number, (start, end, found) in enumerate(each.windows)
        ]
    rows += [(name, -1, 0.0, 0.0, b"", True, reason) for name, reason in part.failures()]
    files = [item_of[row[0]] for row in rows]
    lasts = [file.path if row[5] else NO_FILE for file, row in zip(files, rows, strict=True)]
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
        "num_damaged": np.array([report.damaged_frames.get(path, 0) for path in lasts], np.int64),
        "flaw": np.array([report.flaws.get(path, "") for path in lasts], object),
        "num_streams": np.array([report.num_streams.get(path, 1) for path in lasts], np.int64),
    }


def _write(
    batch: dict[str, Any],
    journal: Journal,
    digest: str,
    tally: "Progress",
    on_file: "Callable[[Progress], None]",
) -> None:
    from engine.labelling.label import write_down

    answers: list[WindowAnswer] = []
    failures: list[tuple[Item, str]] = []
    for place, name in enumerate(batch["name"]):
        text = os.fsdecode(bytes(name))
        item = Item(
            name=text,
            path=Path(text),
            size=int(batch["size"][place]),
            mtime_ns=int(batch["mtime_ns"][place]),
        )
        if num_damaged := int(batch["num_damaged"][place]):
            tally.report.damaged_frames[item.path] = num_damaged
        if flaw := str(batch["flaw"][place]):
            tally.report.flaws[item.path] = flaw
        if (num_streams := int(batch["num_streams"][place])) > 1:
            tally.report.num_streams[item.path] = num_streams
        if batch["number"][place] < 0:
            failures.append((item, str(batch["reason"][place])))
            continue
        answers.append(
            WindowAnswer(
                item=item,
                number=int(batch["number"][place]),
                start_s=float(batch["start_s"][place]),
                end_s=float(batch["end_s"][place]),
                probabilities=np.frombuffer(bytes(batch["probabilities"][place]), np.float32),
                is_last=bool(batch["is_last"][place]),
            )
        )
    write_down(journal, answers, failures, digest, tally, on_file)
