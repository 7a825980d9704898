"""Checks which frame each decoder returns for a frame number, on folders of videos.

Run `python -m benchmarks.scripts.frames --clips NAME=FOLDER --clips NAME=FOLDER`. Frame n is the
n-th frame of a full decode by PyAV. Every decoder reads the same frames of each video, twice:
spread evenly from the first to the last (`equidistant`), and the middles of equal segments
(`segments`). Each frame is compared with all frames of the full decode. It is *wrong* if it clearly
matches another frame, and *missing* if it isn't returned. Nearly identical frames of a clip count
as equal. Our own frames must be identical to the full decode, bit by bit. Decoders run in separate
processes, so a crash or hang only fails one file. Files that don't decode to their end are listed
and left out.
"""

import argparse
import dataclasses
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.baselines.frame_readers import READERS, Reader, lacks, num_damaged
from benchmarks.clip_sets import (
    Clip,
    ClipSet,
    add_clips_argument,
    decoded_clips,
    first_line,
    numbers_of,
)
from benchmarks.full_decode import FullDecode
from benchmarks.machine import fingerprint, result_file
from dali_pipelines.spec import Sampling
from engine.parallel import run_each

RESULTS = Path(__file__).parents[1] / "results"
SAMPLINGS: tuple[Sampling, ...] = ("equidistant", "segments")
TIMEOUT_S = 120.0
"""Per decoder and file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_clips_argument(parser)
    parser.add_argument("--frames", type=int, default=16, help="number of frames per clip")
    parser.add_argument(
        "--files", type=int, help="maximum number of files per folder, spread over all"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    sets = [clips.sample(options.files) for clips in options.clips]
    facts = fingerprint()
    path = result_file(options.out, "frames", facts)
    result = {
        "command": command(options.clips, options.frames, options.files),
        "protocol": " ".join((__doc__ or "").split()),
        **facts,
        "versions": versions(READERS.values()),
        **measure(sets, READERS, num_frames=options.frames),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    for measured in result["sets"]:
        print_set(measured)
    print(f"written to {path}")


def command(sets: list[ClipSet], num_frames: int, num_files: int | None) -> str:
    words = ["python", "-m", "benchmarks.scripts.frames"]
    for clips in sets:
        words += ["--clips", clips.argument]
    words += ["--frames", str(num_frames)]
    return shlex.join(words if num_files is None else [*words, "--files", str(num_files)])


def versions(readers: Iterable[Reader]) -> dict[str, str]:
    installed = {}
    for package in ("av", *(reader.package for reader in readers if reader.package)):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def measure(sets: list[ClipSet], readers: dict[str, Reader], *, num_frames: int) -> dict[str, Any]:
    reasons = {
        name: outcome.value or (str(outcome.error) if outcome.error else None)
        for name, outcome in zip(
            readers, run_each(lacks, list(readers.values()), title="Decoders", unit="decoders"),
            strict=True,
        )
    }  # fmt: skip
    return {
        "num_frames": num_frames,
        "sets": [_measure_set(clips, readers, reasons, num_frames) for clips in sets],
    }


@dataclass(frozen=True, kw_only=True)
class _Task:
    """The frames that one decoder reads of one file."""

    name: str
    reader: Reader
    clip: Clip
    numbers: dict[Sampling, list[int]]


@dataclass(kw_only=True)
class _Tally:
    wanted: int = 0
    wrong: int = 0
    missing: int = 0
    farthest: int = 0
    """Maximum distance between a wrong frame and the requested one, in frames."""
    files_wrong: int = 0
    """Files with a wrong or missing frame."""

    def add(self, other: "_Tally") -> None:
        self.wanted += other.wanted
        self.wrong += other.wrong
        self.missing += other.missing
        self.farthest = max(self.farthest, other.farthest)
        self.files_wrong += other.files_wrong


@dataclass(kw_only=True)
class _Answer:
    tallies: dict[Sampling, _Tally]
    states: int | None = None
    """Number of frames that the decoder reports."""
    damaged: int = 0
    error: str | None = None


def _measure_set(
    clips: ClipSet, readers: dict[str, Reader], reasons: dict[str, str | None], num_frames: int
) -> dict[str, Any]:
    intact, broken = decoded_clips(clips)
    wanted = {
        clip.path: {
            sampling: numbers_of(clip.num_frames, num_frames, sampling) for sampling in SAMPLINGS
        }
        for clip in intact
    }
    tasks = [
        _Task(name=name, reader=reader, clip=clip, numbers=wanted[clip.path])
        for clip in intact
        for name, reader in readers.items()
        if reasons[name] is None
    ]
    answers: dict[str, list[tuple[_Task, _Answer]]] = {name: [] for name in readers}
    for outcome in run_each(
        _run, tasks, title=f"{clips.name}: frames", unit="answers", timeout_s=TIMEOUT_S
    ):
        task = outcome.item
        answer = outcome.value or _no_answer(task, outcome.error or EOFError())
        answers[task.name].append((task, answer))
    return {
        "name": clips.name,
        "num_files": len(clips.paths),
        "broken": broken,
        "rows": [
            {"name": name, "words": reader.words}
            | ({"error": reasons[name]} if reasons[name] else _row(answers[name]))
            for name, reader in readers.items()
        ],
    }


def _run(task: _Task) -> _Answer:
    path, reader = task.clip.path, task.reader
    truth = _full_decode(path, tuple(sorted(set().union(*task.numbers.values()))))
    answer = _Answer(tallies={})
    try:
        answer.states = reader.count(path)
    except Exception as error:  # libraries raise all kinds of exceptions
        return _no_answer(task, error)
    for sampling, numbers in task.numbers.items():
        tally = _Tally(wanted=len(numbers), missing=len(numbers))
        try:
            for number, picture in reader.read(path, numbers):
                actual = truth.number_of(picture, number)
                is_right = truth.is_same(number, picture) if reader.is_ours else actual == number
                tally.missing -= 1
                tally.wrong += not is_right
                tally.farthest = max(tally.farthest, abs(actual - number))
            if reader.is_ours:
                answer.damaged += num_damaged(path, numbers)
        except Exception as error:
            answer.error = first_line(error, path)
        tally.files_wrong = int(tally.wrong + tally.missing > 0)
        answer.tallies[sampling] = tally
    return answer


def _no_answer(task: _Task, error: Exception) -> _Answer:
    tallies = {
        sampling: _Tally(wanted=len(numbers), missing=len(numbers), files_wrong=1)
        for sampling, numbers in task.numbers.items()
    }
    return _Answer(tallies=tallies, error=first_line(error, task.clip.path))


@lru_cache(maxsize=1)  # consecutive tasks are about the same file
def _full_decode(path: Path, numbers: tuple[int, ...]) -> FullDecode:
    return FullDecode.of(path, numbers)


def _row(answers: list[tuple[_Task, _Answer]]) -> dict[str, Any]:
    tallies = {sampling: _Tally() for sampling in SAMPLINGS}
    failures, stated, miscounted = [], 0, 0
    for task, answer in answers:
        for sampling, tally in answer.tallies.items():
            tallies[sampling].add(tally)
        if answer.error is not None:
            failures.append(f"{task.clip.path.name}: {answer.error}")
        if answer.states is not None:
            stated += 1
            miscounted += answer.states != task.clip.num_frames
    row: dict[str, Any] = {
        "files": len(answers),
        "files_counted": stated,
        "files_miscounted": miscounted,
        "damaged": sum(answer.damaged for _, answer in answers),
        **{sampling: dataclasses.asdict(tally) for sampling, tally in tallies.items()},
    }
    if failures:
        row |= {"failures": len(failures), "first_failure": failures[0]}
    return row


def print_set(measured: dict[str, Any]) -> None:
    table = Table(title=f"{measured['name']}, {measured['num_files']:,} files", padding=(0, 0))
    table.add_column("decoder", overflow="fold")
    for name in ("wrong,\nspread", "wrong,\nmiddles", "missing", "frames\noff", "files\nwrong",
                 "files\nmiscounted"):  # fmt: skip
        table.add_column(name, justify="right")
    notes = [f"broken, left out: {name} ({why})" for name, why in measured["broken"].items()]
    for row in measured["rows"]:
        words = row["words"].replace("`", "")
        if "error" in row:
            notes.append(f"{words}: {row['error']}")
            continue
        tallies = [row[sampling] for sampling in SAMPLINGS]
        table.add_row(
            words,
            *(f"{each['wrong']:,} of {each['wanted']:,}" for each in tallies),
            f"{sum(each['missing'] for each in tallies):,}",
            f"{max(each['farthest'] for each in tallies):,}",
            f"{max(each['files_wrong'] for each in tallies):,}",
            f"{row['files_miscounted']:,}" if row["files_counted"] else "none stated",
        )
        if row["damaged"]:
            notes.append(f"{words}: {row['damaged']:,} frames are damaged")
        if "failures" in row:
            notes.append(f"{words}: {row['failures']:,} files failed ({row['first_failure']})")
    Console().print(table)
    for note in notes:
        print(note)


if __name__ == "__main__":
    main()
