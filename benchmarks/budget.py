"""Which configuration to take: the Pareto front of clips/s and accuracy, and budgets on either."""

from typing import Any

Row = dict[str, Any]


def on_front(rows: list[Row]) -> list[bool]:
    """Whether no other row is at least as fast and as accurate, and better in one of the two."""
    return [not any(_dominates(other, row) for other in rows) for row in rows]


def _dominates(one: Row, other: Row) -> bool:
    pairs = [(one[key], other[key]) for key in ("clips_per_s", "top1")]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def pick(
    rows: list[Row], *, target_clips_per_s: float | None = None, max_drop: float | None = None
) -> Row | None:
    """The most accurate of those that are fast enough, the fastest of those accurate enough.

    `max_drop` is in points below the most accurate row. None where no row keeps the budget.
    """
    best = max((row["top1"] for row in rows), default=0.0)
    fitting = [
        row
        for row in rows
        if (target_clips_per_s is None or row["clips_per_s"] >= target_clips_per_s)
        and (max_drop is None or 100 * (best - row["top1"]) <= max_drop + 1e-9)
    ]
    if max_drop is None:
        return max(fitting, key=lambda row: (row["top1"], row["clips_per_s"]), default=None)
    return max(fitting, key=lambda row: (row["clips_per_s"], row["top1"]), default=None)
