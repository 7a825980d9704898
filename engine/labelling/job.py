"""The steps of `engine label`: find videos, open the model, label, write; repeated with --watch."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engine.errors import UserError
from engine.labelling import addresses, journal_file, writers
from engine.labelling.discovery import FileFilter, Item
from engine.labelling.journal import Journal
from engine.labelling.options import LabelOptions
from engine.labelling.outputs import (
    claimed_before,
    describe_left_alone,
    journal_of,
    make_folders,
    outputs_of,
    style_of,
)
from engine.labelling.source import Source, folder_of, is_gone, may_be_there

if TYPE_CHECKING:
    from engine.labelling.decoder_choice import Decoder
    from engine.labelling.label import LabelSettings, Progress

POLL_S = 2.0
POLL_FACTOR = 20
"""--watch waits at least this many times as long as scanning the folder takes."""
SETTLED_S = 5.0
"""--watch labels a new file once it hasn't changed for this long."""
SHOWN = 10


def run(options: LabelOptions) -> int:
    """Run `engine label` and return its exit code."""
    model = _model_of(options)
    wanted = FileFilter(
        include=options.include, exclude=options.exclude, shard=_parse_shard(options.shard)
    )
    source = Source(options.videos[0], wanted, is_list=options.is_list)
    outputs = outputs_of(options)
    journal_path = journal_of(options.out)
    from engine.predictor import class_names_of, digest_of

    digest = digest_of(model)
    facts: dict[str, Any] = {
        "classes": class_names_of(model),
        "window": options.window_s, "stride": options.stride_s,
        "shard": options.shard, "model": digest, "root": source.root,
        "include": sorted(options.include), "exclude": sorted(options.exclude),
    }  # fmt: skip
    if options.decoder != "auto":
        facts["decoder"] = options.decoder
    if options.dry_run:
        return _dry_run(options, source, journal_path, facts)
    started = time.perf_counter()
    total = _count(source)  # raises before a journal is created
    scan_s = time.perf_counter() - started
    make_folders(options)
    if journal_path.exists() and not options.fresh:
        with Journal(journal_path) as journal:
            facts = _resumed_facts(facts, journal, source, mix=options.mix)
            journal.check(facts, mix=options.mix)
            facts = {"decoder": journal.facts().get("decoder", "pyav"), **facts}
    claimed = claimed_before(outputs, fresh=options.fresh)
    if options.cluster:
        label_all = _on_cluster(options, digest)
    else:
        label_all, facts["decoder"] = _locally(options, digest, source, facts.get("decoder"))
    if options.fresh:
        journal_file.remove(journal_path)
    with Journal(journal_path) as journal:
        journal.claims.add(claimed)  # before the facts: a journal without claims counts as old
        journal.bind(facts, mix=options.mix)
        if options.retry:
            journal.forget_failures()
        style = style_of(options, facts)
        started = time.perf_counter()
        tally = _with_progress(journal, source, total, label_all)
        seconds = time.perf_counter() - started
        if source.is_away():
            raise UserError(
                f"{source.name} disappeared during labelling: labels so far are kept, and the same "
                "command resumes when it is back. The results were not changed."
            )
        if options.mix:
            journal.leave_out_nothing()
        else:
            journal.leave_out_others(unread=source.skipped)
        left_alone = _write_results(options, source, journal, outputs, style, tally, seconds)
        if options.watch:
            _watch(options, source, journal, outputs, style, label_all, scan_s)
        _, num_failed = journal.counts()
    return 1 if num_failed or tally.away or source.skipped or left_alone else 0


def _model_of(options: LabelOptions) -> Path:
    """The model; raises UserError if options don't fit together."""
    if options.model is None:
        raise UserError("name a run or an artifact with `model`.")
    if len(options.videos) != 1:
        raise UserError("`engine label` takes one folder, or one list with `list=True`.")
    if options.stride_s is not None and options.window_s is None:
        raise UserError("`stride` needs `window`.")
    if options.watch and (options.is_list or options.cluster or _is_remote(options)):
        raise UserError(
            "`watch=True` needs a folder on this machine, without `list` and `cluster`."
        )
    if options.decoder == "auto" and _is_remote(options):
        raise UserError(
            "`decoder='auto'` measures files of this machine: name a decoder for files on servers."
        )
    return options.model


