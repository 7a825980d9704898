"""Writes the report of one or more runs as JSON, CSV, PNG, GIF and a self-contained HTML page.

OUT/report.json  report.html                for all runs, or all folds after their pooled results
    NAME/predictions.csv  per_class.csv     for each run
         confusion.png  confused/*.gif
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import atomic
from engine.evaluation import filmstrips
from engine.evaluation.metrics import most_confused
from engine.evaluation.results import Confused, Evaluated, are_repeats, mean_and_std
from engine.html import embed_png

REPORT = "report.json"
MAX_PAIRS = 6
EXAMPLES = 2


def folder_of(run: Path, *, split: str, views: str, data: Path | None = None) -> Path:
    """The default folder of a run's report; each combination of the arguments has its own.

    Args:
        run: The run's folder.
        split: The evaluated split.
        views: The views, as in `10x3`.
        data: The dataset's folder; None for the run's own dataset.
    """
    parts = [split, views]
    if data is not None:
        path = str(data.absolute()).encode(errors="surrogateescape")
        parts += [data.absolute().name, hashlib.sha256(path).hexdigest()[:6]]
    is_default = parts == ["test", "1x1"]
    return run / ("evaluation" if is_default else f"evaluation-{'-'.join(parts)}")


def read(folder: Path) -> list[dict[str, Any]]:
    """Read report.json: one entry for each run."""
    return json.loads((folder / REPORT).read_text())


def write(out: Path, runs: list[Evaluated], folds: Sequence[Evaluated] = ()) -> Path:
    """Write all files of the report to `out`; return the path of the HTML page.

    `folds` are those of a cross-validation, whose pooled results are the only one in `runs`. Their
    tables are written too, and they follow in report.json.
    """
    from engine.evaluation import page

    out.mkdir(parents=True, exist_ok=True)
    parts = []
    for run in runs:
        folder = out / run.name
        (folder / "confused").mkdir(parents=True, exist_ok=True)
        _write_tables(folder, run)
        matrix = _draw_confusion(folder / "confusion.png", run)
        parts.append((run, embed_png(matrix), _confused_clips(folder / "confused", run)))
    for fold in folds:
        (out / fold.name).mkdir(exist_ok=True)
        _write_tables(out / fold.name, fold)
    entries = [_as_json(run) for run in [*runs, *folds]]
    if folds:
        entries[0]["over_folds"] = {key: _over(folds, key) for key in page.HEADLINES}
    with atomic.new_text(out / REPORT) as file:
        json.dump(entries, file, indent=2)
        file.write("\n")
    path = out / "report.html"
    with atomic.new_text(path) as file:
        repeats = folds or (runs if are_repeats(runs) else ())
        file.write(page.render(parts, repeats=repeats, folds=folds))
    return path


def _over(folds: Sequence[Evaluated], metric: str) -> dict[str, float | None]:
    mean, std = mean_and_std([fold.scores[metric] for fold in folds])
    return {"mean": mean, "std": std}


def _as_json(run: Evaluated) -> dict[str, Any]:
    return {
        "name": run.name,
        "protocol": dataclasses.asdict(run.protocol),
        "classes": run.class_names,
        **run.levels,
        "failures": {str(path): reason for path, reason in run.predictions.failures.items()},
    }


def _write_tables(folder: Path, run: Evaluated) -> None:
    probabilities_NC = run.predictions.of_videos_NC
    atomic.write_csv(
        folder / "predictions.csv",
        ("path", "label", "predicted", "confidence"),
        [
            (row.path, run.class_names[row.label], run.class_names[best], f"{probs[best]:.4f}")
            for row, probs in zip(run.predictions.rows, probabilities_NC, strict=True)
            for best in [int(probs.argmax())]
        ],
    )
    figures = run.levels["video"]
    counts = [sum(row) for row in figures["confusion"]]
    names = ("precision", "recall", "f1")
    atomic.write_csv(
        folder / "per_class.csv",
        ("class", "clips", *names),
        [
            (label, counts[index], *(f"{figures['per_class'][name][index]:.4f}" for name in names))
            for index, label in enumerate(run.class_names)
        ],
    )


def _draw_confusion(path: Path, run: Evaluated) -> Path:
    import matplotlib as mpl
    import numpy as np

    mpl.use("Agg")
    mpl.rcParams["text.parse_math"] = False  # class names may contain dollar signs
    from matplotlib import pyplot as plt

    matrix = np.array(run.levels["video"]["confusion"])
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    names = [name.encode(errors="backslashreplace").decode() for name in run.class_names]
    count = len(names)
    side = max(4.0, 1.5 + 0.32 * count)
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(count), yticks=range(count))
    axes.set_xticklabels(names, rotation=90)
    axes.set_yticklabels(names)
    if count <= 30:
        for (true, predicted), number in np.ndenumerate(matrix):
            if number:
                dark = shares[true, predicted] > 0.5
                axes.text(predicted, true, number, ha="center", va="center", fontsize=8,
                          color="white" if dark else "black")  # fmt: skip
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _confused_clips(folder: Path, run: Evaluated) -> list[Confused]:
    """The most confident errors for each of the most frequent confusions."""
    probabilities_NC = run.predictions.of_videos_NC
    shown: list[Confused] = []
    for true, predicted, _ in most_confused(run.levels["video"]["confusion"], MAX_PAIRS):
        wrong = [
            number
            for number, row in enumerate(run.predictions.rows)
            if row.label == true and int(probabilities_NC[number].argmax()) == predicted
        ]
        most_confident = sorted(wrong, key=lambda number: -probabilities_NC[number].max())
        for number in most_confident[:EXAMPLES]:
            row = run.predictions.rows[number]
            frames = filmstrips.frames_of(row, run.spec)
            label = re.sub(r"[/\0]", "_", run.class_names[true])[:50]  # may be any text
            gif = folder / f"{len(shown):02}_{label}.gif"
            filmstrips.write_gif(gif, frames)
            shown.append(
                Confused(
                    row=row,
                    true=run.class_names[true],
                    predicted=run.class_names[predicted],
                    confidence=float(probabilities_NC[number].max()),
                    strip=filmstrips.strip_as_jpeg(frames),
                    gif=gif,
                )
            )
    return shown
