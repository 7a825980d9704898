"""Reads lists of clips: CSV with path and label, Kinetics CSV, and space-separated lists.

Each line of a space-separated list is `path label`, as in UCF101, Kinetics and several toolkits.
There may be a frame count between the two. If the label is missing, the clip's folder is the label.
Numeric labels are replaced by class names if UCF101's classInd.txt is beside the list.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engine.data.folders import SPLIT_FOLDERS, VIDEO_SUFFIXES, FoundClip, Listing, is_clip
from engine.data.manifest import Split, is_inside
from engine.errors import UserError

CLASS_INDEX = "classInd.txt"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    line: int
    path: str
    label: str
    split: str
    source: str | None = None


def read_lists(root: Path, lists: list[Path], *, skip_missing: bool) -> Listing:
    """Read the clips that `lists` name.

    Args:
        root: The folder of the dataset.
        lists: List files. Unless it has a split column, the name of a list gives the split, as in
            train.csv, vallist01.txt or test.txt.
        skip_missing: Skip listed clips that don't exist, instead of raising an error.

    Returns:
        The clips. `Listing.ignored` names the missing ones.

    Raises:
        UserError: A list can't be read, or names missing, ambiguous or repeated clips.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; name the folder that holds the clips.")
    finder = _Finder(root)
    listing = Listing()
    named_by: dict[str, str] = {}
    missing: list[str] = []
    for path in lists:
        for entry in _entries(path, finder):
            where = f"{path} line {entry.line}"
            located = finder.locate(entry.path, where)
            if located is None:
                missing.append(f"{where} names {entry.path}")
                continue
            if located in named_by:
                raise UserError(
                    f"{where} names {located} again (first in {named_by[located]}); remove one."
                )
            if not entry.label:
                raise UserError(f"{where}: {entry.path} has no label; add one.")
            named_by[located] = where
            split = _split(entry.split, where) if entry.split else _split_of_list(path)
            listing.found.append(
                FoundClip(path=located, label=entry.label, split=split, source=entry.source)
            )
    if missing and not skip_missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise UserError(
            f"{missing[0]}, which isn't in {root}{more}; add what is missing, or pass "
            "`skip_missing=True`."
        )
    labels = {entry.label for entry in listing.found}
    if any(map(str.isdecimal, labels)) and not all(map(str.isdecimal, labels)):
        raise UserError(
            f"{', '.join(map(str, lists))}: some labels are numbers and some are names; put "
            f"{CLASS_INDEX} (`<number> <class>` a line) beside the lists."
        )
    if not listing.found:
        raise UserError(f"{', '.join(map(str, lists))}: no clip listed there is in {root}.")
    listing.ignored = missing
    return listing