def _is_remote(options: LabelOptions) -> bool:
    return addresses.is_address(options.videos[0])


def _watch(
    options: LabelOptions,
    source: Source,
    journal: Journal,
    outputs: writers.Outputs,
    style: writers.OutputStyle,
    label_all: "LabelAll",
    scan_s: float,
) -> NoReturn:
    """Scan the folder again and again, and label what is new, until Ctrl-C."""
    while True:
        time.sleep(max(POLL_S, POLL_FACTOR * scan_s))
        if source.is_away():
            continue
        started = time.perf_counter()
        items = _settled(journal.noting(source.items()))
        new = label_all(journal, items, lambda tally: None)
        if not new.done and not new.failed:
            scan_s = time.perf_counter() - started
        has_changed = (
            not options.mix
            and not source.is_away()
            and journal.leave_out_others(unread=source.skipped)
        )
        if new.done or new.failed or has_changed:
            _write_results(options, source, journal, outputs, style, new, 0.0)


def _resumed_facts(
    facts: dict[str, Any], journal: Journal, source: Source, *, mix: bool
) -> dict[str, Any]:
    """The facts of a resumed run, with the journal's root if --mix adds another folder.

    Files of the other folder then get absolute paths as names, so that equal names stay apart. A
    folder that was only moved keeps its names.
    """
    root = journal.facts().get("root")
    if not mix or root in (None, source.root):
        return facts
    if is_gone(root):
        known = {journal.knows(item) for item in source.items()}
        if True in known and False not in known:
            return facts
    source.beside = folder_of(root)
    return {**facts, "root": root}


LabelAll = Callable[[Journal, Iterator[Item], "Callable[[Progress], None]"], "Progress"]


def _locally(
    options: LabelOptions, digest: str, source: Source, decoder: "Decoder | None"
) -> "tuple[LabelAll, Decoder]":
    """Open the model; also returns the decoder, which is measured if it is None."""
    from engine.labelling import decoder_choice
    from engine.labelling.label import label
    from engine.memory import keep_freed_memory
    from engine.predictor import open_predictor

    assert options.model is not None
    predictor = open_predictor(options.model, options.device)
    gpu = predictor.device.index
    if gpu is None:
        keep_freed_memory()
    if decoder is None and gpu is None:
        decoder = "pyav"
    if decoder is None:
        print("Measuring the decoders …")
        rates = decoder_choice.measure(
            (item.path for item in source.items() if not item.address), predictor.clip, gpu=gpu,
            window_s=options.window_s, stride_s=options.stride_s, batch_size=options.batch_size,
        )  # fmt: skip
        print("\n".join(decoder_choice.describe(rates)))
        decoder = decoder_choice.faster_kinds(rates)
    if decoder not in ("pyav", []):
        decoder_choice.require_gpu(gpu)
    settings = _settings(options, digest, decoder)
    return lambda journal, items, on_file: label(
        items, predictor, journal, settings, on_file=on_file
    ), decoder


def _on_cluster(options: LabelOptions, digest: str) -> LabelAll:
    from engine.labelling.cluster import label_on_cluster, require_ray

    require_ray()
    assert options.model is not None
    model, device = options.model.absolute(), options.device
    settings = _settings(options, digest, "nvdec" if options.decoder == "nvdec" else "pyav")
    return lambda journal, items, on_file: label_on_cluster(
        items, model, journal, settings, device=device, workers=options.workers, on_file=on_file
    )


def _settings(options: LabelOptions, digest: str, decoder: "Decoder") -> "LabelSettings":
    from engine.labelling.label import LabelSettings

    return LabelSettings(
        model=digest,
        window_s=options.window_s,
        stride_s=options.stride_s,
        batch_size=options.batch_size,
        timeout_s=options.timeout_s,
        decoder=decoder,
        max_download_bytes=int(options.max_download_gb * 1e9),
    )


