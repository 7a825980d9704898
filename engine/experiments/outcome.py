"""Writes the results of an experiment beside published ones: a table, JSON, CSV and a chart."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from engine import atomic
from engine.experiments.experiment import FIGURES, Experiment
from engine.experiments.trial import Result

OURS = {"top1": "top1", "top5": "top5", "f1": "f1_weighted"}


def write(out: Path, experiment: Experiment, results: list[Result], command: str) -> Path:
    """Write results.json, results.csv and results.png to `out`; return the path of the chart."""
    rows = _rows(experiment, results)
    with atomic.new_text(out / "results.json") as file:
        facts = {"title": experiment.title, "command": command, "views": experiment.views}
        json.dump({**facts, "rows": rows}, file, indent=2)
        file.write("\n")
    names = ["scheme", "varied", "val", *FIGURES, "low", "high", "published", "error"]
    atomic.write_csv(
        out / "results.csv", names, [[_cell(row[name]) for name in names] for row in rows]
    )
    return _draw(out / "results.png", experiment, rows)


def print_table(experiment: Experiment, results: list[Result]) -> None:
    """Print the results as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(experiment.title), caption=escape(experiment.about) or None)
    for name in ("split", "varied"):
        table.add_column(name)
    for name in ("validation", "top-1", "95%", "top-5", "F1", "published top-1"):
        table.add_column(name, justify="right")
    for row in _rows(experiment, results):
        if row["error"]:
            table.add_row(row["scheme"], escape(row["varied"]), "failed", escape(row["error"]))
            continue
        table.add_row(
            row["scheme"],
            escape(row["varied"]),
            f"{row['val']:.3f}",
            f"{row['top1']:.1f}",
            f"{row['low']:.1f} – {row['high']:.1f}",
            f"{row['top5']:.1f}",
            f"{row['f1']:.3f}",
            _published(row["published"].get("top1")),
        )
    Console().print(table)


def _rows(experiment: Experiment, results: list[Result]) -> list[dict[str, Any]]:
    """One row for each result; descriptions that occur twice are replaced by longer ones."""
    rows = [_row(experiment, result) for result in results]
    names = Counter((row["scheme"], row["varied"]) for row in rows)
    for row, result in zip(rows, results, strict=True):
        if names[row["scheme"], row["varied"]] > 1:
            row["varied"] = result.trial.describe(whole=True)
    return rows


def _row(experiment: Experiment, result: Result) -> dict[str, Any]:
    trial, figures = result.trial, result.figures
    row: dict[str, Any] = {
        "scheme": trial.scheme,
        "varied": trial.describe(),
        "settings": trial.settings,
        "published": experiment.published_for(trial),
        "val": result.val if math.isfinite(result.val) else None,
        "error": result.error,
        "low": None,
        "high": None,
    }
    for name, scale in FIGURES.items():
        row[name] = figures[OURS[name]] * scale if figures else None
    if figures:
        row["low"], row["high"] = (100 * end for end in figures["top1_interval"])
    return row


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_published(entry)}" for key, entry in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value if value is not None else "")


def _published(value: Any) -> str:
    """A published number or range as text."""
    if value is None:
        return "–"
    return "–".join(map(str, value)) if isinstance(value, list) else str(value)


def _draw(path: Path, experiment: Experiment, rows: list[dict[str, Any]]) -> Path:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["text.parse_math"] = False  # titles may contain dollar signs
    from matplotlib import pyplot as plt

    done = [row for row in rows if not row["error"]]
    several = len({row["scheme"] for row in rows}) > 1
    labels = [f"{row['varied']} ({row['scheme']})" if several else row["varied"] for row in done]
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.45 * max(1, len(done))), layout="constrained")
    for place, row in enumerate(done):
        ends = [[row["top1"] - row["low"]], [row["high"] - row["top1"]]]
        axes.barh(place, row["top1"], color="#4c78a8", label="ours" if place == 0 else None)
        axes.errorbar(row["top1"], place, xerr=ends, color="#222222", capsize=3)
        published = row["published"].get("top1")
        if published is not None:
            values = published if isinstance(published, list) else [published]
            axes.plot(values, [place] * len(values), "D", color="#e45756", zorder=3)
    if any(row["published"].get("top1") is not None for row in done):
        axes.plot([], [], "D", color="#e45756", label="published")
    axes.set_yticks(range(len(done)), labels)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="test top-1, %, with 95% interval", title=experiment.title)
    if done:
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
