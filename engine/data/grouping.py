"""Assigns whole sources to splits and keeps the proportions of each class.

A source may have clips of several classes, so this is a packing problem. It is solved greedily,
largest source first, then by moving and swapping sources while this lowers the cost.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_STARTS = 4
MAX_PASSES = 50


def assign_sources(
    sources: Sequence[str], labels: Sequence[str], fractions: Sequence[float], seed: int
) -> list[int]:
    """Assign each clip to one of `len(fractions)` splits; clips of one source stay together.

    Args:
        sources: Source of each clip.
        labels: Class of each clip.
        fractions: Share of the clips that each split gets.
        seed: Seed of the random order. The result also depends on the order of the clips.

    Returns:
        The index of the split for each clip.
    """
    if not sources:
        return []
    source_names, source_of = np.unique(np.array(sources, dtype=object), return_inverse=True)
    class_names, class_of = np.unique(np.array(labels, dtype=object), return_inverse=True)
    counts = np.zeros((len(source_names), len(class_names)))
    np.add.at(counts, (source_of, class_of), 1)
    best: tuple[float, NDArray[np.int64]] | None = None
    for rng in np.random.default_rng(seed).spawn(NUM_STARTS):
        packing = _Packing(counts, np.array(fractions), rng)
        packing.assign_greedily()
        packing.improve()
        cost = packing.total_cost()
        if best is None or cost < best[0] - 1e-9:
            best = (cost, packing.part_of)
    assert best is not None
    return [int(part) for part in best[1][source_of]]


class _Packing:
    """An assignment of sources to splits, and its cost. A "part" is the index of a split."""

    def __init__(
        self, counts: NDArray[np.float64], fractions: NDArray[np.float64], rng: np.random.Generator
    ) -> None:
        self.rng = rng
        self.num_parts = len(fractions)
        self.classes = [np.flatnonzero(row) for row in counts]
        self.amounts = [row[cols] for row, cols in zip(counts, self.classes, strict=True)]
        totals = counts.sum(axis=0)
        self.target = np.outer(fractions, totals)
        self.filled = np.zeros_like(self.target)
        self.part_of = np.full(len(counts), -1, np.int64)
        # If a class has enough sources, leaving a split empty costs more than any imbalance.
        # Train is filled first, then test, then the splits between them.
        num_sources = (counts > 0).sum(axis=0)
        rank = [0, *range(2, self.num_parts), 1] if self.num_parts > 2 else [0, 1]
        self.empty_cost = np.array([totals**2 * 4 * (num_sources > r) for r in rank])

    def assign_greedily(self) -> None:
        sizes = np.array([amounts.sum() for amounts in self.amounts])
        tie_breakers = self.rng.permutation(len(sizes))
        for source in np.lexsort((tie_breakers, -sizes)):
            costs = [self._cost_of_adding(source, part) for part in range(self.num_parts)]
            self._add(source, int(np.argmin(costs)))

    def improve(self) -> None:
        for _ in range(MAX_PASSES):
            moved = sum(self._move(source) for source in self.rng.permutation(len(self.part_of)))
            if not moved:
                break
        self._swap_within_classes()

    def total_cost(self) -> float:
        return float(self._cell_costs(self.filled, slice(None)).sum())

    def _move(self, source: int) -> bool:
        here = int(self.part_of[source])
        self._remove(source)
        costs = [self._cost_of_adding(source, part) for part in range(self.num_parts)]
        there = int(np.argmin(costs))
        if costs[there] > costs[here] - 1e-9:
            there = here
        self._add(source, there)
        return there != here

    def _swap_within_classes(self) -> None:
        """Swap two sources of one class where moving only one of them would not lower the cost."""
        by_class: dict[int, list[int]] = {}
        for source, classes in enumerate(self.classes):
            if len(classes) == 1:
                by_class.setdefault(int(classes[0]), []).append(source)
        for members in by_class.values():
            if len(members) > 60:  # moves alone balance so many sources to within one clip
                continue
            for i, first in enumerate(members):
                for second in members[i + 1 :]:
                    self._try_swap(first, second)

    def _try_swap(self, first: int, second: int) -> None:
        here, there = int(self.part_of[first]), int(self.part_of[second])
        if here == there:
            return
        column = self.classes[first]
        before = self._cell_costs(self.filled[:, column], column).sum()
        self._place(first, there)
        self._place(second, here)
        if self._cell_costs(self.filled[:, column], column).sum() > before - 1e-9:
            self._place(first, here)
            self._place(second, there)

    def _cell_costs(
        self, filled: NDArray[np.float64], columns: NDArray[np.int64] | slice
    ) -> NDArray[np.float64]:
        off = (filled - self.target[:, columns]) ** 2
        return off + self.empty_cost[:, columns] * (filled == 0)

    def _cost_of_adding(self, source: int, part: int) -> float:
        columns = self.classes[source]
        before = self.filled[part, columns]
        after = before + self.amounts[source]
        target = self.target[part, columns]
        gain = (after - target) ** 2 - (before - target) ** 2
        return float((gain - self.empty_cost[part, columns] * (before == 0)).sum())

    def _place(self, source: int, part: int) -> None:
        self._remove(source)
        self._add(source, part)

    def _add(self, source: int, part: int) -> None:
        self.filled[part, self.classes[source]] += self.amounts[source]
        self.part_of[source] = part

    def _remove(self, source: int) -> None:
        self.filled[self.part_of[source], self.classes[source]] -= self.amounts[source]
