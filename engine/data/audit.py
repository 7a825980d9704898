"""The leakage audit: how much of a test part a model could answer from memory.

Clips cut from one film look alike. Where such clips lie on both sides of a split, accuracy measures
memory; this decides what every figure means, so it is counted, for the split in force and for the
schemes it could be made by.
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
    """Of `num_test` test clips, how many have a training clip of the same source."""

    scheme: str
    num_train: int
    num_test: int
    same_source: int
    same_source_and_class: int
    """The harmful ones: a model that knows the source by heart answers them right."""


@dataclass(frozen=True, kw_only=True)
class LookAlike:
    test: str
    train: str
    distance: int


@dataclass(frozen=True, kw_only=True)
class LookAlikes:
    pairs: list[LookAlike]
    num_compared: int
    num_left_out: int
    """Bad clips, and those too plain to tell apart."""


def leak(manifest: Manifest, scheme: str) -> Leak:
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
    """The split in force first, where there is one; then every scheme this dataset allows."""
    leaks = []
    in_force = splits.current(manifest)
    if in_force != "none":
        leaks.append(leak(manifest, f"in force: {in_force}"))
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
    """Near-duplicates between the training and the test part of the split in force."""
    used = [clip for clip in usable_clips(manifest).clips if clip.split in ("train", "test")]
    prints: dict[str, list[tuple[Clip, Fingerprint]]] = {"train": [], "test": []}
    outcomes = run_each(partial(_fingerprint, manifest.root), used, title="Comparing")
    for outcome in outcomes:
        if outcome.value is not None:
            prints[outcome.item.split].append((outcome.item, outcome.value))
    train, test = prints["train"], prints["test"]
    found = near_duplicates([print_ for _, print_ in test], [print_ for _, print_ in train])
    pairs = [
        LookAlike(
            test=test[pair.first][0].path, train=train[pair.second][0].path, distance=pair.distance
        )
        for pair in found
    ]
    num_compared = len(train) + len(test)
    num_used = sum(clip.split in ("train", "test") for clip in manifest.clips)
    return LookAlikes(
        pairs=sorted(pairs, key=lambda pair: (pair.distance, pair.test, pair.train)),
        num_compared=num_compared,
        num_left_out=num_used - num_compared,
    )


def as_report(leaks: list[Leak], alike: LookAlikes | None) -> dict[str, object]:
    return {
        "schemes": [dataclasses.asdict(entry) for entry in leaks],
        "near_duplicates": dataclasses.asdict(alike) if alike else None,
    }


def _fingerprint(root: Path, clip: Clip) -> Fingerprint | None:
    return fingerprint(root / clip.path, clip.frames)