class _Finder:
    """Locates a listed clip by its path, by its path without the suffix, or only by its name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_stem: dict[str, list[str]] | None = None

    def locate(self, name: str, where: str) -> str | None:
        path = Path(name)
        if path.is_absolute() and path.is_relative_to(self.root.absolute()):
            name = path.relative_to(self.root.absolute()).as_posix()
        name = PurePosixPath(name).as_posix() if name else name
        if not is_inside(name):
            raise UserError(f"{where}: {name} lies outside {self.root}; use paths inside it.")
        for prefix in ("", "videos/"):
            if _is_there(self.root / prefix / name) and is_clip(self.root / prefix / name):
                return prefix + name
        matches = self._index().get(
            Path(name).stem if _has_video_suffix(name) else Path(name).name, []
        )
        if "/" in name:
            matches = [
                match for match in matches if match.split("/")[-2:-1] == name.split("/")[-2:-1]
            ]
        if len(matches) > 1:
            raise UserError(f"{where}: {name} may be {matches[0]} or {matches[1]}; give the path.")
        return matches[0] if matches else None

    def _index(self) -> dict[str, list[str]]:
        if self._by_stem is None:
            self._by_stem = {}
            for path in sorted(self.root.rglob("*")):
                if is_clip(path):
                    stem = path.name if path.is_dir() else path.stem
                    relative = path.relative_to(self.root).as_posix()
                    self._by_stem.setdefault(stem, []).append(relative)
        return self._by_stem


def _entries(path: Path, finder: _Finder) -> list[_Entry]:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); name a list file.") from error
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; each line of a list needs a path and a label.")
    header = [cell.strip().lower() for cell in _cells(path, *lines[0])]
    if "youtube_id" in header:
        return _kinetics(path, lines, header)
    if "path" in header and "label" in header:
        return _with_header(path, lines, header)
    if "," in lines[0][1]:
        return [_pair(path, number, _cells(path, number, line)) for number, line in lines]
    return _spaced(path, lines, finder)


def _with_header(path: Path, lines: list[tuple[int, str]], header: list[str]) -> list[_Entry]:
    return [
        _Entry(
            line=number,
            path=row["path"],
            label=row["label"],
            split=row.get("split", ""),
            source=row.get("source") or None,
        )
        for number, row in _rows(path, lines, header)
    ]


def _kinetics(path: Path, lines: list[tuple[int, str]], header: list[str]) -> list[_Entry]:
    """Read Kinetics CSV; its files are named <id>_<start>_<end>, with times as 6-digit seconds."""
    entries = []
    for number, row in _rows(path, lines, header):
        try:
            start, end = (round(float(row[name])) for name in ("time_start", "time_end"))
        except (KeyError, ValueError, OverflowError) as error:
            raise UserError(
                f"{path} line {number}: time_start and time_end must be numbers."
            ) from error
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        split = row.get("split", "")
        split = "val" if split == "validate" else split
        entries.append(
            _Entry(
                line=number,
                path=name,
                label=row.get("label", ""),
                split=split,
                source=row["youtube_id"],
            )
        )
    return entries


def _rows(
    path: Path, lines: list[tuple[int, str]], header: list[str]
) -> list[tuple[int, dict[str, str]]]:
    rows = []
    for number, line in lines[1:]:
        cells = _cells(path, number, line)
        if len(cells) != len(header):
            raise UserError(
                f"{path} line {number}: {len(cells)} values where the first line names "
                f"{len(header)}; fix the row."
            )
        rows.append((number, dict(zip(header, cells, strict=True))))
    return rows


def _cells(path: Path, number: int, line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error as error:
        raise UserError(f"{path} line {number}: not CSV ({error}); fix the row.") from error


def _pair(path: Path, number: int, cells: list[str]) -> _Entry:
    if len(cells) != 2:
        raise UserError(f"{path} line {number}: {len(cells)} values instead of path and label.")
    return _Entry(line=number, path=cells[0], label=cells[1].strip(), split="")


def _spaced(path: Path, lines: list[tuple[int, str]], finder: _Finder) -> list[_Entry]:
    names = _class_index(path.parent / CLASS_INDEX)
    entries = []
    for number, line in lines:
        name, label = line.strip(), ""
        if not _names_clip(name, finder) and len(name.split()) > 1:
            name, label = name.rsplit(None, 1)
            *rest, count = name.rsplit(None, 1)
            if not _names_clip(name, finder) and rest and count.isdecimal():
                name = rest[0]  # the column between them is the frame count
        if names and label.isdecimal() and label not in names:
            raise UserError(
                f"{path} line {number}: class {label} isn't in {path.parent / CLASS_INDEX}; "
                "fix one of the two."
            )
        label = names.get(label, label) or Path(name).parent.name
        entries.append(_Entry(line=number, path=name, label=label, split=""))
    return entries


def _names_clip(name: str, finder: _Finder) -> bool:
    return _has_video_suffix(name) or (is_inside(name) and _is_there(finder.root / name))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder without read permission
        return False


def _has_video_suffix(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def _class_index(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    names = {}
    text = path.read_text("utf-8-sig", errors="surrogateescape")
    for line_number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            number, _, name = line.strip().partition(" ")
            if not name.strip():
                raise UserError(f"{path} line {line_number}: {line!r} isn't `<number> <class>`.")
            names[number] = name.strip()
    return names


def _split(name: str, where: str) -> Split:
    if name.lower() not in SPLIT_FOLDERS:
        raise UserError(f"{where}: the split {name!r} is not train, val or test.")
    return SPLIT_FOLDERS[name.lower()]


def _split_of_list(path: Path) -> Split:
    """The split that a list's file name contains, as in trainlist01.txt, ucf_val.txt, test.csv."""
    for word in re.split(r"[^a-z]+", path.stem.lower()):
        if split := SPLIT_FOLDERS.get(word.removesuffix("list")):
            return split
    return ""
