"""The steps of `engine label`: find videos, open the model, label, write; again where it watches.

Joins the loaders (dali_pipelines), the model (engine, trt) and the journal.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.labelling_options import Asked
from engine.errors import UserError
from engine.labelling import walk, writers
from engine.labelling.journal import Journal
from engine.labelling.walk import Item, Wanted

if TYPE_CHECKING:
    from engine.commands.opened import Predictor
    from engine.labelling.label import Settings, Tally

POLL_S = 2.0
SETTLED_S = 5.0
"""A file that arrives is left alone until it hasn't changed for so long."""
SHOWN = 10


def run(asked: Asked) -> int:
    """The exit code."""
    if asked.model is None:
        raise UserError("name what labels them: --model RUN or --model ARTIFACT.")
    if len(asked.videos) != 1:
        raise UserError("label takes one folder, or one list with --list.")
    if asked.stride_s is not None and asked.window_s is None:
        raise UserError("--stride needs --window.")
    if asked.watch and (asked.is_list or asked.cluster):
        raise UserError("--watch goes with a folder on this machine.")
    items = _items_of(asked)
    outputs = _outputs(asked)
    journal_path = journal_of(asked.out)
    if asked.dry_run:
        return _dry_run(asked, items(), journal_path)
    from engine.commands.opened import class_names_of, digest_of

    class_names = class_names_of(asked.model)
    total = _count(items())  # before there is a journal of nothing
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    if asked.segments is not None:
        asked.segments.parent.mkdir(parents=True, exist_ok=True)
    if asked.fresh:
        Journal.remove(journal_path)
    with Journal(journal_path) as journal:
        digest = digest_of(asked.model)
        facts = {
            "classes": class_names, "window": asked.window_s, "stride": asked.stride_s,
            "shard": asked.shard, "model": digest,
        }  # fmt: skip
        journal.bind(facts, mix=asked.mix)
        if asked.retry:
            journal.forget_failures()
        style = _style(asked, class_names, asked.window_s)
        label_all = (_on_cluster if asked.cluster else _here)(asked, journal, digest)
        started = time.perf_counter()
        tally = _with_progress(items(), total, label_all)
        _end(journal, outputs, style, tally, time.perf_counter() - started)
        while asked.watch:
            time.sleep(POLL_S)
            more = label_all(_settled(items()), lambda tally: None)
            if more.done or more.failed:
                _end(journal, outputs, style, more, 0.0)
        _, num_failed = journal.counts()
    return 1 if num_failed or tally.away else 0


LabelAll = Callable[[Iterator[Item], "Callable[[Tally], None]"], "Tally"]


def _here(asked: Asked, journal: Journal, digest: str) -> LabelAll:
    from engine.commands.opened import open_predictor
    from engine.labelling.label import label
    from engine.training.memory import keep_freed_memory

    assert asked.model is not None
    predictor = open_predictor(asked.model, asked.device)
    if predictor.device.type == "cpu":
        keep_freed_memory()
    settings = settings_of(asked, predictor, digest)
    return lambda items, on_file: label(items, predictor, journal, settings, on_file=on_file)


def _on_cluster(asked: Asked, journal: Journal, digest: str) -> LabelAll:
    from engine.commands.labelling_cluster import label_on_cluster

    return lambda items, on_file: label_on_cluster(asked, items, journal, digest, on_file)


def settings_of(asked: Asked, predictor: "Predictor", digest: str) -> "Settings":
    from engine.labelling.label import Settings

    return Settings(
        clip=predictor.clip,
        model=digest,
        window_s=asked.window_s,
        stride_s=asked.stride_s,
        batch_size=asked.batch_size,
        timeout_s=asked.timeout_s,
        gpu=predictor.device.index,
    )


def _items_of(asked: Asked) -> Callable[[], Iterator[Item]]:
    (videos,) = asked.videos
    wanted = Wanted(include=asked.include, exclude=asked.exclude, shard=_parse_shard(asked.shard))
    if not asked.is_list:
        if videos.is_file():
            raise UserError(f"{videos} is a file: name a folder, or pass --list if it lists paths.")
        return lambda: walk.below(videos, wanted)
    if str(videos) == "-":
        lines = sys.stdin.read().splitlines()  # walked through twice: once to be counted
        return lambda: walk.listed(lines, wanted)
    if not videos.is_file():
        raise UserError(f"{videos} is no file: name a list of paths, or - for standard input.")

    def of_file() -> Iterator[Item]:
        with videos.open(encoding="utf-8", errors="surrogateescape") as file:
            yield from walk.listed(file, wanted)

    return of_file


