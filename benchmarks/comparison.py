"""Two results of the same bench, row by row: what became slower or less accurate beyond noise."""

from dataclasses import dataclass
from typing import Any

MIN = 0.03
"""A smaller change of the median is no change, however narrow the spreads."""
POINTS = 0.5
"""So much less accuracy is a regression."""


@dataclass(frozen=True, kw_only=True)
class Change:
    name: str
    before: float
    after: float
    noise: float
    """The share by which a median of these repeats may differ for no reason."""
    points: float | None
    """Of accuracy gained."""

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
    """The rows that both have, and the names of those that only one has."""
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


def _rows(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    rows = {}
    for row in result["rows"]:
        if "error" not in row:
            more = [f"{key} {row[key]}" for key in ("batch", "views") if key in row]
            rows[", ".join([row["name"], *more])] = row
    return rows
