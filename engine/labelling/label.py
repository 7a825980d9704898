"""From items to a journal: videos are read, answered and written down at the same time.

BatchRange always have the same size, the last one filled up: so an answer doesn't hang on what else
was in its batch, and a run that was killed gives the same bytes as one that wasn't. B windows of a
batch, C classes.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.loaders.loader_config import LoaderReport
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.loaders.windows import Window
from engine.batched_predictor import BatchedPredictor, VideoModel
from engine.labelling.discovery import Item, item_of
from engine.labelling.journal import Journal, WindowAnswer


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    model: str
    """The digest of what answers."""
    window_s: float | None = None
    stride_s: float | None = None
    batch_size: int = 8
    timeout_s: float = 120.0


@dataclass(kw_only=True)
class Progress:
    done: int = 0
    known: int = 0
    """Done before this run."""
    away: int = 0
    """Of these, files that aren't there at the moment."""
    failed: int = 0
    windows: int = 0
    halved: int = 0
    """How often a batch was too much for the memory."""
    report: LoaderReport = field(default_factory=LoaderReport)
    """What was labelled though it isn't sound, or unusual."""


def label(
    items: Iterable[Item],
    model: VideoModel,
    journal: Journal,
    settings: LabelSettings,
    *,
    on_file: Callable[[Progress], None] = lambda tally: None,
) -> Progress:
    """Everything that the journal doesn't hold yet; `on_file` is told after each file.

    While one batch is being answered, the next ones are read, and the one before is written.
    """
    tally = Progress()
    answerer = BatchedPredictor(model, settings.batch_size)
    while items:
        items = _label_once(items, model, answerer, journal, settings, tally, on_file)
    return tally


def _label_once(
    items: Iterable[Item],
    model: VideoModel,
    answerer: BatchedPredictor,
    journal: Journal,
    settings: LabelSettings,
    tally: Progress,
    on_file: Callable[[Progress], None],
) -> list[Item]:
    """Returns what is still to be labelled: other names of a file that was on its way already."""
    others: list[Item] = []
    on_the_way: dict[Path, tuple[Item, int]] = {}

    def wanted() -> Iterator[Path]:
        """Runs in the loader's thread, up to the first one in this."""
        for item in items:
            if (on_its_way := on_the_way.get(item.path)) is not None:
                if item.name != on_its_way[0].name:
                    others.append(item)
                continue
            is_done, known = journal.status(item, settings.model)
            if is_done:
                pass_over(item, tally, on_file)
            else:
                on_the_way[item.path] = item, known
                yield item.path

    paths = wanted()
    first = next(paths, None)
    if first is None:
        return []  # a folder that is watched is looked at often: no graph for nothing
    loader = WindowLoader(
        chain([first], paths),
        model.clip,
        window_s=settings.window_s,
        stride_s=settings.stride_s,
        batch_size=settings.batch_size,
        gpu=model.device.index,
        values="uint8",
        known=lambda path: on_the_way[path][1],
        timeout_s=settings.timeout_s,
    )
    told: set[Path] = set()

    def write(windows: list[Window], found: Iterable[NDArray[np.float32]]) -> None:
        failures = []
        while loader.report.failures:
            path, reason = loader.report.failures.popitem()
            told.add(path)
            item = on_the_way[path][0]
            now = item_of(item.name, path)
            # one that is gone meanwhile, with its drive perhaps, is tried again when it is back
            failures.append((item if now.is_there else now, reason))
        answers = []
        for window, each in zip(windows, found, strict=True):
            if window.path in told:
                continue
            item = on_the_way[window.path][0]
            answers.append(
                WindowAnswer(
                    item=item,
                    number=window.number,
                    start_s=window.start_s,
                    end_s=window.end_s,
                    probabilities=each,
                    is_last=window.is_last,
                )
            )
        tally.halved = answerer.halved
        write_down(journal, answers, failures, settings.model, tally, on_file)
        for answered in answers:
            if answered.is_last:
                del on_the_way[answered.item.path]

    with ThreadPoolExecutor(1, thread_name_prefix="journal") as writer:
        writing: Future[None] | None = None
        with closing(loader.batches()) as batches:
            for batch in batches:
                found = answerer(batch.clips)
                if writing is not None:
                    writing.result()
                writing = writer.submit(write, batch.windows, found)
        if writing is not None:
            writing.result()
        write([], [])
    tally.report.merge_from(loader.report)
    return others


def pass_over(item: Item, tally: Progress, on_file: Callable[[Progress], None]) -> None:
    """A file that the journal knows."""
    tally.known += 1
    tally.away += not item.is_there
    on_file(tally)


def write_down(
    journal: Journal,
    answers: list[WindowAnswer],
    failures: list[tuple[Item, str]],
    model: str,
    tally: Progress,
    on_file: Callable[[Progress], None],
) -> None:
    """Into the journal, and then into the tally."""
    journal.write(answers, failures, model)
    finished = sum(each.is_last for each in answers)
    tally.done += finished
    tally.failed += len(failures)
    tally.windows += len(answers)
    for _ in range(finished + len(failures)):
        on_file(tally)
