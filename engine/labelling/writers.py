"""Writes the results of a journal: CSV, JSON lines, Parquet, Label Studio, FiftyOne, subtitles.

Every file is generated from the journal, sorted by name, and replaced atomically.
"""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from engine import atomic
from engine.errors import UserError, unknown_name
from engine.file_names import folded
from engine.labelling.addresses import is_address
from engine.labelling.journal import Journal, LabelledFile
from engine.labelling.segments import Segment, segments

Row = dict[str, Any]
COLUMNS = ("path", "label", "confidence", "top", "duration_s", "windows", "review")
PARQUET_ROWS = 10_000
LONGEST_NAME = 255
"""Bytes; the limit of common file systems."""


@dataclass(frozen=True, kw_only=True)
class OutputStyle:
    class_names: list[str]
    root: Path
    """The folder that names are relative to."""
    top_k: int = 5
    min_confidence: float = 0.0
    """Files below this confidence are marked for review."""
    smooth_s: float = 0.0


def row_of(labelled: LabelledFile, style: OutputStyle) -> Row:
    """Make a row of results; a file's label comes from the mean probabilities of its windows."""
    mean = np.array([p for _, _, p in labelled.windows], np.float64).mean(axis=0)
    best = np.argsort(-mean, kind="stable")[: style.top_k]
    confidence = round(float(mean[best[0]]), 4)
    return {
        "path": labelled.name,
        "label": style.class_names[best[0]],
        "confidence": confidence,
        "top": {style.class_names[index]: round(float(mean[index]), 4) for index in best},
        "duration_s": round(max(end for _, end, _ in labelled.windows), 3),
        "windows": len(labelled.windows),
        "review": confidence < style.min_confidence,
    }


def _csv(path: Path, files: Iterable[LabelledFile], style: OutputStyle) -> None:
    def lines() -> Iterator[list[str]]:
        for row in (row_of(file, style) for file in files):
            top = " ".join(f"{name}:{share:.4f}" for name, share in row["top"].items())
            yield [
                row["path"], row["label"], f"{row['confidence']:.4f}", top,
                f"{row['duration_s']:.3f}", str(row["windows"]), "yes" if row["review"] else "",
            ]  # fmt: skip

    _stream(path, COLUMNS, lines())


def _stream(path: Path, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Write a CSV file row by row, so that it never has to fit in memory."""
    with atomic.new_text(path) as file:
        plain = csv.writer(file, lineterminator="\n")
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(header)
        for row in rows:
            # The csv module doesn't quote a lone carriage return, and then can't read it back.
            cells = list(row)
            (quoting if any("\r" in cell for cell in cells) else plain).writerow(cells)


def _jsonl(path: Path, files: Iterable[LabelledFile], style: OutputStyle) -> None:
    with atomic.new_text(path) as out:
        for file in files:
            row = row_of(file, style) | {
                "segments": [_segment(s, style) for s in _segments(file, style)]
            }
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _parquet(path: Path, files: Iterable[LabelledFile], style: OutputStyle) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path.name} needs pyarrow: pip install pyarrow.") from error
    schema = pa.schema(
        [
            ("path", pa.string()), ("label", pa.string()), ("confidence", pa.float64()),
            ("top", pa.map_(pa.string(), pa.float64())), ("duration_s", pa.float64()),
            ("windows", pa.int64()), ("review", pa.bool_()),
        ]
    )  # fmt: skip
    with atomic.new_binary(path) as out, parquet.ParquetWriter(out, schema) as writer:
        for rows in _chunks(row_of(file, style) for file in files):
            utf8_rows = [
                row
                | {
                    "path": _utf8(row["path"]),
                    "label": _utf8(row["label"]),
                    "top": [(_utf8(name), share) for name, share in row["top"].items()],
                }
                for row in rows
            ]
            writer.write_table(pa.Table.from_pylist(utf8_rows, schema))


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == PARQUET_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _utf8(name: str) -> str:
    """Escape bytes that are not UTF-8: Parquet strings must be valid UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _labelstudio(path: Path, files: Iterable[LabelledFile], style: OutputStyle) -> None:
    """Write tasks with predictions, for a folder that is a local storage of Label Studio.

    Addresses begin with the folder's name: Label Studio serves folders below its document root,
    but refuses the document root itself as a storage.
    """
    root = Path(os.path.normpath(style.root.absolute()))

    def task(file: LabelledFile) -> Row:
        row = row_of(file, style)
        choice = {
            "from_name": "label", "to_name": "video", "type": "choices",
            "value": {"choices": [row["label"]]},
        }  # fmt: skip
        address = row["path"]
        if not is_address(address):
            video = Path(os.path.normpath(root / address))
            if video.is_relative_to(root.parent):  # others need `/` as the document root
                video = video.relative_to(root.parent)
            address = f"/data/local-files/?d={quote(os.fsencode(video))}"
        prediction = {"model_version": "engine", "score": row["confidence"], "result": [choice]}
        return {"data": {"video": address}, "predictions": [prediction]}

    _array(path, (task(file) for file in files), "[", "]")


def _fiftyone(path: Path, files: Iterable[LabelledFile], style: OutputStyle) -> None:
    """Write `samples.json` of FiftyOne's dataset format."""

    def sample(file: LabelledFile) -> Row:
        row = row_of(file, style)
        return {
            "filepath": row["path"]
            if is_address(row["path"])
            else str((style.root / row["path"]).absolute()),
            "_media_type": "video",
            "prediction": {
                "_cls": "Classification", "label": row["label"], "confidence": row["confidence"],
            },
        }  # fmt: skip

    _array(path, (sample(file) for file in files), '{"samples": [', "]}")


def _array(path: Path, items: Iterable[Row], opening: str, closing: str) -> None:
    with atomic.new_text(path) as file:
        file.write(opening)
        for number, item in enumerate(items):
            file.write((",\n" if number else "\n") + json.dumps(item, ensure_ascii=False))
        file.write(f"\n{closing}\n")


Writer = Callable[[Path, Iterable[LabelledFile], OutputStyle], None]
FORMATS: dict[str, Writer] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "labelstudio": _labelstudio,
    "fiftyone": _fiftyone,
}
FORMAT_OF_SUFFIX = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


