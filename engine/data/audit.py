"""Leakage audit: counts the test clips that share a source with training clips.

Clips cut from one film look alike. If they are in both the training and the test split, accuracy
measures memorization. The audit covers the current split and all schemes that could replace it.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.data import hmdb51_splits, splits
from engine.data.fingerprint import Fingerprint, fingerprint, near_duplicates
from engine.data.manifest import Clip, Manifest
from engine.data.validate import usable_clips
from engine.parallel import run_each


@dataclass(frozen=True, kw_only=True)
class Leak:
    """The number of test clips whose source is also in the training split."""

    scheme: str
    num_train: int
    num_test: int
    same_source: int
    same_source_and_class: int
    """The harmful ones: a model that memorized the source gets them right."""


@dataclass(frozen=True, kw_only=True)
class LookAlike:
    """A test clip and a training clip that are near-duplicates."""

    test: str
    train: str
    distance: int


@dataclass(frozen=True, kw_only=True)
class LookAlikes:
    """All near-duplicates between the training and the test split."""

    pairs: list[LookAlike]
    num_compared: int
    num_left_out: int
    """Clips that can't be read, and clips with too little contrast to compare."""


def leak(manifest: Manifest, scheme: str) -> Leak:
    """Count the leaks of the manifest's splits; `scheme` is the name for the report."""
    train = [clip for clip in manifest.clips if clip.split == "train"]
    test = [clip for clip in manifest.clips if clip.split == "test"]
    sources = {clip.source for clip in train}
    pairs = {(clip.source, clip.label) for clip in train}
    return Leak(
        scheme=scheme,
        num_train=len(train),
        num_test=len(test),
        same_source=sum(clip.source in sources for clip in test),
        same_source_and_class=sum((clip.source, clip.label) in pairs for clip in test),
    )


def compare_schemes(manifest: Manifest, seed: int = 0) -> list[Leak]:
    """Audit the current split, if there is one, and then each scheme the dataset allows."""
    leaks = []
    current = splits.current(manifest)
    if current != "none":
        leaks.append(leak(manifest, f"in force: {current}"))
    schemes: list[tuple[str, splits.Scheme]] = [
        ("90/10 at random", splits.Naive(seed=seed)),
        ("stratified", splits.Stratified(seed=seed)),
        ("grouped", splits.Grouped(seed=seed)),
    ]
    if hmdb51_splits.has_splits(manifest):
        schemes += [
            (f"official {fold}", splits.Official(fold=fold, seed=seed))
            for fold in hmdb51_splits.FOLDS
        ]
    for name, scheme in schemes:
        leaks.append(leak(manifest.with_splits(scheme.assign(manifest)), name))
    return leaks


def look_alikes(manifest: Manifest) -> LookAlikes:
    """Find near-duplicates between the training and the test split by comparing frames."""
    used = [clip for clip in usable_clips(manifest).clips if clip.split in ("train", "test")]
    prints: dict[str, list[tuple[Clip, Fingerprint]]] = {"train": [], "test": []}
    outcomes = run_each(partial(_fingerprint, manifest.root), used, title="Comparing")
    for outcome in outcomes:
        if outcome.value is not None:
            prints[outcome.item.split].append((outcome.item, outcome.value))
    train, test = prints["train"], prints["test"]
    duplicates = near_duplicates([print_ for _, print_ in test], [print_ for _, print_ in train])
    pairs = [
        LookAlike(
            test=test[pair.first][0].path, train=train[pair.second][0].path, distance=pair.distance
        )
        for pair in duplicates
    ]
    num_compared = len(train) + len(test)
    num_used = sum(clip.split in ("train", "test") for clip in manifest.clips)
    return LookAlikes(
        pairs=sorted(pairs, key=lambda pair: (pair.distance, pair.test, pair.train)),
        num_compared=num_compared,
        num_left_out=num_used - num_compared,
    )


def as_report(leaks: list[Leak], alike: LookAlikes | None) -> dict[str, object]:
    """The audit as a dict for JSON; `alike` is None if no frames were compared."""
    return {
        "schemes": [dataclasses.asdict(entry) for entry in leaks],
        "near_duplicates": dataclasses.asdict(alike) if alike else None,
    }


def _fingerprint(root: Path, clip: Clip) -> Fingerprint | None:
    return fingerprint(root / clip.path, clip.frames)
