"""Selects configurations: the Pareto front of clips/s and accuracy, and a budget on either."""

from benchmarks.rows import BenchRow


def on_front(rows: list[BenchRow]) -> list[bool]:
    """Return for each row whether it is on the Pareto front, that is not dominated by another."""
    return [not any(_dominates(other, row) for other in rows) for row in rows]


def _dominates(a_row: BenchRow, b_row: BenchRow) -> bool:
    """Whether the first row is at least as fast and accurate, and better in one of the two."""
    pairs = [
        (a_row["clips_per_s"], b_row["clips_per_s"]),
        (a_row["top1"], b_row["top1"]),
    ]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def pick(
    rows: list[BenchRow], *, target_clips_per_s: float | None = None, max_drop: float | None = None
) -> BenchRow | None:
    """Pick the row that fits a budget.

    Args:
        rows: Rows of results.
        target_clips_per_s: Minimum speed; the most accurate row that reaches it is picked.
        max_drop: Maximum loss of accuracy in points, compared to the most accurate row; the
            fastest row within it is picked.

    Returns:
        The picked row, or None if no row fits.
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
