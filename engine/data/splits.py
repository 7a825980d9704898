"""Schemes that split a dataset into train, val and test.

Schemes are deterministic: the same clips and seed give the same splits, in any order of the files.
`assign` splits a manifest in memory. `apply` also writes the manifest, a CSV for other programs and
a note with the scheme, since an accuracy means nothing without it. See audit.py for leakage.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from engine import atomic
from engine.data import hmdb51_splits
from engine.data.grouping import assign_sources
from engine.data.manifest import Clip, Manifest, Split, load
from engine.data.validate import usable_clips
from engine.errors import UserError, unknown_name

NOTE = "splits/current.json"
"""Records the scheme that made the manifest's splits."""
COLUMNS = ("path", "label", "split")
"""Of a CSV file in the folder `splits`."""

PARTS: tuple[Split, ...] = ("train", "val", "test")
FRACTIONS = (0.8, 0.1, 0.1)
OFFICIAL_VAL_FRACTION = 0.1

HMDB_SIMP_CLASSES = tuple(
    "brush_hair cartwheel chew climb_stairs draw_sword fencing flic_flac golf handstand pick pour "
    "pushup ride_bike shoot_bow shoot_gun situp smile smoke throw wave clap climb eat kiss "
    "punch".split()
)
HMDB_SIMP_COUNTS = (36, 9, 5)
"""Clips of each class in train, val and test: 900, 225 and 125 in total."""


@dataclass(frozen=True, kw_only=True)
class Official:
    """HMDB51's official split, with 10% of train, by whole sources, as the validation split."""

    name: ClassVar[str] = "official"
    fold: int = 1
    seed: int = 0

    def assign(self, manifest: Manifest) -> list[Split]:
        parts = hmdb51_splits.read_fold(manifest, self.fold)
        training = [i for i, part in enumerate(parts) if part == "train"]
        clips = [manifest.clips[i] for i in training]
        fractions = (1 - OFFICIAL_VAL_FRACTION, OFFICIAL_VAL_FRACTION)
        for i, part in zip(training, _grouped(clips, fractions, self.seed), strict=True):
            parts[i] = PARTS[part]
        return parts


@dataclass(frozen=True, kw_only=True)
class Stratified:
    """80/10/10 at random within each class: the most common scheme. It leaks."""

    name: ClassVar[str] = "stratified"
    seed: int = 0

    def assign(self, manifest: Manifest) -> list[Split]:
        parts: list[Split] = [""] * len(manifest.clips)
        rng = np.random.default_rng(self.seed)
        for members in _by_class(manifest.clips).values():
            counts = _rounded(len(members), FRACTIONS, rng)
            _assign_shuffled(parts, members, counts, rng)
        return parts


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """80/10/10 with all clips of a source in one split, and classes as balanced as possible."""

    name: ClassVar[str] = "grouped"
    seed: int = 0

    def assign(self, manifest: Manifest) -> list[Split]:
        return [PARTS[part] for part in _grouped(manifest.clips, FRACTIONS, self.seed)]


@dataclass(frozen=True, kw_only=True)
class HmdbSimp:
    """25 classes of HMDB51, 50 clips each, split 36/9/5 at random. All other clips are unused."""

    name: ClassVar[str] = "hmdb-simp"
    seed: int = 0

    def assign(self, manifest: Manifest) -> list[Split]:
        parts: list[Split] = [""] * len(manifest.clips)
        rng = np.random.default_rng(self.seed)
        by_class = _by_class(manifest.clips)
        clips_per_class = sum(HMDB_SIMP_COUNTS)
        for label in HMDB_SIMP_CLASSES:
            members = by_class.get(label, [])
            if len(members) < clips_per_class:
                raise UserError(
                    f"{manifest.root} has {len(members)} clips of {label} where hmdb-simp takes "
                    f"{clips_per_class}; use this scheme with the complete HMDB51."
                )
            _assign_shuffled(parts, members, HMDB_SIMP_COUNTS, rng)
        return parts


@dataclass(frozen=True, kw_only=True)
class Naive:
    """90/10 at random over all clips; only used by the audit, to show how much this leaks."""

    name: ClassVar[str] = "naive"
    seed: int = 0

    def assign(self, manifest: Manifest) -> list[Split]:
        parts: list[Split] = ["train"] * len(manifest.clips)
        rng = np.random.default_rng(self.seed)
        order = _in_path_order(manifest.clips)
        for i in rng.permutation(len(order))[: round(len(order) / 10)]:
            parts[order[i]] = "test"
        return parts


Scheme = Official | Stratified | Grouped | HmdbSimp | Naive

SCHEMES: dict[str, type[Official] | type[Stratified] | type[Grouped] | type[HmdbSimp]] = {
    scheme.name: scheme for scheme in (Official, Stratified, Grouped, HmdbSimp)
}


def assign(manifest: Manifest, scheme: Scheme) -> Manifest:
    """Return the manifest with the splits of `scheme`; nothing is written. Bad clips get no split.

    Raises:
        UserError: There are too few clips or sources for the scheme.
    """
    usable = dataclasses.replace(manifest, clips=usable_clips(manifest).clips)
    parts = dict(zip((clip.path for clip in usable.clips), scheme.assign(usable), strict=True))
    split = manifest.with_splits(parts.get(clip.path, "") for clip in manifest.clips)
    counts = split.split_counts()
    for part in ("train", "test"):
        if not counts[part]:
            raise UserError(
                f"{manifest.root} has too few clips or sources for the scheme {scheme.name}: its "
                f"{part} split would be empty; add clips or choose another scheme."
            )
    return split


