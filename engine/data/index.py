"""Indexes a folder: finds the clips, opens each one, and makes the manifest."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dali_pipelines.decode import clip_file
from dali_pipelines.decode.clip_facts import ClipFacts
from engine.data import folders, hmdb51_splits, lists, sources, splits, validate
from engine.data.folders import FoundClip, Listing
from engine.data.manifest import Clip, Manifest
from engine.parallel import run_each


@dataclass(frozen=True, kw_only=True)
class Index:
    """A manifest, and what was noticed while it was made."""

    manifest: Manifest
    grammars: Counter[str]
    """The number of clips for each naming scheme that their sources were parsed with."""
    unreadable: dict[str, str]
    """Paths that can't be opened, and why. Such clips keep their row, with 0 frames."""
    ignored: list[str]

    def moved_to(self, root: Path) -> "Index":
        """The same index after the folder was renamed to `root`."""
        return replace(self, manifest=replace(self.manifest, root=root))


def index_folder(
    root: Path,
    *,
    list_files: list[Path] | None = None,
    skip_missing: bool = False,
    frames_fps: float = 0.0,
) -> Index:
    """Index the dataset at `root`; nothing is written.

    Args:
        root: The folder of the dataset.
        list_files: Lists of paths and labels. By default, labels are the names of class folders.
        skip_missing: Skip listed clips that don't exist, instead of raising an error.
        frames_fps: Frame rate of extracted frames, which don't store it.

    Raises:
        UserError: No clip was found, or a list or HMDB51's split files don't fit the folder.
    """
    if list_files:
        listing = lists.read_lists(root, list_files, skip_missing=skip_missing)
    else:
        listing = folders.list_clips(root)
    index = open_clips(root, listing, frames_fps=frames_fps)
    if not list_files:  # a list may name fewer clips than the split files
        hmdb51_splits.check_names(index.manifest)
    return index


def save(index: Index) -> None:
    """Write the manifest, and remove the health report and split note of an older one."""
    index.manifest.save()
    for note in (validate.FILE_NAME, splits.NOTE):
        (index.manifest.root / note).unlink(missing_ok=True)


def open_clips(root: Path, listing: Listing, *, frames_fps: float = 0.0) -> Index:
    """Open every clip of `listing` and read its frame count, frame rate, size and codec."""
    clips: list[Clip] = []
    grammars: Counter[str] = Counter()
    unreadable = dict(listing.unreadable)
    outcomes = run_each(partial(_probe, root), listing.found, title="Indexing", timeout_s=60)
    for outcome in outcomes:
        entry, facts = outcome.item, outcome.value
        source, grammar = _source(root, entry)
        grammars[grammar] += 1
        if facts is None:
            unreadable[entry.path] = getattr(outcome.error, "reason", None) or str(outcome.error)
            clips.append(Clip(path=entry.path, label=entry.label, source=source, split=entry.split))
            continue
        clips.append(
            Clip(
                path=entry.path,
                label=entry.label,
                source=source,
                split=entry.split,
                frames=facts.frames,
                fps=facts.fps or frames_fps,
                width=facts.width,
                height=facts.height,
                codec=facts.codec,
            )
        )
    return Index(
        manifest=Manifest(root=root, clips=tuple(clips)),
        grammars=grammars,
        unreadable=unreadable,
        ignored=listing.ignored,
    )


def _probe(root: Path, entry: FoundClip) -> ClipFacts:
    return clip_file.probe(root / entry.path)


def _source(root: Path, entry: FoundClip) -> tuple[str, str]:
    if entry.source is not None:
        return entry.source, "the list"
    path = root / entry.path
    return sources.find_source(path.name if path.is_dir() else path.stem, entry.label)
