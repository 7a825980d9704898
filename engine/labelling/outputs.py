"""Paths of a run's outputs, and which existing files the run may replace."""

from pathlib import Path
from typing import Any

from engine.data.folders import VIDEO_SUFFIXES
from engine.errors import UserError
from engine.labelling import writers
from engine.labelling.journal import Journal
from engine.labelling.options import LabelOptions
from engine.labelling.source import A_LIST, folder_of

SHOWN = 10


def outputs_of(options: LabelOptions) -> writers.Outputs:
    outputs = writers.Outputs(
        labels=options.out,
        format=writers.format_of(options.out, options.format),
        failures=writers.failures_of(options.out),
        segments=options.segments,
        subtitles=options.subtitles,
    )
    _check_names(options, outputs)
    return outputs


def _check_names(options: LabelOptions, outputs: writers.Outputs) -> None:
    """Raise UserError if an output would overwrite another output, an input list or a video."""
    written = [outputs.labels, journal_of(outputs.labels), outputs.failures]
    if outputs.segments is not None:
        written.append(outputs.segments)
    is_read = options.is_list or options.merge
    taken = [Path(path).resolve() for path in options.videos] if is_read else []
    for path in written:
        if path.resolve() in taken:
            raise UserError(f"{path} would be overwritten: give each output its own name.")
        if path.suffix == ".journal" and path != journal_of(outputs.labels):
            raise UserError(f"{path} has the name of a journal: name a file for the results.")
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise UserError(f"{path} has the name of a video: name a file for the results.")
        taken.append(path.resolve())


def claimed_before(outputs: writers.Outputs, *, fresh: bool) -> list[Path]:
    """Existing output files that this run may replace.

    Raises:
        UserError: An existing file was not written by an earlier run with the same --out.
    """
    own = journal_of(outputs.labels)
    for path in outputs.tables:
        if path != outputs.labels and journal_of(path).exists():
            raise UserError(f"{path} is the result of another run: name another file or `out`.")
    existing = [path for path in outputs.tables if path.exists()]
    if fresh:
        return [outputs.labels, *existing]
    ours: list[Path] = []
    if own.exists():
        with Journal(own) as journal:
            if journal.facts():
                is_old = not journal.claims.paths()  # written before claims were recorded
                ours = [path for path in existing if is_old or journal.claims.holds(path)]
                ours.append(outputs.labels)
    for path in existing:
        if path not in ours:
            fresh_hint = ", or pass `fresh=True` to replace it" if path == outputs.labels else ""
            raise UserError(
                f"{path} already exists and was not written by a run with this `out`: "
                f"remove it, or name another file{fresh_hint}."
            )
    return [outputs.labels, *ours]


def make_folders(options: LabelOptions) -> None:
    """Create the parent folders of the results."""
    for path in (options.out, options.segments):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)


def style_of(options: LabelOptions, facts: dict[str, Any]) -> writers.OutputStyle:
    smooth_s = options.smooth_s
    if smooth_s is None:
        smooth_s = 2 * (facts["window"] or 0.0)
    return writers.OutputStyle(
        class_names=facts["classes"], root=folder_of(facts.get("root", A_LIST)),
        top_k=options.top_k, min_confidence=options.min_confidence, smooth_s=smooth_s,
    )  # fmt: skip


def journal_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal")


def describe_left_alone(subtitles: list[Path]) -> str:
    shown = ", ".join(map(str, subtitles[:SHOWN])) + (", …" if len(subtitles) > SHOWN else "")
    return (
        f"{len(subtitles):,} subtitles existed before and were not written with this --out, so "
        f"they were kept: {shown}; remove them, or name another --vtt folder"
    )
