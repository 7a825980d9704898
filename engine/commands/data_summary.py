"""Summaries of a dataset that several data commands print."""

import unicodedata
from pathlib import Path

from engine.data import sources
from engine.data.audit import Leak
from engine.data.index import Index
from engine.data.manifest import FILE_NAME

MANY = 5


def print_index(index: Index, root: Path) -> None:
    clips = index.manifest.clips
    counts = index.manifest.split_counts()
    print(
        f"{root}: {len(clips):,} clips in {len(index.manifest.class_names):,} classes from "
        f"{len({clip.source for clip in clips}):,} sources "
        f"({sources.describe(index.grammars)})"
    )
    if set(counts) != {""}:
        print(
            ", ".join(f"{count:,} {split or 'unused'}" for split, count in sorted(counts.items()))
        )
    if index.ignored:
        print(f"{len(index.ignored):,} ignored, for example {index.ignored[0]}")
    for alike in alike_classes(index.manifest.class_names):
        print(f"possibly the same class: {', '.join(map(repr, alike))}")
    for path, reason in list(index.unreadable.items())[:MANY]:
        print(f"unreadable: {path}: {reason}")
    if index.unreadable:
        print(
            f"{len(index.unreadable):,} can't be read and are skipped; "
            f"`engine data check {root}` says what is wrong with each"
        )
    print(f"written to {root / FILE_NAME}")


def alike_classes(names: list[str]) -> list[list[str]]:
    """Class names that differ only in case, spaces or Unicode normalization."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups.setdefault("".join(plain.split()), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def print_leaks(leaks: list[Leak], root: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=f"Test clips of {escape(str(root))} that share a source with training clips"
    )
    table.add_column("split")
    for name in ("train", "test", "same source", "same source and class"):
        table.add_column(name, justify="right")
    for entry in leaks:
        share = f"{entry.same_source_and_class / entry.num_test:.0%}" if entry.num_test else "–"
        table.add_row(
            entry.scheme,
            f"{entry.num_train:,}",
            f"{entry.num_test:,}",
            f"{entry.same_source:,}",
            f"{entry.same_source_and_class:,} ({share})",
        )
    Console().print(table)
