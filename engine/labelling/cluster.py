"""Implements `engine label --cluster`: labels videos on the workers of a Ray cluster.

Ray Data sends parts of the list to the workers, each of which opens the model once; a long video is
divided between them. If a worker dies, its part goes to another one. The driver writes all
predictions into one journal, so results equal those of a single machine. The videos and the model
must have the same paths on all workers.
"""

import dataclasses
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dali_pipelines.errors import VideoError
from dali_pipelines.loaders.loader_config import LoaderReport
from engine.errors import RefusedError
from engine.labelling.discovery import Item
from engine.labelling.journal import Journal, WindowAnswer
from engine.labelling.pieces import Pending, Piece, estimated_windows, parts_of, ranges_of
from engine.labelling.remote_files import all_looked_up
from trt.probe import install_command

if TYPE_CHECKING:
    from engine.labelling.label import LabelSettings, Progress
    from engine.predictor import Predictor

FAILED, ENDED, DAMAGED = -1, -2, -3
"""Numbers in rows that are not about a window: a file that can't be read, a piece to which no other
rows follow, and a file with damage or several streams."""


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

    from engine.labelling.label import Progress

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    tally = Progress()
    pending = _pending(items, journal, settings, tally, on_file)
    pool = _Pool.of(ray, device, workers)
    while pending:
        parts = parts_of(pending, num_workers=pool.size, num_threads=pool.num_cores)
        gathered = _Gathered(parts, journal, settings.model, tally, on_file)
        for batch in _results(ray, parts, pool, model, device, settings):
            gathered.write(batch)
        pending = gathered.again()
    return tally


def _pending(
    items: Iterator[Item],
    journal: Journal,
    settings: "LabelSettings",
    tally: "Progress",
    on_file: "Callable[[Progress], None]",
) -> list[Pending]:
    """The files to label, each once."""
    from engine.labelling.label import count_known

    pending: dict[str, Pending] = {}
    for item in all_looked_up(items):
        is_done, known = journal.known_windows(item, settings.model)
        if is_done:
            count_known(item, tally, on_file)
        else:
            count = 1
            if not item.address:
                count = estimated_windows(item.path, settings.window_s, settings.stride_s)
            pending[item.name] = Pending(item=item, known=known, num_windows=count)
    return list(pending.values())


class _Pool(NamedTuple):
    """The workers of a cluster."""

    size: int
    largest_size: int | None
    num_cores: int
    """CPU cores of each worker."""
    on_gpus: bool

    @classmethod
    def of(cls, ray: Any, device: str, workers: int | None) -> "_Pool":
        """By default one worker per GPU, or one per node without GPUs; also on nodes that join."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
        on_gpus = device != "cpu" and num_gpus > 0
        size = workers or (num_gpus if on_gpus else len(cores)) or 1
        fitting = sum(cores) // size  # so that Ray spreads the workers over all nodes
        return cls(size, workers, max(1, min(fitting, *cores, fitting)), on_gpus)


def _results(
    ray: Any, parts: list[list[Piece]], pool: _Pool, model: Path, device: str,
    settings: "LabelSettings",
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Label the parts on the workers, and yield what `_columns` returned for each of them."""
    return (
        ray.data.from_arrow([_table(part) for part in parts])
        .map_batches(
            Labeller,
            fn_kwargs={"model": model, "device": device, "settings": settings},
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(min_size=pool.size, max_size=pool.largest_size),
            num_gpus=1 if pool.on_gpus else None,
            num_cpus=None if pool.on_gpus else pool.num_cores,
        )
        .iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
    )


def _table(part: list[Piece]) -> Any:
    import pyarrow as pa

    items = [piece.item for piece in part]
    paths = [item.path if item.address else item.path.absolute() for item in items]
    return pa.table(
        {
            "name": pa.array([os.fsencode(item.name) for item in items], pa.binary()),
            "path": pa.array(list(map(os.fsencode, paths)), pa.binary()),
            "address": pa.array([os.fsencode(item.address) for item in items], pa.binary()),
            "size": pa.array([item.size for item in items], pa.int64()),
            "mtime_ns": pa.array([item.mtime_ns for item in items], pa.int64()),
            "first": pa.array([piece.first for piece in part], pa.int64()),
            "stop": pa.array(
                [-1 if piece.stop is None else piece.stop for piece in part], pa.int64()
            ),
            "is_range": pa.array([piece.is_range for piece in part], pa.bool_()),
        }
    )


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
        pieces = [
            Piece(
                item=Item(
                    name=os.fsdecode(bytes(batch["name"][row])),
                    path=Path(os.fsdecode(bytes(batch["path"][row]))),
                    size=int(batch["size"][row]),
                    mtime_ns=int(batch["mtime_ns"][row]),
                    address=os.fsdecode(bytes(batch["address"][row])),
                ),
                first=int(batch["first"][row]),
                stop=int(stop) if stop >= 0 else None,
                is_range=bool(batch["is_range"][row]),
            )
            for row, stop in enumerate(batch["stop"])
        ]
        unread = {piece.item.name for piece in pieces if not _can_be_read(piece)}
        items = {p.item.name: p.item for p in pieces if p.item.name not in unread}
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "part") as part:
            tally = label(items.values(), self._predictor, part, settings, ranges=ranges_of(pieces))
            return _columns(_rows(pieces, unread, part, tally.report))