def format_of(out: Path, named: str | None) -> str:
    if named is None:
        if out.suffix not in FORMAT_OF_SUFFIX:
            raise UserError(
                f"{out} ends in none of {', '.join(FORMAT_OF_SUFFIX)}: name a `format`, one of "
                f"{', '.join(FORMATS)}."
            )
        return FORMAT_OF_SUFFIX[out.suffix]
    if named not in FORMATS:
        raise unknown_name("`format`", named, list(FORMATS))
    return named


def failures_of(labels: Path) -> Path:
    """The path of the CSV with failed files that belongs to `labels`."""
    return labels.with_name(f"failures-{labels.name.removesuffix('.csv')}.csv")


@dataclass(frozen=True, kw_only=True)
class Outputs:
    labels: Path
    format: str
    failures: Path
    segments: Path | None = None
    subtitles: Path | None = None
    """A folder."""

    @property
    def tables(self) -> list[Path]:
        """All output files except subtitles."""
        others = [self.segments] if self.segments is not None else []
        return [self.labels, self.failures, *others]


@dataclass(kw_only=True)
class Written:
    files: list[Path]
    """Written files, and the folder of subtitles."""
    left_alone: list[Path]
    """Existing subtitles that no run of this journal wrote, and that were not replaced."""


def write(journal: Journal, outputs: Outputs, style: OutputStyle) -> Written:
    """Write all outputs.

    Raises:
        UserError: A file at the path of an output was not written by this journal's runs.
    """
    claims = journal.claims
    claims.add([outputs.labels])
    FORMATS[outputs.format](outputs.labels, journal.labelled(), style)
    claims.settle([outputs.labels])
    written = Written(files=[outputs.labels], left_alone=[])
    _, num_failed = journal.counts()
    if num_failed:
        _write_table(journal, outputs.failures, ("path", "reason"), journal.failures())
        written.files.append(outputs.failures)
    elif claims.holds(outputs.failures):
        outputs.failures.unlink(missing_ok=True)
        claims.drop([outputs.failures])
    if outputs.segments is not None:
        rows = _segment_rows(journal, style)
        _write_table(journal, outputs.segments, SEGMENT_COLUMNS, rows)
        written.files.append(outputs.segments)
    if outputs.subtitles is not None:
        written.left_alone = _write_subtitles(journal, outputs.subtitles, style)
        written.files.append(outputs.subtitles)
    return written


