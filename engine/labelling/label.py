"""Labels items into a journal; decoding, inference and writing overlap.

All batches have the same size (the last one is padded), so that a prediction doesn't depend on the
other clips in its batch, and a resumed run gives the same bytes as an uninterrupted one.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.loaders.loader_config import LoaderReport
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.loaders.windows import Window, WindowRange
from engine.batched_predictor import BatchedPredictor, VideoModel
from engine.labelling.decoder_choice import Decoder, videos_of
from engine.labelling.discovery import Item, item_of
from engine.labelling.downloads import Downloads
from engine.labelling.journal import Journal, WindowAnswer

Ranges = dict[str, list[tuple[int, int | None]]]
"""Ranges of windows, [first, stop), ascending, of files by name; None is the end of the file."""
END: Any = object()


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    model: str
    """Digest of the model."""
    window_s: float | None = None
    stride_s: float | None = None
    batch_size: int = 8
    timeout_s: float = 120.0
    decoder: Decoder = "pyav"
    max_download_bytes: int = 8 * 10**9
    """Largest size of all downloaded files on the disk at a time."""


@dataclass(kw_only=True)
class Progress:
    done: int = 0
    known: int = 0
    """Files that were labelled before this run."""
    away: int = 0
    """Known files that don't exist at the moment."""
    failed: int = 0
    windows: int = 0
    halved: int = 0
    """How often the batch size was halved because memory ran out."""
    report: LoaderReport = field(default_factory=LoaderReport)
    """Damaged and unusual files."""


def label(
    items: Iterable[Item],
    model: VideoModel,
    journal: Journal,
    settings: LabelSettings,
    *,
    on_file: Callable[[Progress], None] = lambda tally: None,
    ranges: Ranges | None = None,
) -> Progress:
    """Label all items that the journal doesn't hold yet.

    While the model runs on one batch, the next ones are decoded and the previous one is written.

    Args:
        items: The files; files that were labelled before are skipped.
        model: Predicts logits for clips.
        journal: Receives predictions and failures.
        settings: Windows, batch size and timeout.
        on_file: Called after each file.
        ranges: Windows to label of some files, by name; of other files, all windows are labelled.

    Returns:
        Counts of labelled, known and failed files.
    """
    tally = Progress()
    predictor = BatchedPredictor.before_loading(model, settings.batch_size)
    with Downloads(settings.max_download_bytes) as downloads:
        while items:
            one_pass = _Pass(items, journal, settings, tally, on_file, ranges or {}, downloads)
            items = one_pass.run(model, predictor)
    return tally


