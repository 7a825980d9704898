"""Folds for cross-validation: each clip is tested in exactly one fold, and no fold cuts a source.

Each fold is a split into train, val and test, which have different sources. It validates on about a
tenth of the clips that it doesn't test: on those that the next fold tests, or some of their
sources if they are more. `apply` writes each fold as a CSV file into `splits`, from which it is
read again, and fold 1 into the manifest.
"""

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from engine.data import splits
from engine.data.grouping import assign_folds, assign_sources
from engine.data.manifest import Manifest, Split, load
from engine.data.validate import usable_clips
from engine.errors import UserError, unknown_name

LEAVE_ONE_OUT = "leave-one-source-out"
SCHEMES = ("grouped", LEAVE_ONE_OUT)
VAL_FRACTION = 0.1
"""Share of the clips that a fold doesn't test."""
WHOLE_FOLD = 0.75
"""If this share of the next fold or more is needed for validation, all of it is used."""
MAX_FOLDS = 100


@dataclass(frozen=True, kw_only=True)
class Folds:
    """The folds of a dataset; they are numbered from 1."""

    manifest: Manifest
    scheme: str
    seed: int
    splits: tuple[tuple[Split, ...], ...]
    """For each fold, the split of each clip."""
    digests: tuple[str, ...]
    """Digest of each fold as it was made; see `splits.digest`."""

    def __len__(self) -> int:
        return len(self.splits)

    def fold(self, number: int) -> Manifest:
        """The dataset with the splits of a fold."""
        return self.manifest.with_splits(self.splits[number - 1])

    def settings(self, number: int) -> dict[str, object]:
        return {"folds": len(self), "fold": number, "seed": self.seed}

    def describe(self, number: int) -> str:
        """A fold's scheme, for reports."""
        if splits.digest(self.fold(number)) != self.digests[number - 1]:
            return f"{self.scheme} folds {len(self)} fold {number}, edited since"
        return splits.describe(self.scheme, self.settings(number))

    def numbers(self, chosen: Sequence[int] | None) -> list[int]:
        """The numbers of the folds in `chosen`, in order; None for all.

        Raises:
            UserError: A fold doesn't exist.
        """
        for number in chosen or ():
            if not 1 <= number <= len(self):
                raise UserError(
                    f"{self.manifest.root} has no fold {number}: `folds` takes 1 to {len(self)}."
                )
        return sorted(set(chosen)) if chosen is not None else list(range(1, len(self) + 1))


def make(manifest: Manifest, scheme: str, *, num_folds: int | None = None, seed: int = 0) -> Folds:
    """Divide a dataset into folds; nothing is written. Bad clips are in no split.

    Args:
        manifest: The dataset.
        scheme: `grouped`, or `leave-one-source-out`, whose folds test one source each.
        num_folds: Number of folds of `grouped`.
        seed: Random seed.

    Raises:
        UserError: The scheme has no folds, or the dataset has too few or too many sources.
    """
    if scheme not in SCHEMES:
        raise unknown_name("scheme", scheme, list(SCHEMES))
    clips = sorted(usable_clips(manifest).clips, key=lambda clip: clip.path)
    sources = [clip.source for clip in clips]
    labels = [clip.label for clip in clips]
    names = sorted(set(sources))
    num_folds = _checked(manifest.root, scheme, num_folds, len(names))
    if scheme == LEAVE_ONE_OUT:
        fold_of = [names.index(source) for source in sources]
    else:
        fold_of = assign_folds(sources, labels, num_folds, seed)
    made = []
    for fold in range(num_folds):
        validating = _val_sources(sources, labels, fold_of, fold, num_folds, seed)
        split_of: dict[str, Split] = {
            clip.path: "test" if tested == fold else "val" if clip.source in validating else "train"
            for clip, tested in zip(clips, fold_of, strict=True)
        }
        made.append(tuple(split_of.get(clip.path, "") for clip in manifest.clips))
        if missing := [part for part in splits.PARTS if part not in made[-1]]:
            raise UserError(
                f"{manifest.root} has too few clips or sources for {num_folds} folds: the "
                f"{missing[0]} split of fold {fold + 1} would be empty; add clips."
            )
    folds = Folds(
        manifest=manifest, scheme=scheme, seed=seed, splits=tuple(made), digests=("",) * num_folds
    )
    numbers = folds.numbers(None)
    digests = tuple(splits.digest(folds.fold(number)) for number in numbers)
    return dataclasses.replace(folds, digests=digests)


