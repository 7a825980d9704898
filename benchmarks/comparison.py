"""Compares two results row by row: what became slower or less accurate beyond noise."""

from dataclasses import dataclass
from typing import Any

from benchmarks.rows import BenchRow

MIN = 0.03
"""Smaller changes of the median are ignored, even if the spreads are narrow."""
POINTS = 0.5
"""A larger loss of accuracy is a regression."""


@dataclass(frozen=True, kw_only=True)
class Change:
    name: str
    before: float
    after: float
    noise: float
    """Fraction by which the median may differ by chance."""
    points: float | None
    """Gain of accuracy in points."""

    @property
    def ratio(self) -> float:
        return self.after / self.before

    @property
    def verdict(self) -> str:
        if self.points is not None and self.points < -POINTS:
            return "less accurate"
        if self.ratio < 1 - self.noise:
            return "slower"
        return "faster" if self.ratio > 1 + self.noise else "within noise"

    @property
    def is_regression(self) -> bool:
        return self.verdict in ("slower", "less accurate")


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[Change], list[str]]:
    """Return changes of common rows, and the names of rows that only one result has."""
    old, new = _rows(before), _rows(after)
    changes = []
    for name in old.keys() & new.keys():
        points = None
        if "top1" in old[name] and "top1" in new[name]:
            points = 100 * (new[name]["top1"] - old[name]["top1"])
        spreads = old[name]["spread"] + new[name]["spread"]
        changes.append(
            Change(
                name=name,
                before=old[name]["clips_per_s"],
                after=new[name]["clips_per_s"],
                noise=max(MIN, spreads / 2),
                points=points,
            )
        )
    order = list(old)
    changes.sort(key=lambda change: order.index(change.name))
    return changes, sorted(old.keys() ^ new.keys())


def _rows(result: dict[str, Any]) -> dict[str, BenchRow]:
    rows: dict[str, BenchRow] = {}
    for row in result["rows"]:
        if "error" not in row:
            settings = [f"{key} {row[key]}" for key in ("batch", "views") if key in row]
            rows[", ".join([row["name"], *settings])] = row
    return rows
