"""Imports HMDB51, as archives or as extracted folders, into a dataset folder.

`hmdb51_org.rar` contains one RAR archive for each class; `test_train_splits.rar` contains the
official splits. Already extracted videos are hard-linked if the file system allows it, otherwise
copied. The output folder appears under its name only when it is complete.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dali_pipelines.cores import num_cores
from engine import atomic
from engine.data import hmdb51_splits, splits
from engine.data.archives import unpack
from engine.data.folders import list_clips
from engine.data.index import Index, open_clips
from engine.errors import UserError
from engine.progress import progress_bar

VIDEOS_ARCHIVE = "hmdb51_org.rar"
SPLITS_ARCHIVE = "test_train_splits.rar"
SPLIT_SUFFIXES = tuple(f"_test_split{fold}.txt" for fold in hmdb51_splits.FOLDS)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The imported dataset, and where its official splits differ from the published ones."""

    index: Index
    odd_counts: list[str]
    """See `hmdb51_splits.odd_counts`."""


def import_hmdb51(path: Path, out: Path) -> Imported:
    """Create `out/videos`, `out/testTrainMulti_7030_splits` and `out/manifest.csv` from `path`.

    Args:
        path: The folder that HMDB51 was downloaded or extracted to, or `hmdb51_org.rar`.
        out: The new dataset folder.

    Raises:
        UserError: Videos or splits are missing, or an archive is damaged.
    """
    if not path.exists():
        raise UserError(f"{path} doesn't exist; name the folder that holds {VIDEOS_ARCHIVE}.")
    folder = path if path.is_dir() else path.parent
    with atomic.new_folder(out) as stage:
        _place_splits(folder, stage / hmdb51_splits.FOLDER)
        _place_videos(path, folder, stage)
        index = index_stage(stage)
        odd_counts = hmdb51_splits.odd_counts(index.manifest)
    return Imported(index=index.moved_to(out), odd_counts=odd_counts)


def index_stage(stage: Path) -> Index:
    """Index a folder in HMDB51's layout, apply official split 1, and save the manifest."""
    try:
        index = open_clips(stage, list_clips(stage))
        hmdb51_splits.check_names(index.manifest)
        manifest = splits.apply(index.manifest, splits.Official(fold=1))
    except UserError as error:  # hide the temporary folder from the user
        raise UserError(str(error).replace(f"{stage}{os.sep}", "")) from error
    return dataclasses.replace(index, manifest=manifest)


def _place_videos(path: Path, folder: Path, stage: Path) -> None:
    videos = stage / "videos"
    videos.mkdir()
    outer = path if path.is_file() else folder / VIDEOS_ARCHIVE
    if outer.is_file():
        inner = stage / ".archives"
        inner.mkdir()
        unpack(outer, lambda name: inner / name.name if _is_class(name) else None, "classes")
        archives = sorted(inner.iterdir())
        if not archives:
            raise UserError(f"{outer} holds no class archives; is it HMDB51's {VIDEOS_ARCHIVE}?")
        _unpack_classes(archives, videos)
        shutil.rmtree(inner)
        return
    class_archives = sorted(
        archive for archive in folder.glob("*.rar") if archive.name != SPLITS_ARCHIVE
    )
    if class_archives:
        _unpack_classes(class_archives, videos)
        return
    _link_classes(folder, videos)


def _is_class(name: PurePosixPath) -> bool:
    """True for the archive of a class, whose stem becomes the name of a folder."""
    return name.suffix == ".rar" and not name.stem.startswith(".")


def _unpack_classes(archives: list[Path], videos: Path) -> None:
    for archive in archives:
        (videos / archive.stem).mkdir()

    def target(archive: Path) -> Callable[[PurePosixPath], Path | None]:
        return lambda name: videos / archive.stem / name.name if name.suffix == ".avi" else None

    executor = ThreadPoolExecutor(max_workers=num_cores())
    try:
        with progress_bar("Unpacking videos", total=len(archives), unit="classes") as advance:
            for _ in executor.map(lambda archive: unpack(archive, target(archive)), archives):
                advance()
    finally:
        executor.shutdown(cancel_futures=True)


def _link_classes(folder: Path, videos: Path) -> None:
    tops = [folder / name for name in ("videos", "hmdb51_org", ".")]
    top = next(top for top in tops if top.is_dir())
    classes = [
        child
        for child in sorted(top.iterdir())
        if child.is_dir() and any(clip.suffix == ".avi" for clip in child.iterdir())
    ]
    if not classes:
        raise UserError(
            f"{folder} holds neither {VIDEOS_ARCHIVE} nor class archives nor class folders of .avi "
            "files; name the folder that HMDB51 was downloaded or unpacked to."
        )
    clips = [clip for child in classes for clip in sorted(child.glob("*.avi"))]
    with progress_bar("Linking videos", total=len(clips), unit="clips") as advance:
        for clip in clips:
            target = videos / clip.parent.name / clip.name
            target.parent.mkdir(exist_ok=True)
            try:
                os.link(clip, target)
            except OSError:  # another file system, or one without hard links
                shutil.copy2(clip, target)
            advance()


def _place_splits(folder: Path, target: Path) -> None:
    target.mkdir()
    archive = folder / SPLITS_ARCHIVE
    if archive.is_file():
        unpack(
            archive,
            lambda name: target / name.name if name.name.endswith(SPLIT_SUFFIXES) else None,
        )
    else:
        for path in _split_files(folder):
            shutil.copy2(path, target / path.name)
    if not any(target.iterdir()):
        raise UserError(
            f"{folder} holds neither {SPLITS_ARCHIVE} nor the folder {hmdb51_splits.FOLDER}; "
            "download HMDB51's official splits and put them beside its videos."
        )


def _split_files(folder: Path) -> list[Path]:
    for candidate in (folder / hmdb51_splits.FOLDER, folder, folder.parent / hmdb51_splits.FOLDER):
        if candidate.is_dir():
            files = [path for path in candidate.iterdir() if path.name.endswith(SPLIT_SUFFIXES)]
            if files:
                return sorted(files)
    return []
