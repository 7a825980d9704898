"""Which clips train a model, which choose its checkpoint, which test it.

Schemes are pure: the same clips and seed give the same parts, whatever the order of the files on
disk. `deal` gives them to clips in memory; `apply` also writes them into the manifest, a CSV for
others, and a note of which scheme it was, since an accuracy means nothing without it. Whether a
scheme leaks is audit.py's question.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from engine import atomic
from engine.data import hmdb51_splits
from engine.data.grouping import assign_sources
from engine.data.manifest import Clip, Manifest, Split, load
from engine.data.validate import usable_clips
from engine.errors import UserError, unknown_name

NOTE = "splits/current.json"
"""Says which scheme the manifest's splits were made by."""

PARTS: tuple[Split, ...] = ("train", "val", "test")
FRACTIONS = (0.8, 0.1, 0.1)
OFFICIAL_VAL_FRACTION = 0.1

HMDB_SIMP_CLASSES = tuple(
    "brush_hair cartwheel chew climb_stairs draw_sword fencing flic_flac golf handstand pick pour "
    "pushup ride_bike shoot_bow shoot_gun situp smile smoke throw wave clap climb eat kiss "
    "punch".split()
)
HMDB_SIMP_COUNTS = (36, 9, 5)
"""Clips a class in train, val and test: 900, 225 and 125 in all."""


@dataclass(frozen=True, kw_only=True)
class Official:
    """HMDB51's own split, with a validation part taken out of train by whole sources."""

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
    """80/10/10 at random within each class: the split most people make. It leaks."""

    name: ClassVar[str] = "stratified"
    seed: int = 0

    def assign(self, manifest: Manifest) -> list[Split]:
        parts: list[Split] = [""] * len(manifest.clips)
        rng = np.random.default_rng(self.seed)
        for members in _by_class(manifest.clips).values():
            counts = _rounded(len(members), FRACTIONS, rng)
            _deal(parts, members, counts, rng)
        return parts


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """80/10/10 with every clip of a source on one side, classes balanced as well as that allows."""

    name: ClassVar[str] = "grouped"
    seed: int = 0

    def assign(self, manifest: Manifest) -> list[Split]:
        return [PARTS[part] for part in _grouped(manifest.clips, FRACTIONS, self.seed)]


@dataclass(frozen=True, kw_only=True)
class HmdbSimp:
    """25 classes of HMDB51, 50 clips each, dealt 36/9/5 at random. The other clips are unused."""

    name: ClassVar[str] = "hmdb-simp"
    seed: int = 0

    def assign(self, manifest: Manifest) -> list[Split]:
        parts: list[Split] = [""] * len(manifest.clips)
        rng = np.random.default_rng(self.seed)
        by_class = _by_class(manifest.clips)
        wanted = sum(HMDB_SIMP_COUNTS)
        for label in HMDB_SIMP_CLASSES:
            members = by_class.get(label, [])
            if len(members) < wanted:
                raise UserError(
                    f"{manifest.root} has {len(members)} clips of {label} where hmdb-simp takes "
                    f"{wanted}; the scheme is made for HMDB51 whole."
                )
            _deal(parts, members, HMDB_SIMP_COUNTS, rng)
        return parts


@dataclass(frozen=True, kw_only=True)
class Naive:
    """90/10 at random over all clips: only audited, to show how much such a split leaks."""

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


def deal(manifest: Manifest, scheme: Scheme) -> Manifest:
    """The manifest with the scheme's parts; nothing is written. Bad clips get none."""
    usable = dataclasses.replace(manifest, clips=usable_clips(manifest).clips)
    parts = dict(zip((clip.path for clip in usable.clips), scheme.assign(usable), strict=True))
    split = manifest.with_splits(parts.get(clip.path, "") for clip in manifest.clips)
    counts = split.split_counts()
    for part in ("train", "test"):
        if not counts[part]:
            raise UserError(
                f"{manifest.root} has too few clips or sources for the scheme {scheme.name}: its "
                f"{part} part would be empty; add clips or choose another scheme."
            )
    return split


def dealt(root: Path, scheme: str | None) -> tuple[Manifest, str]:
    """A dataset as it lies, or split by the named scheme in memory alone; the scheme in words."""
    listed = load(root)
    if scheme is None:
        return listed, current(listed)
    if scheme not in SCHEMES:
        raise unknown_name("scheme", scheme, list(SCHEMES))
    chosen = SCHEMES[scheme]()
    return deal(listed, chosen), _in_words(chosen.name, dataclasses.asdict(chosen))


def apply(manifest: Manifest, scheme: Scheme) -> Manifest:
    """Deal, save the manifest, and write `splits/` beside it."""
    split = deal(manifest, scheme)
    split.save()
    folder = manifest.root / "splits"
    folder.mkdir(exist_ok=True)
    settings = dataclasses.asdict(scheme)
    stem = "-".join([scheme.name, *(f"{key}{value}" for key, value in settings.items())])
    rows = [(clip.path, clip.label, clip.split) for clip in split.clips if clip.split]
    atomic.write_csv(folder / f"{stem}.csv", ("path", "label", "split"), rows)
    with atomic.new_text(manifest.root / NOTE) as file:
        note = {"scheme": scheme.name, **settings, "digest": digest(split)}
        file.write(json.dumps(note, indent=2) + "\n")
    return split


def current(manifest: Manifest) -> str:
    """The scheme that a manifest's splits were made by, for stamping on figures."""
    path = manifest.root / NOTE
    if not any(clip.split for clip in manifest.clips):
        return "none"
    if not path.is_file():
        return "as found in the folders"
    try:
        note = json.loads(path.read_text("utf-8"))
        scheme, recorded = note.pop("scheme"), note.pop("digest")
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged; run `engine data split` again.") from error
    if recorded != digest(manifest):
        return f"{scheme}, edited since"
    return _in_words(scheme, note)


def _in_words(scheme: str, settings: dict[str, object]) -> str:
    return " ".join([scheme, *(f"{key} {value}" for key, value in settings.items())])


def digest(manifest: Manifest) -> str:
    """Tells whether a manifest's splits are still those that were written."""
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
    """Whole counts that add up to `total`, each less than one off its fraction; ties by lot."""
    exact = np.array(fractions) * total
    counts = np.floor(exact + 1e-9).astype(int)
    lots = rng.permutation(len(counts))
    neediest = np.lexsort((lots, np.round(counts - exact, 9)))
    counts[neediest[: total - counts.sum()]] += 1
    return [int(count) for count in counts]


def _deal(
    parts: list[Split], members: list[int], counts: Sequence[int], rng: np.random.Generator
) -> None:
    shuffled = iter(rng.permutation(members))
    for part, count in zip(PARTS, counts, strict=True):
        for _ in range(count):
            parts[next(shuffled)] = part
