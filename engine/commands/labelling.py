"""The steps of `engine label`: find videos, open the model, label, write; again where it watches.

Joins the loaders (dali_pipelines), the model (engine, trt) and the journal.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.labelling_options import Asked
from engine.data.folders import VIDEO_SUFFIXES
from engine.errors import UserError
from engine.labelling import writers
from engine.labelling.journal import Journal
from engine.labelling.source import A_LIST, Source, folder_of
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
    wanted = Wanted(include=asked.include, exclude=asked.exclude, shard=_parse_shard(asked.shard))
    source = Source(asked.videos[0], wanted, is_list=asked.is_list)
    outputs = outputs_of(asked)
    journal_path = journal_of(asked.out)
    from engine.commands.opened import class_names_of, digest_of

    digest = digest_of(asked.model)
    facts = {
        "classes": class_names_of(asked.model), "window": asked.window_s, "stride": asked.stride_s,
        "shard": asked.shard, "model": digest, "root": source.root,
        "include": sorted(asked.include), "exclude": sorted(asked.exclude),
    }  # fmt: skip
    if asked.dry_run:
        return _dry_run(asked, source, journal_path, facts)
    total = _count(source)  # before there is a journal of nothing
    make_folders(asked)
    if asked.fresh:
        Journal.remove(journal_path)
    with Journal(journal_path) as journal:
        journal.bind(facts, mix=asked.mix)
        if asked.retry:
            journal.forget_failures()
        style = style_of(asked, facts)
        label_all = (_on_cluster if asked.cluster else _here)(asked, journal, digest)
        started = time.perf_counter()
        tally = _with_progress(journal.noting(source.items()), total, label_all)
        seconds = time.perf_counter() - started
        _end(asked, source, journal, outputs, style, tally, seconds)
        while asked.watch:
            time.sleep(POLL_S)
            more = label_all(_settled(journal.noting(source.items())), lambda tally: None)
            if more.done or more.failed:
                _end(asked, source, journal, outputs, style, more, 0.0)
        _, num_failed = journal.counts()
    return 1 if num_failed or tally.away or source.skipped else 0


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


def _parse_shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    number, _, count = text.partition("/")
    if not number.isdigit() or not count.isdigit() or not 1 <= int(number) <= int(count):
        raise UserError(f"--shard takes i/n with i from 1 to n, as in 2/8, not {text!r}.")
    return int(number) - 1, int(count)


def outputs_of(asked: Asked) -> writers.Outputs:
    outputs = writers.Outputs(
        labels=asked.out,
        format=writers.format_of(asked.out, asked.format),
        failures=writers.failures_of(asked.out),
        segments=asked.segments,
        subtitles=asked.subtitles,
    )
    _check_names(asked, outputs)
    return outputs


def _check_names(asked: Asked, outputs: writers.Outputs) -> None:
    """Nothing is written over another output, over the list that is read, or over a video."""
    written = [outputs.labels, journal_of(outputs.labels), outputs.failures]
    if outputs.segments is not None:
        written.append(outputs.segments)
    taken = [path.resolve() for path in asked.videos] if asked.is_list else []
    for path in written:
        if path.resolve() in taken:
            raise UserError(f"{path} would be written over: give each output a name of its own.")
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise UserError(f"{path} has the name of a video: name a file for the results.")
        taken.append(path.resolve())


def make_folders(asked: Asked) -> None:
    """In which the results will lie."""
    for path in (asked.out, asked.segments):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)


def style_of(asked: Asked, facts: dict[str, Any]) -> writers.Style:
    smooth_s = asked.smooth_s
    if smooth_s is None:
        smooth_s = 2 * (facts["window"] or 0.0)
    return writers.Style(
        class_names=facts["classes"], root=folder_of(facts.get("root", A_LIST)), top_k=asked.top_k,
        min_confidence=asked.min_confidence, smooth_s=smooth_s,
    )  # fmt: skip


def journal_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal")


def _count(source: Source) -> int:
    from engine.progress import progress_bar

    total = there = 0
    with progress_bar("Finding videos", total=None, unit="files") as advance:
        for item in source.items():
            total += 1
            there += item.is_there
            advance()
    source.check(total, there)
    return total


def _with_progress(items: Iterator[Item], total: int, label_all: LabelAll) -> "Tally":
    from engine.progress import progress_bar

    with progress_bar("Labelling", total=total, unit="files") as advance:
        return label_all(items, lambda tally: advance(f"{tally.failed:,} failed"))


def _end(
    asked: Asked,
    source: Source,
    journal: Journal,
    outputs: writers.Outputs,
    style: writers.Style,
    tally: "Tally",
    seconds: float,
) -> None:
    """Write the results: of what this run found, or with --mix of all that was ever labelled."""
    num_left_out = 0
    if asked.mix:
        journal.leave_out_nothing()
    else:
        num_left_out = journal.leave_out_others(unread=source.skipped)
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
    for words in (tally.report.describe_damage(), tally.report.describe_streams()):
        if words:
            print(words)
    if num_left_out:
        print(
            f"{num_left_out:,} files of earlier runs aren't in {source.name} now and were left "
            "out of the results; --mix keeps them in"
        )
    if source.skipped:
        print(_words_on_skipped(source.skipped))


def _words_on_skipped(skipped: dict[str, str]) -> str:
    shown = [f"{name} ({reason})" for name, reason in list(skipped.items())[:SHOWN]]
    if len(skipped) > len(shown):
        shown.append("…")
    return f"{len(skipped):,} folders or links couldn't be looked into: {', '.join(shown)}"


def _settled(items: Iterator[Item]) -> Iterator[Item]:
    latest = time.time_ns() - int(SETTLED_S * 1e9)
    return (item for item in items if item.mtime_ns <= latest)


def _dry_run(asked: Asked, source: Source, journal_path: Path, facts: dict[str, Any]) -> int:
    if asked.fresh or not journal_path.exists():
        return _say_what_is_left(source, lambda item: False)
    with Journal.copy_of(journal_path) as journal:
        journal.check(facts, mix=asked.mix)
        if asked.retry:
            journal.forget_failures()
        return _say_what_is_left(source, lambda item: journal.stands(item)[0])


def _say_what_is_left(source: Source, is_done: Callable[[Item], bool]) -> int:
    shown: list[str] = []
    total = known = 0
    for item in source.items():
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
    if source.skipped:
        print(_words_on_skipped(source.skipped))
    return 0
