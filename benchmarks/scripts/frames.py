"""Which frame each decoder gives for a number, on any folders of videos.

Run `python -m benchmarks.scripts.frames --clips NAME=FOLDER --clips NAME=FOLDER`. Frame n is the
n-th picture that a full decode by PyAV gives. Of each video below a folder, every decoder is asked
for the same frames, twice: spread evenly from the first to the last (`equidistant`), and the middle
of as many equal parts (`segments`). What comes is compared with all pictures of the full decode:
*wrong* is what is clearly another one of them, *missing* what doesn't come. Where pictures of a
clip are alike, each counts as the other. Our own frames must be those of the full decode to the
last bit; any other counts as wrong. Decoders run in other processes, so that one that crashes or
hangs costs its own answer. Files that don't decode to their end are named and left out.
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
from benchmarks.clip_sets import Clip, ClipSet, clip_set, decoded_clips, in_words, numbers_of
from benchmarks.full_decode import FullDecode
from benchmarks.machine import file_name, fingerprint
from dali_pipelines.spec import Sampling
from engine.parallel import run_each

RESULTS = Path(__file__).parents[1] / "results"
SAMPLINGS: tuple[Sampling, ...] = ("equidistant", "segments")
PATIENCE_S = 120.0
"""For one decoder and one file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--clips", type=clip_set, action="append", required=True, metavar="[NAME=]FOLDER",
        help="a folder of videos, at any depth; may be said several times",
    )  # fmt: skip
    parser.add_argument("--frames", type=int, default=16, help="frames wanted of a clip")
    parser.add_argument("--files", type=int, help="at most so many of a folder, spread over all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    sets = [each.sample(options.files) for each in options.clips]
    facts = fingerprint()
    path = options.out / file_name("frames", facts)
    result = {
        "command": command(options.clips, options.frames, options.files),
        "protocol": " ".join((__doc__ or "").split()),
        **facts,
        "versions": versions(READERS.values()),
        **measure(sets, READERS, num_frames=options.frames),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    for each in result["sets"]:
        print_set(each)
    print(f"written to {path}")


def command(sets: list[ClipSet], num_frames: int, num_files: int | None) -> str:
    words = ["python", "-m", "benchmarks.scripts.frames"]
    for each in sets:
        words += ["--clips", each.argument]
    words += ["--frames", str(num_frames)]
    return shlex.join(words if num_files is None else [*words, "--files", str(num_files)])


def versions(readers: Iterable[Reader]) -> dict[str, str]:
    found = {}
    for package in ("av", *(reader.package for reader in readers if reader.package)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
        "sets": [_measure_set(each, readers, reasons, num_frames) for each in sets],
    }


@dataclass(frozen=True, kw_only=True)
class _Question:
    """All that one decoder is asked about one file."""

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
    """How many frames lie between a wrong picture and the wanted one, at most."""
    files_wrong: int = 0
    """Files of which any frame is wrong or missing."""

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
    """The file's number of frames, by this decoder."""
    damaged: int = 0
    error: str | None = None


def _measure_set(
    clips: ClipSet, readers: dict[str, Reader], reasons: dict[str, str | None], num_frames: int
) -> dict[str, Any]:
    whole, broken = decoded_clips(clips)
    wanted = {
        clip.path: {each: numbers_of(clip.num_frames, num_frames, each) for each in SAMPLINGS}
        for clip in whole
    }
    questions = [
        _Question(name=name, reader=reader, clip=clip, numbers=wanted[clip.path])
        for clip in whole
        for name, reader in readers.items()
        if reasons[name] is None
    ]
    answers: dict[str, list[tuple[_Question, _Answer]]] = {name: [] for name in readers}
    for outcome in run_each(
        _ask, questions, title=f"{clips.name}: frames", unit="answers", timeout_s=PATIENCE_S
    ):
        question = outcome.item
        answer = outcome.value or _no_answer(question, outcome.error or EOFError())
        answers[question.name].append((question, answer))
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


def _ask(question: _Question) -> _Answer:
    path, reader = question.clip.path, question.reader
    truth = _full_decode(path, tuple(sorted(set().union(*question.numbers.values()))))
    answer = _Answer(tallies={})
    try:
        answer.states = reader.count(path)
    except Exception as error:  # each library has its own, and some raise whatever comes
        return _no_answer(question, error)
    for sampling, numbers in question.numbers.items():
        tally = _Tally(wanted=len(numbers), missing=len(numbers))
        try:
            for number, picture in reader.read(path, numbers):
                came = truth.number_of(picture, number)
                is_right = truth.is_same(number, picture) if reader.is_ours else came == number
                tally.missing -= 1
                tally.wrong += not is_right
                tally.farthest = max(tally.farthest, abs(came - number))
            if reader.is_ours:
                answer.damaged += num_damaged(path, numbers)
        except Exception as error:
            answer.error = in_words(error, path)
        tally.files_wrong = int(tally.wrong + tally.missing > 0)
        answer.tallies[sampling] = tally
    return answer


def _no_answer(question: _Question, error: Exception) -> _Answer:
    tallies = {
        sampling: _Tally(wanted=len(numbers), missing=len(numbers), files_wrong=1)
        for sampling, numbers in question.numbers.items()
    }
    return _Answer(tallies=tallies, error=in_words(error, question.clip.path))


@lru_cache(maxsize=1)  # the questions about a file follow each other
def _full_decode(path: Path, numbers: tuple[int, ...]) -> FullDecode:
    return FullDecode.of(path, numbers)


def _row(answers: list[tuple[_Question, _Answer]]) -> dict[str, Any]:
    tallies = {sampling: _Tally() for sampling in SAMPLINGS}
    failures, stated, miscounted = [], 0, 0
    for question, answer in answers:
        for sampling, tally in answer.tallies.items():
            tallies[sampling].add(tally)
        if answer.error is not None:
            failures.append(f"{question.clip.path.name}: {answer.error}")
        if answer.states is not None:
            stated += 1
            miscounted += answer.states != question.clip.num_frames
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