def _parse_shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    number, _, count = text.partition("/")
    if not number.isdigit() or not count.isdigit() or not 1 <= int(number) <= int(count):
        raise UserError(f"--shard takes i/n with i from 1 to n, as in 2/8, not {text!r}.")
    return int(number) - 1, int(count)


def _outputs(asked: Asked) -> writers.Outputs:
    name = "failures.csv"
    if asked.shard is not None:
        name = f"failures-{asked.shard.replace('/', '-of-')}.csv"
    return writers.Outputs(
        labels=asked.out,
        format=writers.format_of(asked.out, asked.format),
        failures=asked.out.with_name(name),
        segments=asked.segments,
        subtitles=asked.subtitles,
    )


def _style(asked: Asked, class_names: list[str], window_s: float | None) -> writers.Style:
    smooth_s = asked.smooth_s
    if smooth_s is None:
        smooth_s = 2 * (window_s or 0.0)
    root = Path() if asked.is_list else asked.videos[0]
    return writers.Style(
        class_names=class_names, root=root, top_k=asked.top_k,
        min_confidence=asked.min_confidence, smooth_s=smooth_s,
    )  # fmt: skip


def journal_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal")


def _count(items: Iterator[Item]) -> int:
    from engine.progress import progress_bar

    total = 0
    with progress_bar("Finding videos", total=None, unit="files") as advance:
        for _ in items:
            total += 1
            advance()
    if not total:
        raise UserError("there are no videos there to label.")
    return total


def _with_progress(items: Iterator[Item], total: int, label_all: LabelAll) -> "Tally":
    from engine.progress import progress_bar

    with progress_bar("Labelling", total=total, unit="files") as advance:
        return label_all(items, lambda tally: advance(f"{tally.failed:,} failed"))


def _end(
    journal: Journal, outputs: writers.Outputs, style: writers.Style, tally: "Tally", seconds: float
) -> None:
    for path in writers.write(journal, outputs, style):
        print(f"written to {path}")
    parts = [f"{tally.done:,} files labelled ({tally.windows:,} windows)"]
    if seconds and tally.done:
        parts.append(f"{tally.done / seconds:,.1f} files/s")
    if tally.known:
        parts.append(f"{tally.known:,} were done before")
    if tally.away:
        parts.append(f"{tally.away:,} of these aren't there at the moment, and keep their labels")
    if tally.halved:
        parts.append(f"batches halved {tally.halved} times for want of memory")
    parts.append(f"{tally.failed:,} failed" + (f": see {outputs.failures}" if tally.failed else ""))
    print("; ".join(parts))
    if tally.damage:
        print(tally.damage)


def _settled(items: Iterator[Item]) -> Iterator[Item]:
    latest = time.time_ns() - int(SETTLED_S * 1e9)
    return (item for item in items if item.mtime_ns <= latest)


def _dry_run(asked: Asked, items: Iterator[Item], journal_path: Path) -> int:
    if asked.fresh or not journal_path.exists():
        return _say_what_is_left(items, lambda item: False)
    with Journal.copy_of(journal_path) as journal:
        if asked.retry:
            journal.forget_failures()
        return _say_what_is_left(items, lambda item: journal.stands(item)[0])


def _say_what_is_left(items: Iterator[Item], is_done: Callable[[Item], bool]) -> int:
    shown: list[str] = []
    total = known = 0
    for item in items:
        total += 1
        if is_done(item):
            known += 1
        elif len(shown) < SHOWN:
            shown.append(item.name)
    for name in shown:
        print(name.encode("utf-8", "backslashreplace").decode())
    if total - known > len(shown):
        print("…")
    print(f"{total - known:,} to label; {known:,} of {total:,} are done")
    return 0


def merge(asked: Asked) -> int:
    """One result of several shards', from their journals."""
    journals = [journal_of(path) for path in asked.videos]
    for path, journal in zip(asked.videos, journals, strict=True):
        if not journal.is_file():
            raise UserError(f"{path} has no {journal.name} beside it: name results of label.")
    target = journal_of(asked.out)
    if target in journals:
        raise UserError(f"--out {asked.out} is one of the shards: name another file.")
    outputs = _outputs(asked)
    Journal.remove(target)
    with Journal(target) as whole:
        facts: dict[str, Any] = {}
        for path in journals:
            with Journal(path) as part:
                found = {key: value for key, value in part.facts().items() if key != "shard"}
            if facts and found != facts:
                raise UserError(f"{path} was made with another model or other windows.")
            facts = found
            whole.take_in(path)
        whole.bind({**facts, "shard": None}, mix=False)
        style = _style(asked, facts["classes"], facts["window"])
        for path in writers.write(whole, outputs, style):
            print(f"written to {path}")
        done, failed = whole.counts()
    print(f"{done:,} files labelled, {failed:,} failed, of {len(journals)} shards")
    return 1 if failed else 0
