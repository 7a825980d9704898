"""Where the results of a run lie, and which files that are there already it may replace."""

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
    """Nothing is written over another output, over the list that is read, or over a video."""
    written = [outputs.labels, journal_of(outputs.labels), outputs.failures]
    if outputs.segments is not None:
        written.append(outputs.segments)
    taken = [path.resolve() for path in options.videos] if options.is_list or options.merge else []
    for path in written:
        if path.resolve() in taken:
            raise UserError(f"{path} would be written over: give each output a name of its own.")
        if path.suffix == ".journal" and path != journal_of(outputs.labels):
            raise UserError(f"{path} has the name of a journal: name a file for the results.")
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise UserError(f"{path} has the name of a video: name a file for the results.")
        taken.append(path.resolve())


def claimed_before(outputs: writers.Outputs, *, fresh: bool) -> list[Path]:
    """Files there that this run may replace; raises where one is another's."""
    own = journal_of(outputs.labels)
    for path in outputs.tables:
        if path != outputs.labels and journal_of(path).exists():
            raise UserError(f"{path} is the result of another run: name another file or --out.")
    there = [path for path in outputs.tables if path.exists()]
    if fresh:
        return [outputs.labels, *there]
    ours: list[Path] = []
    if own.exists():
        with Journal(own) as journal:
            if journal.facts():
                is_old = not journal.claims.paths()  # from before they were kept
                ours = [path for path in there if is_old or journal.claims.holds(path)]
                ours.append(outputs.labels)
    for path in there:
        if path not in ours:
            fresh_too = ", or pass --fresh to replace it" if path == outputs.labels else ""
            raise UserError(
                f"{path} is there already and is not as a run with this --out has written it: "
                f"remove it, or name another file{fresh_too}."
            )
    return [outputs.labels, *ours]


def make_folders(options: LabelOptions) -> None:
    """In which the results will lie."""
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


def words_on_left_alone(subtitles: list[Path]) -> str:
    shown = ", ".join(map(str, subtitles[:SHOWN])) + (", …" if len(subtitles) > SHOWN else "")
    return (
        f"{len(subtitles):,} subtitles were there before and are not of this --out, so they were "
        f"left as they are: {shown}; remove them, or name another --vtt folder"
    )
