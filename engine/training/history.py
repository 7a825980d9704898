"""Writes a run's metrics: history.csv and curves.png; engine/tracking sends them to others."""

import csv
from pathlib import Path

from engine import atomic

HISTORY, CURVES = "history.csv", "curves.png"


def write(run: Path, rows: list[dict[str, float]]) -> None:
    """Write history.csv, with one row for each epoch."""
    if rows:
        values = [[f"{value:.6g}" for value in row.values()] for row in rows]
        atomic.write_csv(run / HISTORY, list(rows[0]), values)


def read(run: Path) -> list[dict[str, float]]:
    """Read history.csv; empty if no epoch is finished."""
    path = run / HISTORY
    if not path.is_file():
        return []
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def draw_curves(run: Path, rows: list[dict[str, float]], title: str) -> Path | None:
    """Plot training and validation loss and accuracy over the epochs; None without epochs."""
    if not rows:
        return None
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    epochs = [row["epoch"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    for axes, name, label in ((left, "loss", "loss"), (right, "top1", "top-1 accuracy")):
        for split, marker in (("train", "o"), ("val", "s")):
            axes.plot(
                epochs,
                [row[f"{split}_{name}"] for row in rows],
                marker=marker,
                markersize=3,
                label={"train": "training", "val": "validation"}[split],
            )
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1)
    path = run / CURVES
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