def _write_table(
    journal: Journal, path: Path, header: Iterable[str], rows: Iterable[Iterable[str]]
) -> None:
    if path.exists() and not journal.claims.holds(path):
        raise UserError(
            f"{path} was not written by this run: remove it, or name another file, and run the "
            "same command again; labels so far are kept."
        )
    journal.claims.add([path])
    _stream(path, header, rows)
    journal.claims.settle([path])


def _write_subtitles(journal: Journal, folder: Path, style: OutputStyle) -> list[Path]:
    """Write a subtitle file per video; returns existing files of other origin, which are kept."""
    shared = _shared_names(journal.names())
    claims = journal.claims

    def path_of(video: str) -> Path:
        return folder / next(name for name in _vtt_names(video) if folded(name) not in shared)

    paths = {path_of(name) for name in journal.names()}
    unknown = {path for path in paths if path.exists() and not claims.holds(path)}
    claims.add(path for path in paths if path not in unknown)
    left_alone: set[Path] = set()
    for file in journal.labelled():
        path, text = path_of(file.name), _vtt(file, style)
        if path in unknown and path.read_bytes() != text.encode(errors="surrogateescape"):
            left_alone.add(path)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.new_text(path) as out:
            out.write(text)
    claims.settle(path for path in paths if path not in left_alone)
    stale = [path for path in claims.paths() if _is_vtt_below(folder, path) and path not in paths]
    for path in stale:
        if claims.holds(path):
            path.unlink(missing_ok=True)
    claims.drop(stale)
    return sorted(left_alone)


def _is_vtt_below(folder: Path, path: Path) -> bool:
    return path.suffix == ".vtt" and path.is_relative_to(folder)


SEGMENT_COLUMNS = ("path", "start_s", "end_s", "label", "confidence")


def _segment_rows(journal: Journal, style: OutputStyle) -> Iterator[tuple[str, ...]]:
    for file in journal.labelled():
        for segment in _segments(file, style):
            row = _segment(segment, style)
            yield file.name, *(str(row[name]) for name in SEGMENT_COLUMNS[1:])


def _segments(labelled: LabelledFile, style: OutputStyle) -> list[Segment]:
    return segments(labelled.windows, smooth_s=style.smooth_s)


def _segment(segment: Segment, style: OutputStyle) -> Row:
    return {
        "start_s": round(segment.start_s, 3),
        "end_s": round(segment.end_s, 3),
        "label": style.class_names[segment.label],
        "confidence": round(segment.confidence, 4),
    }


def _vtt_names(video: str) -> list[str]:
    """Candidate names of a video's subtitles: day.mp4 gets day.vtt, which players find.

    The longer names are for videos whose shorter name is shared with another video.
    """
    path = _below(video)
    digest = hashlib.sha256(os.fsencode(video)).hexdigest()[:16]
    names = [str(path.with_suffix(".vtt")), f"{path}.vtt", f"{path}.{digest}.vtt"]
    fitting = [name for name in names if len(os.fsencode(Path(name).name)) <= LONGEST_NAME]
    return [*fitting, str(path.with_name(f"{digest}.vtt"))]


def _below(video: str) -> Path:
    """A relative path without `..`, so that nothing is written outside the folder.

    That of an address begins with the server or bucket.
    """
    if is_address(video):
        video = video.partition("://")[2]
    parts = [part for part in Path(video).parts if part not in ("/", "..")]
    return Path(*parts) if parts else Path("video")


def _shared_names(videos: Iterable[str]) -> set[str]:
    """Case-folded subtitle names that more than one video would get."""
    seen: set[str] = set()
    shared: set[str] = set()
    for video in videos:
        names = set(map(folded, _vtt_names(video)))
        shared |= names & seen
        seen |= names
    return shared


def _vtt(labelled: LabelledFile, style: OutputStyle) -> str:
    parts = ["WEBVTT\n"]
    for segment in _segments(labelled, style):
        span = f"{_clock(segment.start_s)} --> {_clock(segment.end_s)}"
        name = " ".join(style.class_names[segment.label].split())  # a line break ends a cue
        parts.append(f"\n{span}\n{escape(name, quote=False)} ({segment.confidence:.0%})\n")
    return "".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
