"""Finds labeled clips in class folders without opening them.

Supported layouts: <class>/<video> and train|val|test/<class>/<video>; a folder of extracted frames
may replace a video. If the top folder has a `videos` folder, as HMDB51 has, that one is searched.
"""

from dataclasses import dataclass, field
from pathlib import Path

from dali_pipelines.decode.frame_folder import CODECS as IMAGE_CODECS
from engine.data.manifest import Split
from engine.errors import UserError

VIDEO_SUFFIXES = frozenset(
    ".3gp .asf .avi .divx .f4v .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob "
    ".webm .wmv .y4m".split()
)
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
SPLIT_FILE_FOLDERS = frozenset({"splits", "testTrainMulti_7030_splits"})
"""Folders that are not classes, unless they contain clips."""


@dataclass(frozen=True, kw_only=True)
class FoundClip:
    """A clip of the dataset that was not opened yet."""

    path: str
    label: str
    split: Split = ""
    source: str | None = None
    """None: to be parsed from the file name."""


@dataclass(kw_only=True)
class Listing:
    """The clips of a dataset, and the files that are not clips."""

    found: list[FoundClip] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    """Files that are neither video nor frames, relative to the root."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Folders without read permission and broken links, and why; their clips are missing."""


def list_clips(root: Path) -> Listing:
    """Find every clip below `root`, sorted by path.

    Raises:
        UserError: `root` is not a folder, can't be read, or contains no class folder or clip.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; name the folder that holds the class folders.")
    top = root / "videos" if _holds_classes(root / "videos") else root
    listing = Listing()
    if reason := _why_unreadable(top):
        raise UserError(f"{top} can't be read ({reason}).")
    folders = [path for path in _visible(top) if path.is_dir() and not _has_split_files(path)]
    for path in {*_visible(root), *_visible(top)}:
        beside_top = path.parent == root != top and path.is_dir() and path != top
        stray = beside_top and not _has_split_files(path)
        if stray or path.suffix.lower() in VIDEO_SUFFIXES:
            listing.ignored.append(path.relative_to(root).as_posix())
        elif reason := _why_unreadable(path):
            listing.unreadable[path.relative_to(root).as_posix()] = reason
    if not folders:
        raise UserError(
            f"{top} holds no class folders; put each clip in a folder named after its class, "
            "or pass a list of paths and labels with `list=True`."
        )
    if _are_splits(folders):
        for folder in folders:
            for class_folder in _visible(folder):
                if class_folder.is_dir():
                    _add_class(listing, root, class_folder, SPLIT_FOLDERS[folder.name.lower()])
    else:
        for folder in folders:
            _add_class(listing, root, folder, "")
    if not listing.found:
        name, reason = next(iter(listing.unreadable.items()))
        raise UserError(f"{root / name} can't be read ({reason}), and no other clip was found.")
    return listing


def is_clip(path: Path) -> bool:
    """True for a video file, and for a folder of images without subfolders and videos."""
    if path.is_dir():
        children = _visible(path)
        if any(child.is_dir() or child.suffix.lower() in VIDEO_SUFFIXES for child in children):
            return False
        return any(child.suffix.lower() in IMAGE_CODECS for child in children)
    return path.suffix.lower() in VIDEO_SUFFIXES


def _holds_classes(folder: Path) -> bool:
    return folder.is_dir() and any(
        child.is_dir() and not is_clip(child) for child in _visible(folder)
    )


def _has_split_files(folder: Path) -> bool:
    return folder.name in SPLIT_FILE_FOLDERS and not any(map(is_clip, _visible(folder)))


def _are_splits(folders: list[Path]) -> bool:
    """True if all are split folders: a class that happens to be called `train` contains clips."""
    return all(
        folder.name.lower() in SPLIT_FOLDERS
        and not any(is_clip(child) for child in _visible(folder))
        for folder in folders
    )


def _add_class(listing: Listing, root: Path, folder: Path, split: Split) -> None:
    if reason := _why_unreadable(folder):
        listing.unreadable[folder.relative_to(root).as_posix()] = reason
        return
    has_clips = False
    for path in _visible(folder):
        name = path.relative_to(root).as_posix()
        if is_clip(path):
            has_clips = True
            listing.found.append(FoundClip(path=name, label=folder.name, split=split))
        elif reason := _why_unreadable(path):
            has_clips = True
            listing.unreadable[name] = reason
        else:
            listing.ignored.append(name)
    if not has_clips:
        raise UserError(
            f"{folder} holds no clips; remove the folder, or put the class's videos or frame "
            "folders into it."
        )


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _why_unreadable(path: Path) -> str:
    """Why a folder, file or link can't be read; empty if it can."""
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.stat()
    except FileNotFoundError:
        return "the link leads nowhere"
    except OSError as error:
        return error.strerror or str(error)
    return ""