def _parse_shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    number, _, count = text.partition("/")
    if not number.isdigit() or not count.isdigit() or not 1 <= int(number) <= int(count):
        raise UserError(f"`shard` takes i/n with i from 1 to n, as in 2/8, not {text!r}.")
    return int(number) - 1, int(count)


def _count(source: Source) -> int:
    from engine.progress import progress_bar

    total = num_existing = 0
    with progress_bar("Finding videos", total=None, unit="files") as advance:
        for item in source.items():
            total += 1
            num_existing += may_be_there(item)
            advance()
    source.check(total, num_existing)
    return total


def _with_progress(journal: Journal, source: Source, total: int, label_all: LabelAll) -> "Progress":
    from engine.progress import progress_bar

    items = journal.noting(source.items())
    with progress_bar("Labelling", total=total, unit="files") as advance:
        return label_all(journal, items, lambda tally: advance(f"{tally.failed:,} failed"))


def _write_results(
    options: LabelOptions,
    source: Source,
    journal: Journal,
    outputs: writers.Outputs,
    style: writers.OutputStyle,
    tally: "Progress",
    seconds: float,
) -> int:
    """Write the results and print a summary; returns how many subtitles were not written."""
    written = writers.write(journal, outputs, style)
    if not source.skipped:
        journal.finish()
    for path in written.files:
        print(f"written to {path}")
    num_left_out = journal.num_left_out()
    parts = [f"{tally.done:,} files labelled ({tally.windows:,} windows)"]
    if seconds and tally.done:
        parts.append(f"{tally.done / seconds:,.1f} files/s")
    if tally.known:
        parts.append(f"{tally.known:,} were labelled before")
    if tally.away:
        parts.append(f"{tally.away:,} of these don't exist at the moment and keep their labels")
    if tally.halved:
        parts.append(f"batch size halved {tally.halved} times because memory ran out")
    parts.append(f"{tally.failed:,} failed" + (f": see {outputs.failures}" if tally.failed else ""))
    print("; ".join(parts))
    report = tally.report
    for message in (report.describe_damage(), report.describe_streams(), report.describe_refused()):
        if message:
            print(addresses.with_slashes(message))
    if num_left_out:
        print(
            f"{num_left_out:,} files of earlier runs are no longer in {source.name} and were left "
            "out of the results; --mix keeps them"
        )
    if source.skipped:
        print(_describe_skipped(source.skipped))
    if written.left_alone:
        print(describe_left_alone(written.left_alone))
    return len(written.left_alone)


def _describe_skipped(skipped: dict[str, str]) -> str:
    shown = [f"{name} ({reason})" for name, reason in list(skipped.items())[:SHOWN]]
    if len(skipped) > len(shown):
        shown.append("…")
    return f"{len(skipped):,} folders or links couldn't be read: {', '.join(shown)}"


def _settled(items: Iterator[Item]) -> Iterator[Item]:
    now = time.time_ns()
    latest = now - int(SETTLED_S * 1e9)
    return (item for item in items if not latest < item.mtime_ns <= now)


def _dry_run(
    options: LabelOptions, source: Source, journal_path: Path, facts: dict[str, Any]
) -> int:
    if options.fresh or not journal_path.exists():
        return _print_pending(source, lambda item: False)
    with Journal.copy_of(journal_path) as journal:
        facts = _resumed_facts(facts, journal, source, mix=options.mix)
        journal.check(facts, mix=options.mix)
        if options.retry:
            journal.forget_failures()
        return _print_pending(source, lambda item: journal.status(item, facts["model"])[0])


def _print_pending(source: Source, is_done: Callable[[Item], bool]) -> int:
    shown: list[str] = []
    total = known = 0
    from engine.labelling.remote_files import all_looked_up

    for item in all_looked_up(source.items()):
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
        print(_describe_skipped(source.skipped))
    return 0
