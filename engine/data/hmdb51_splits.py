"""Reads HMDB51's three official splits from the files distributed with the videos.

Each line of `testTrainMulti_7030_splits/<class>_test_split<1|2|3>.txt` is `<file name> <1|2|0>`,
for train, test and unused. Names are matched exactly; a folder of extracted frames has the name of
its video.
"""

from collections import Counter
from pathlib import Path, PurePosixPath

from engine.data.manifest import Clip, Manifest, Split
from engine.errors import UserError

FOLDER = "testTrainMulti_7030_splits"
FOLDS = (1, 2, 3)
ROLES: dict[str, Split] = {"1": "train", "2": "test", "0": ""}
MAX_NAMES_SHOWN = 10
OFFICIAL_COUNTS = {"train": 70, "test": 30}


def read_fold(manifest: Manifest, fold: int) -> list[Split]:
    """The official split of each clip in the manifest; clips that aren't listed are unused.

    Raises:
        UserError: `fold` is not 1, 2 or 3, or the split files are missing or don't fit the clips.
    """
    folder = manifest.root / FOLDER
    if fold not in FOLDS:
        raise UserError(f"official split {fold} doesn't exist; choose fold 1, 2 or 3.")
    if not folder.is_dir():
        raise UserError(
            f"{manifest.root} has no official splits; put HMDB51's folder {FOLDER} into it, or "
            "choose the scheme grouped."
        )
    roles: dict[tuple[str, str], Split] = {}
    known = {(clip.label, clip_name(clip)) for clip in manifest.clips}
    for label in manifest.class_names:
        if "/" in label:
            raise UserError(f"{manifest.root}: the class {label!r} can't be HMDB51's; rename it.")
        path = folder / f"{label}_test_split{fold}.txt"
        for line, name, role in _read_file(path):
            key = (label, name.removesuffix(".avi"))
            if key not in known:
                if "/" not in name and any(
                    name in _names_in(manifest.root / top / label) for top in ("videos", ".")
                ):
                    continue  # the file exists, but is a bad clip that was left out
                raise UserError(
                    f"{path} line {line} names {name}, which isn't among the clips of {label}; "
                    "add the clip or remove the line."
                )
            if key in roles:
                raise UserError(f"{path} line {line} names {name} a second time; remove one line.")
            roles[key] = role
    named = Counter((clip.label, clip_name(clip)) for clip in manifest.clips)
    if ambiguous := [f"{label}/{name}" for label, name in roles if named[label, name] > 1]:
        more = "…" * (len(ambiguous) > MAX_NAMES_SHOWN)
        raise UserError(
            f"{manifest.root} has two clips whose names differ only in the suffix, but the "
            f"official splits name one: {', '.join(ambiguous[:MAX_NAMES_SHOWN])}{more}; keep one "
            "of each."
        )
    return [roles.get((clip.label, clip_name(clip)), "") for clip in manifest.clips]


def has_splits(manifest: Manifest) -> bool:
    return (manifest.root / FOLDER).is_dir()


def check_names(manifest: Manifest) -> None:
    """Raise UserError if a split file names a clip that the manifest doesn't have."""
    if has_splits(manifest):
        for fold in FOLDS:
            read_fold(manifest, fold)


def odd_counts(manifest: Manifest) -> list[str]:
    """Classes without the 70 training and 30 test clips that they have in the published files."""
    odd = []
    for fold in FOLDS:
        counts: Counter[tuple[str, Split]] = Counter(
            (clip.label, role)
            for clip, role in zip(manifest.clips, read_fold(manifest, fold), strict=True)
        )
        for label in manifest.class_names:
            train, test = counts[label, "train"], counts[label, "test"]
            if {"train": train, "test": test} != OFFICIAL_COUNTS:
                odd.append(f"{label} split {fold}: {train} train, {test} test")
    return odd


def clip_name(clip: Clip) -> str:
    """The clip's file name without the video suffix; the name of a frame folder is kept whole."""
    name = PurePosixPath(clip.path).name
    return (
        name.removesuffix(PurePosixPath(name).suffix) if clip.codec not in ("jpeg", "png") else name
    )


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _read_file(path: Path) -> list[tuple[int, str, Split]]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror}); add HMDB51's own file."
        ) from error
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, _, role = line.strip().rpartition(" ")
        if not name or role not in ROLES:
            raise UserError(f"{path} line {number}: {line.strip()!r} isn't `<file name> <1|2|0>`.")
        entries.append((number, name.strip(), ROLES[role]))
    return entries