def load_split(root: Path, scheme: str | None) -> tuple[Manifest, str]:
    """Load a dataset and split it in memory.

    Args:
        root: The folder of the dataset.
        scheme: Name of the scheme; None keeps the splits of the manifest.

    Returns:
        The manifest, and a description of the scheme.
    """
    manifest = load(root)
    if scheme is None:
        return manifest, current(manifest)
    if scheme not in SCHEMES:
        raise unknown_name("scheme", scheme, list(SCHEMES))
    chosen = SCHEMES[scheme]()
    return assign(manifest, chosen), describe(chosen.name, dataclasses.asdict(chosen))


def apply(manifest: Manifest, scheme: Scheme) -> Manifest:
    """Split the manifest, save it, and write the files in its `splits` folder."""
    split = assign(manifest, scheme)
    settings = dataclasses.asdict(scheme)
    split.save()
    write_table(split, scheme.name, settings)
    write_note(split, scheme.name, settings)
    return split


def table_of(root: Path, scheme: str, settings: dict[str, object]) -> Path:
    """The CSV file of a scheme's splits."""
    stem = "-".join([scheme, *(f"{key}{value}" for key, value in settings.items())])
    return root / "splits" / f"{stem}.csv"


def write_table(split: Manifest, scheme: str, settings: dict[str, object]) -> None:
    """Write the splits of `split` as a CSV file for other programs."""
    path = table_of(split.root, scheme, settings)
    path.parent.mkdir(exist_ok=True)
    rows = [(clip.path, clip.label, clip.split) for clip in split.clips if clip.split]
    atomic.write_csv(path, COLUMNS, rows)


def write_note(
    split: Manifest, scheme: str, settings: dict[str, object], **further: object
) -> None:
    """Record the scheme that made the splits of `split`; `current` doesn't describe `further`."""
    with atomic.new_text(split.root / NOTE) as file:
        note = {"scheme": scheme, **settings, "digest": digest(split), **further}
        file.write(json.dumps(note, indent=2) + "\n")


def current(manifest: Manifest) -> str:
    """A description of the scheme that made the manifest's splits, for reports."""
    if not any(clip.split for clip in manifest.clips):
        return "none"
    note = read_note(manifest.root)
    if not note:
        return "as found in the folders"
    scheme, recorded = note.pop("scheme"), note.pop("digest")
    note.pop("fold_digests", None)
    if recorded != digest(manifest):
        return f"{scheme}, edited since"
    return describe(scheme, note)


def read_note(root: Path) -> dict[str, Any]:
    """What `write_note` recorded; empty if nothing was."""
    path = root / NOTE
    if not path.is_file():
        return {}
    try:
        note = json.loads(path.read_text("utf-8"))
        if not {"scheme", "digest"} <= note.keys():
            raise ValueError("it lacks the scheme or the digest")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged; run `engine data split` again.") from error
    return note


def describe(scheme: str, settings: dict[str, object]) -> str:
    """A scheme and its settings as text, for reports."""
    return " ".join([scheme, *(f"{key} {value}" for key, value in settings.items())])


def digest(manifest: Manifest) -> str:
    """Digest of the clips' splits; it changes when the manifest is edited."""
    import hashlib

    rows = sorted(f"{clip.path}\0{clip.split}" for clip in manifest.clips)
    text = "\n".join(rows).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


def _grouped(clips: Sequence[Clip], fractions: tuple[float, ...], seed: int) -> list[int]:
    order = _in_path_order(clips)
    parts = assign_sources(
        [clips[i].source for i in order], [clips[i].label for i in order], fractions, seed
    )
    result = [0] * len(clips)
    for i, part in zip(order, parts, strict=True):
        result[i] = part
    return result


def _in_path_order(clips: Sequence[Clip]) -> list[int]:
    return sorted(range(len(clips)), key=lambda i: clips[i].path)


def _by_class(clips: Sequence[Clip]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = defaultdict(list)
    for i in _in_path_order(clips):
        members[clips[i].label].append(i)
    return dict(sorted(members.items()))


def _rounded(total: int, fractions: tuple[float, ...], rng: np.random.Generator) -> list[int]:
    """Round `fractions * total` to integers that add up to `total`; ties are broken at random."""
    exact = np.array(fractions) * total
    counts = np.floor(exact + 1e-9).astype(int)
    tie_breakers = rng.permutation(len(counts))
    by_remainder = np.lexsort((tie_breakers, np.round(counts - exact, 9)))
    counts[by_remainder[: total - counts.sum()]] += 1
    return [int(count) for count in counts]


def _assign_shuffled(
    parts: list[Split], members: list[int], counts: Sequence[int], rng: np.random.Generator
) -> None:
    shuffled = iter(rng.permutation(members))
    for part, count in zip(PARTS, counts, strict=True):
        for _ in range(count):
            parts[next(shuffled)] = part