def apply(manifest: Manifest, scheme: str, *, num_folds: int | None = None, seed: int = 0) -> Folds:
    """Divide a dataset into folds, and write them; fold 1 becomes the split of the manifest."""
    folds = make(manifest, scheme, num_folds=num_folds, seed=seed)
    for number in folds.numbers(None):
        splits.write_table(folds.fold(number), scheme, folds.settings(number))
    folds.fold(1).save()
    splits.write_note(folds.fold(1), scheme, folds.settings(1), fold_digests=folds.digests)
    return folds


def load_folds(root: Path) -> Folds:
    """Read the folds that `apply` wrote.

    Raises:
        UserError: The dataset isn't divided into folds, or a file is missing or damaged.
    """
    manifest = load(root)
    note = splits.read_note(root)
    scheme, seed, digests = (note.get(key) for key in ("scheme", "seed", "fold_digests"))
    if scheme not in SCHEMES or not isinstance(digests, list) or not isinstance(seed, int):
        raise UserError(
            f"{root} isn't divided into folds; run `engine data split` with the scheme grouped "
            "and `folds=5`."
        )
    made = []
    for number in range(1, len(digests) + 1):
        settings: dict[str, object] = {"folds": len(digests), "fold": number, "seed": seed}
        split_of = _read(splits.table_of(root, scheme, settings), manifest)
        made.append(tuple(split_of.get(clip.path, "") for clip in manifest.clips))
    return Folds(
        manifest=manifest, scheme=scheme, seed=seed, splits=tuple(made), digests=tuple(digests)
    )


def load_split(root: Path, scheme: str | None, fold: int | None) -> tuple[Manifest, str]:
    """Load a dataset with the splits of a fold or, without one, as `splits.load_split` does."""
    if fold is None:
        return splits.load_split(root, scheme)
    folds = load_folds(root)
    (number,) = folds.numbers([fold])
    return folds.fold(number), folds.describe(number)


def _val_sources(
    sources: list[str], labels: list[str], fold_of: list[int], fold: int, num_folds: int, seed: int
) -> set[str]:
    """Sources of the clips on which a fold validates."""
    num_needed = VAL_FRACTION * (num_folds - 1)
    following = {(fold + 1 + i) % num_folds for i in range(max(1, round(num_needed)))}
    members = [i for i, tested in enumerate(fold_of) if tested in following]
    found = {sources[i] for i in members}
    if num_needed >= WHOLE_FOLD or len(found) == 1:
        return found
    parts = assign_sources(
        [sources[i] for i in members],
        [labels[i] for i in members],
        (1 - num_needed, num_needed),
        seed + fold,
    )
    chosen = {sources[i] for i, part in zip(members, parts, strict=True) if part}
    return chosen or {min(found, key=lambda source: (sources.count(source), source))}


def _checked(root: Path, scheme: str, num_folds: int | None, num_sources: int) -> int:
    """The number of folds, if the dataset has the sources for it."""
    if scheme == LEAVE_ONE_OUT:
        if num_folds is not None:
            raise UserError(
                f"{LEAVE_ONE_OUT} has one fold for each source: remove `folds`, or choose the "
                "scheme grouped."
            )
        num_folds = num_sources
    if num_folds is None or not 2 <= num_folds <= MAX_FOLDS:
        raise UserError(
            f"{root} would be divided into {num_folds} folds: choose the scheme grouped and 2 to "
            f"{MAX_FOLDS} `folds`."
        )
    if num_sources < max(3, num_folds):
        raise UserError(
            f"{root} has only {num_sources} sources for {num_folds} folds, which take at least "
            f"{max(3, num_folds)}; lower `folds`, or give each clip its source in a list for "
            "`engine data index`."
        )
    return num_folds


def _read(path: Path, manifest: Manifest) -> dict[str, Split]:
    """The split of each clip in the CSV file of a fold."""
    split_again = f"run `engine data split {manifest.root}` again"
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            header, *rows = list(csv.reader(file, strict=True)) or [[]]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {split_again}.") from error
    except csv.Error as error:
        raise UserError(f"{path} is damaged ({error}); {split_again}.") from error
    known = {clip.path for clip in manifest.clips}
    for line, row in enumerate(rows, 2):
        if len(row) != len(header) or row[0] not in known or row[2] not in get_args(Split):
            raise UserError(
                f"{path} line {line} is no clip of {manifest.root} and its split; {split_again}."
            )
    if tuple(header) != splits.COLUMNS:
        raise UserError(f"{path} has no line {','.join(splits.COLUMNS)}; {split_again}.")
    return {row[0]: cast(Split, row[2]) for row in rows}
