"""Assigns whole sources to splits, or to folds, and keeps the proportions of each class.

A source may have clips of several classes, so this is a packing problem. It is solved greedily,
largest source first, then by moving and swapping sources while this lowers the cost.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_STARTS = 4
MAX_PASSES = 50
SIZE_WEIGHT = 0.5
"""How much an imbalance of all clips counts, relative to one of a class."""


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
    counts, source_of = _count(sources, labels)
    # If a class has enough sources, leaving a split empty costs more than any imbalance.
    # Train is filled first, then test, then the splits between them.
    num_parts = len(fractions)
    rank = [0, *range(2, num_parts), 1] if num_parts > 2 else [0, 1]
    needed = np.array([(counts > 0).sum(axis=0) > r for r in rank])
    return _pack(counts, source_of, np.array(fractions), needed, seed)


def assign_folds(
    sources: Sequence[str], labels: Sequence[str], num_folds: int, seed: int
) -> list[int]:
    """Assign each clip to one of several folds of equal size; clips of one source stay together.

    Args:
        sources: Source of each clip; at least `num_folds` different ones.
        labels: Class of each clip.
        num_folds: Number of folds. None of them is empty.
        seed: Seed of the random order. The result also depends on the order of the clips.

    Returns:
        The index of the fold for each clip.
    """
    counts, source_of = _count(sources, labels)
    # A further column balances the number of clips, also where each class has few sources.
    counts = np.column_stack([counts, counts.sum(axis=1) * SIZE_WEIGHT])
    needed = np.tile((counts > 0).sum(axis=0) >= num_folds, (num_folds, 1))
    fractions = np.full(num_folds, 1 / num_folds)
    return _pack(counts, source_of, fractions, needed, seed, num_further_columns=1)


def _count(
    sources: Sequence[str], labels: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Clips of each source (row) and class (column), and the row of each clip."""
    source_names, source_of = np.unique(np.array(sources, dtype=object), return_inverse=True)
    class_names, class_of = np.unique(np.array(labels, dtype=object), return_inverse=True)
    counts = np.zeros((len(source_names), len(class_names)))
    np.add.at(counts, (source_of, class_of), 1)
    return counts, source_of


def _pack(
    counts: NDArray[np.float64],
    source_of: NDArray[np.int64],
    fractions: NDArray[np.float64],
    needed: NDArray[np.bool_],
    seed: int,
    *,
    num_further_columns: int = 0,
) -> list[int]:
    """The best of several packings, as the part of each clip."""
    best: tuple[float, NDArray[np.int64]] | None = None
    for rng in np.random.default_rng(seed).spawn(NUM_STARTS):
        packing = _Packing(counts, fractions, needed, rng, num_further_columns)
        packing.assign_greedily()
        packing.improve()
        cost = packing.total_cost()
        if best is None or cost < best[0] - 1e-9:
            best = (cost, packing.part_of)
    assert best is not None
    return [int(part) for part in best[1][source_of]]


class _Packing:
    """An assignment of sources to splits, and its cost. A "part" is the index of a split.

    `needed` says which classes each part has to contain.
    """

    def __init__(
        self,
        counts: NDArray[np.float64],
        fractions: NDArray[np.float64],
        needed: NDArray[np.bool_],
        rng: np.random.Generator,
        num_further_columns: int,
    ) -> None:
        self.rng = rng
        self.columns_of_one_class = 1 + num_further_columns
        self.num_parts = len(fractions)
        self.classes = [np.flatnonzero(row) for row in counts]
        self.amounts = [row[cols] for row, cols in zip(counts, self.classes, strict=True)]
        totals = counts.sum(axis=0)
        self.target = np.outer(fractions, totals)
        self.filled = np.zeros_like(self.target)
        self.part_of = np.full(len(counts), -1, np.int64)
        self.empty_cost = totals**2 * 4 * needed

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
            if len(classes) == self.columns_of_one_class:
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