def _can_be_read(piece: Piece) -> bool:
    """Whether reading the file can start in the middle, if it has to; remembers its index."""
    if not piece.is_range:
        return True
    from dali_pipelines.decode.indexed_video import open_indexed

    try:
        with open_indexed(piece.item.path) as video:
            return video.index is not None
    except (VideoError, OSError):
        return False


class _Row(NamedTuple):
    """A window, or what else a worker returns: see FAILED, ENDED and DAMAGED."""

    item: Item
    number: int
    start_s: float = 0.0
    end_s: float = 0.0
    probabilities: bytes = b""
    text: str = ""
    """Why the file can't be read, or is incomplete."""
    num_damaged: int = 0
    num_streams: int = 1


def _rows(
    pieces: list[Piece], unread: set[str], part: Journal, report: LoaderReport
) -> Iterator[_Row]:
    items = {os.fsencode(piece.item.name): piece.item for piece in pieces}
    for name, *window in part.rows(
        "SELECT name, number, start_s, end_s, probabilities FROM windows ORDER BY name, number"
    ):
        yield _Row(items[name], *window)
    for name in unread:
        yield _Row(items[os.fsencode(name)], FAILED)
    for name, size, mtime_ns, reason in part.rows(
        "SELECT name, size, mtime_ns, reason FROM files WHERE reason != ''"
    ):
        item = dataclasses.replace(items[name], size=size, mtime_ns=mtime_ns)
        yield _Row(item, FAILED, text=reason)
    for item in items.values():
        num_streams = report.num_streams.get(item.path, 1)
        flaw, num_damaged = report.flaws.get(item.path, ""), report.damaged_frames[item.path]
        if flaw or num_damaged or num_streams > 1:
            yield _Row(item, DAMAGED, text=flaw, num_damaged=num_damaged, num_streams=num_streams)
    for piece in pieces:
        yield _Row(piece.item, ENDED)


COLUMNS: dict[str, Any] = {
    "name": object, "size": np.int64, "mtime_ns": np.int64, "number": np.int64,
    "start_s": np.float64, "end_s": np.float64, "probabilities": object, "text": object,
    "num_damaged": np.int64, "num_streams": np.int64,
}  # fmt: skip
"""The columns of rows, with the facts of the item first, and their types."""


def _columns(rows: Iterable[_Row]) -> dict[str, Any]:
    cells = [
        (os.fsencode(row.item.name), row.item.size, row.item.mtime_ns, *row[1:]) for row in rows
    ]
    columns = zip(*cells, strict=True) if cells else ((),) * len(COLUMNS)
    return {
        name: np.array(column, kind)
        for (name, kind), column in zip(COLUMNS.items(), columns, strict=True)
    }


class _Gathered:
    """Writes what the workers return. A file is done once all of its pieces are.

    A long file of which a piece can't be read is labelled again as a whole, since what is read of
    a damaged file, and what is said about it, depends on where reading starts.
    """

    def __init__(
        self,
        parts: list[list[Piece]],
        journal: Journal,
        model: str,
        tally: "Progress",
        on_file: "Callable[[Progress], None]",
    ) -> None:
        self._journal, self._model = journal, model
        self._tally, self._on_file = tally, on_file
        pieces = [piece for part in parts for piece in part]
        self._remaining = Counter(piece.item.name for piece in pieces)
        self._in_pieces = {piece.item.name: piece.item for piece in pieces if piece.is_range}
        self._failed: set[str] = set()

    def again(self) -> list[Pending]:
        """The files to label as a whole."""
        items = [item for name, item in self._in_pieces.items() if name in self._failed]
        return [Pending(item=item, known=[]) for item in items]

    def write(self, batch: dict[str, Any]) -> None:
        from engine.labelling.label import write_answers

        answers: list[WindowAnswer] = []
        failures: list[tuple[Item, str]] = []
        complete: list[Item] = []
        for row in _rows_in(batch):
            item = row.item
            if row.number == DAMAGED:
                self._note_damage(row)
            elif row.number == FAILED:
                self._failed.add(item.name)
                if item.name not in self._in_pieces:
                    failures.append((item, row.text))
            elif row.number == ENDED:
                self._remaining[item.name] -= 1
                if not self._remaining[item.name] and item.name not in self._failed:
                    complete.append(item)
            elif item.name not in self._failed:
                answers.append(
                    WindowAnswer(
                        item=item,
                        number=row.number,
                        start_s=row.start_s,
                        end_s=row.end_s,
                        probabilities=np.frombuffer(row.probabilities, np.float32),
                        is_last=False,
                    )
                )
        write_answers(
            self._journal, answers, failures, self._model, self._tally, self._on_file, complete
        )

    def _note_damage(self, row: _Row) -> None:
        report, path = self._tally.report, row.item.path
        if row.num_damaged:
            report.damaged_frames[path] += row.num_damaged
        if row.text:
            report.flaws[path] = row.text
        if row.num_streams > 1:
            report.num_streams[path] = row.num_streams


def _rows_in(batch: dict[str, Any]) -> Iterator[_Row]:
    for name, size, mtime_ns, *values in zip(*(batch[name] for name in COLUMNS), strict=True):
        text = os.fsdecode(bytes(name))
        item = Item(name=text, path=Path(text), size=int(size), mtime_ns=int(mtime_ns))
        number, start_s, end_s, probabilities, reason, num_damaged, num_streams = values
        yield _Row(
            item, int(number), float(start_s), float(end_s), bytes(probabilities), str(reason),
            int(num_damaged), int(num_streams),
        )  # fmt: skip