class _Pass:
    """Labels each path once; `run` returns items that name a path already in progress."""

    def __init__(
        self,
        items: Iterable[Item],
        journal: Journal,
        settings: LabelSettings,
        tally: Progress,
        on_file: Callable[[Progress], None],
        ranges: Ranges,
        downloads: Downloads,
    ) -> None:
        self._items = items
        self._downloads = downloads
        self._ranges = ranges
        self._journal = journal
        self._settings = settings
        self._tally = tally
        self._on_file = on_file
        self._aliases: list[Item] = []
        self._in_progress: dict[Path, Item] = {}
        """By the path that is read."""
        self._known: dict[str, int] = {}
        """How many windows of a file in progress are labelled already, by name."""
        self._shown: dict[Path, Path] = {}
        """Downloaded files, and what reports call them."""
        self._unfetched: deque[tuple[Item, str]] = deque()
        self._failed: set[Path] = set()

    def run(self, model: VideoModel, predictor: BatchedPredictor) -> list[Item]:
        files = self._pending()
        first = next(files, END)
        if first is END:  # --watch polls often: don't build a loader if there is nothing to label
            self._write([], [], {})
            return self._aliases
        settings = self._settings
        loader = WindowLoader(
            chain([first], files),
            model.clip,
            window_s=settings.window_s,
            stride_s=settings.stride_s,
            batch_size=settings.batch_size,
            gpu=model.device.index,
            values="uint8",
            timeout_s=settings.timeout_s,
            videos=videos_of(settings.decoder, for_gpu=model.device.index is not None),
        )
        with ThreadPoolExecutor(1, thread_name_prefix="journal") as writer:
            writing: Future[None] | None = None
            with closing(loader.batches()) as batches:
                for batch in batches:
                    probabilities_BC = predictor(batch.clips)
                    if writing is not None:
                        writing.result()
                    self._tally.halved = predictor.halved
                    writing = writer.submit(
                        self._write, batch.windows, probabilities_BC, loader.report.failures
                    )
            if writing is not None:
                writing.result()
            self._write([], [], loader.report.failures)
        self._tally.report.merge_from(loader.report.renamed(self._shown))
        return self._aliases

    def _pending(self) -> Iterator[WindowRange | None]:
        """Runs in the loader's thread, except for the first file."""
        for fetched in self._downloads.ahead(self._items, self._wants):
            if fetched is None or fetched.path is None:
                if fetched is not None:
                    self._unfetched.append((fetched.item, fetched.reason))
                yield None
                continue
            item = fetched.item
            self._in_progress[fetched.path] = item
            if item.address:
                self._shown[fetched.path] = item.path
            for first, stop in self._ranges.get(item.name, [(self._known[item.name], None)]):
                yield WindowRange(fetched.path, first, stop)

    def _wants(self, item: Item) -> bool:
        """Whether a file is to be labelled in this pass."""
        if (active := self._in_progress.get(item.path)) is not None:
            if item.name != active.name:
                self._aliases.append(item)
            return False
        if item.address and item.name in self._known:
            return False
        is_done, known = self._journal.status(item, self._settings.model)
        if is_done:
            count_known(item, self._tally, self._on_file)
            return False
        self._known[item.name] = known
        if not item.address:
            self._in_progress[item.path] = item
        return True

    def _write(
        self,
        windows: list[Window],
        predictions: Iterable[NDArray[np.float32]],
        new_failures: dict[Path, str],
    ) -> None:
        failures = []
        while new_failures:
            path, reason = new_failures.popitem()
            self._failed.add(path)
            item = self._in_progress[path]
            now = item if item.address else item_of(item.name, path)
            # A file that has disappeared, perhaps with its drive, is tried again when it is back.
            failures.append((item if now.is_there else now, reason))
            self._known.pop(item.name, None)
            self._downloads.release(path)
        while self._unfetched:
            item, reason = self._unfetched.popleft()
            self._known.pop(item.name)
            failures.append((dataclasses.replace(item, size=-1), reason))  # tried again next time
        answers = [
            WindowAnswer(
                item=self._in_progress[window.path],
                number=window.number,
                start_s=window.start_s,
                end_s=window.end_s,
                probabilities=probabilities,
                is_last=window.is_last,
            )
            for window, probabilities in zip(windows, predictions, strict=True)
            if window.path not in self._failed
        ]
        write_answers(
            self._journal, answers, failures, self._settings.model, self._tally, self._on_file
        )
        for window in windows:
            if window.is_last and window.path not in self._failed:
                self._known.pop(self._in_progress.pop(window.path).name)
                self._downloads.release(window.path)


def count_known(item: Item, tally: Progress, on_file: Callable[[Progress], None]) -> None:
    """Count a file that the journal already holds."""
    tally.known += 1
    tally.away += not item.is_there
    on_file(tally)


def write_answers(
    journal: Journal,
    answers: list[WindowAnswer],
    failures: list[tuple[Item, str]],
    model: str,
    tally: Progress,
    on_file: Callable[[Progress], None],
    complete: Sequence[Item] = (),
) -> None:
    """Write predictions and failures to the journal, then count them in `tally`.

    The files `complete` are done with these predictions, even if none of them is the last one.
    """
    journal.write(answers, failures, model, complete)
    finished = sum(answer.is_last for answer in answers) + len(complete)
    tally.done += finished
    tally.failed += len(failures)
    tally.windows += len(answers)
    for _ in range(finished + len(failures)):
        on_file(tally)
