"""Renders the report as one self-contained HTML page."""

import dataclasses
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from engine.evaluation.results import mean_and_std
from engine.html import document, table

if TYPE_CHECKING:
    from engine.evaluation.results import Confused, Evaluated

HEADLINES = {
    "top1": "top-1",
    "top5": "top-5",
    "precision_macro": "precision, macro",
    "recall_macro": "recall, macro",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "calibration_error": "calibration error",
}
PERCENT = {"top1", "top5"}


def render(
    parts: "Sequence[tuple[Evaluated, str, list[Confused]]]",
    *,
    repeats: "Sequence[Evaluated]" = (),
    folds: "Sequence[Evaluated]" = (),
) -> str:
    """Render the page.

    Args:
        parts: For each run: its results, a data URL of its confusion matrix, and misclassified
            clips.
        repeats: Runs over which to show the mean; see `results.are_repeats`.
        folds: The folds of a cross-validation whose pooled results are in `parts`.
    """
    runs = [run for run, _, _ in parts]
    body = [
        "<h1>Evaluation</h1>",
        _figures(runs, repeats, "over folds" if folds else "of videos"),
        *([_folds(folds)] if folds else []),
        _protocols(runs),
        *(_details(run, matrix, confused) for run, matrix, confused in parts),
    ]
    return document("Evaluation", body)


def _figures(runs: "Sequence[Evaluated]", repeats: "Sequence[Evaluated]", repeated: str) -> str:
    columns = [(run, level) for run in runs for level in run.levels]
    head = "".join(
        f"<th>{escape(run.name)}<br><span class=note>each {level}</span></th>"
        for run, level in columns
    )
    rows = []
    for key, title in HEADLINES.items():
        cells = [_cell(key, run.levels[level]) for run, level in columns]
        if repeats:
            cells.append(spread([run.levels["video"][key] for run in repeats], key in PERCENT))
        rows.append(f"<tr><td>{title}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    more = f"<th>mean ± std<br><span class=note>{repeated}</span></th>" if repeats else ""
    return f"<div class=wide><table><tr><th></th>{head}{more}</tr>{''.join(rows)}</table></div>"


def _cell(key: str, figures: dict[str, Any]) -> str:
    value = figures[key]
    if key not in PERCENT:
        return f"{value:.3f}"
    text = f"{value:.1%}"
    if key == "top1":
        low, high = figures["top1_interval"]
        text += f"<br><span class=note>{low:.1%} – {high:.1%}</span>"
    return text


def spread(values: Sequence[float], percent: bool) -> str:
    """Mean ± standard deviation over runs, as text; the mean alone for a single run."""
    mean, std = mean_and_std(values)
    if std is None:
        return f"{mean:.1%}" if percent else f"{mean:.3f}"
    return f"{mean:.1%} ± {100 * std:.1f}" if percent else f"{mean:.3f} ± {std:.3f}"


def _folds(folds: "Sequence[Evaluated]") -> str:
    rows = [
        (
            fold.name,
            ", ".join(names) if len(names := sorted(set(fold.sources))) <= 3 else str(len(names)),
            str(fold.scores["num_clips"]),
            *(f"{fold.scores[key]:.1%}" for key in ("top1", "top5")),
            f"{fold.scores['f1_macro']:.3f}",
        )
        for fold in folds
    ]
    heads = ("fold", "test sources", "test clips", "top-1", "top-5", "F1, macro")
    note = "<p>Each clip is tested once, by the run of the fold that holds it out.</p>"
    return "<h2>Folds</h2>" + note + table(heads, rows)


def _protocols(runs: "Sequence[Evaluated]") -> str:
    facts = [dataclasses.asdict(run.protocol) for run in runs]
    rows = [[name.replace("_", " "), *(str(run[name]) for run in facts)] for name in facts[0]]
    return "<h2>Protocol</h2>" + table(["", *(run.name for run in runs)], rows)


def _details(run: "Evaluated", matrix: str, confused: "list[Confused]") -> str:
    figures = run.levels["video"]
    counts = [sum(row) for row in figures["confusion"]]
    rows = [
        (
            name,
            str(counts[number]),
            *(
                f"{figures['per_class'][metric][number]:.3f}"
                for metric in ("precision", "recall", "f1")
            ),
        )
        for number, name in enumerate(run.class_names)
    ]
    strips = "".join(
        f'<figure><img alt="frames" src="{clip.strip}"><figcaption>{escape(clip.row.path.name)}: '
        f"{escape(clip.true)}, predicted as <b>{escape(clip.predicted)}</b> "
        f"(confidence {clip.confidence:.0%})</figcaption></figure>"
        for clip in confused
    )
    failures = "".join(
        f"<li>{escape(path.name)}: {escape(reason)}</li>"
        for path, reason in run.predictions.failures.items()
    )
    return (
        f"<h2>{escape(run.name)}</h2>"
        f'<img alt="confusion matrix" src="{matrix}">'
        f"<h3>Most confused</h3>{strips or '<p>Nothing was confused.</p>'}"
        "<h3>Classes</h3>"
        + table(("class", "clips", "precision", "recall", "F1"), rows)
        + (f"<h3>Files that could not be read</h3><ul>{failures}</ul>" if failures else "")
    )
