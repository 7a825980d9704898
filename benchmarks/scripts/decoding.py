"""What the wanted frames of a clip cost, by each decoder; and the loaders on the same clips.

Run `python -m benchmarks.scripts.decoding --clips NAME=FOLDER [--against CHECKOUT]`. Every way runs
in a process of its own, one at a time, in turn with the others (A B A B). A first pass warms it up
and isn't counted.

core: each process is pinned to the first core and decodes with one thread. From files to RGB
pictures, resized to a short side of 128 by the same code; the figure is processor time a clip, so
that what else runs here counts little. `times_as_long`, as our way, is the median over the rounds,
since a machine's pace changes from one to the next.
loaders: clips per second of whole epochs on all cores, 8 frames of 224², by our loader and by the
plain route. Files come again under other names where a folder has few, so that all is warm.

The frames to be had are those of a full decode, counted beforehand; files that don't decode to
their end are left out. `--against` times another checkout of this project as well. Whether a
decoder gives the right frames is measured by `benchmarks.scripts.frames`.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from benchmarks.baselines.frame_readers import READERS
from benchmarks.clip_sets import Clip, ClipSet, clip_set, decoded_clips, linked, numbers_of
from benchmarks.harness import interleaved_figures, summary
from benchmarks.machine import commit_of, file_name, fingerprint
from benchmarks.scripts import decoding_worker
from benchmarks.scripts.frames import RESULTS, versions
from benchmarks.worker import PipelineError
from engine.progress import enable_progress_bars, progress_bar

ROOT = Path(__file__).parents[2]
PARTS = ("core", "loaders")
WAYS = ("ours", "pyav", "torchcodec", "torchcodec-approximate", "decord", "opencv")
MIN_CLIPS = 8
"""A pass over a folder of fewer clips goes over them several times."""
MAX_CLIPS = 40
BATCH_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--clips", type=clip_set, action="append", required=True, metavar="[NAME=]FOLDER",
        help="a folder of videos, at any depth; may be said several times",
    )  # fmt: skip
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--load", type=int, default=200, help="clips of an epoch of the loaders")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    enable_progress_bars()
    facts = fingerprint()
    path = options.out / file_name("decoding", facts)
    result = {
        "command": command(options),
        "protocol": " ".join((__doc__ or "").split()),
        **facts,
        "versions": versions(READERS.values()),
        "against": commit_of(options.against) if options.against else None,
        "sets": [measure(each, options) for each in options.clips],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def command(options: argparse.Namespace) -> str:
    words = ["python", "-m", "benchmarks.scripts.decoding"]
    for each in options.clips:
        words += ["--clips", each.argument]
    if options.against:
        words += ["--against", options.against.name]
    if tuple(options.only) != PARTS:
        words += ["--only", *options.only]
    words += ["--frames", *map(str, options.frames), "--load", str(options.load)]
    return shlex.join([*words, "--repeats", str(options.repeats)])


def measure(clips: ClipSet, options: argparse.Namespace) -> dict[str, Any]:
    whole, broken = decoded_clips(clips.sample(options.load))
    found: dict[str, Any] = {"name": clips.name, "num_files": len(whole), "broken": broken}
    if not whole:
        return found
    if "core" in options.only:
        found["core"] = []
        for num_frames in options.frames:
            found["core"] += core(clips.name, whole, num_frames, options.against, options.repeats)
    if "loaders" in options.only:
        found["loaders"] = loaders(
            clips.name, whole, options.load, options.against, options.repeats
        )
    for part in PARTS:
        for row in found.get(part, []):
            print(json.dumps({"set": clips.name, **row}), flush=True)
    return found


@dataclass(frozen=True, kw_only=True)
class _Way:
    opening: dict[str, Any]
    """What its process is asked first; that isn't timed."""
    checkout: Path = ROOT
    core: int | None = None


def core(
    title: str, clips: list[Clip], num_frames: int, against: Path | None, repeats: int
) -> list[dict[str, Any]]:
    some = [clips[each] for each in numbers_of(len(clips), MAX_CLIPS, "equidistant")]
    some *= math.ceil(MIN_CLIPS / len(some))
    wanted = [
        (str(clip.path), numbers_of(clip.num_frames, num_frames, "equidistant")) for clip in some
    ]
    pinned_to = min(os.sched_getaffinity(0))
    variants = {name: _Way(opening={"what": "open", "way": name}, core=pinned_to) for name in WAYS}
    if against:
        variants["against"] = dataclasses.replace(variants["ours"], checkout=against)
    notes: dict[str, dict[str, Any]] = {}

    def rate(name: str, process: _Process) -> float:
        answer = process.ask("decode", clips=wanted)
        notes[name] = {"missing": answer["missing"]}
        if answer["failed"]:
            notes[name] |= {"failed": len(answer["failed"]), "first_failure": answer["failed"][0]}
            if len(answer["failed"]) == len(wanted):
                raise PipelineError(f"it could read none of the clips ({answer['failed'][0]})")
        return len(wanted) / answer["seconds"]

    rows = _in_turn(f"{title}: {num_frames} frames", variants, rate, repeats)
    return [{"frames": num_frames, **row, **notes.get(row["name"], {})} for row in rows]


def loaders(
    title: str, clips: list[Clip], count: int, against: Path | None, repeats: int
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as folder:
        files = [(str(clip.path), clip.num_frames) for clip in linked(clips, Path(folder), count)]
        load = {"what": "load", "clips": files, "batch_size": BATCH_SIZE}
        variants = {
            "ours": _Way(opening=load | {"loader": "dali"}),
            "plain": _Way(opening=load | {"loader": "torch"}),
        }
        if against:
            variants["against"] = dataclasses.replace(variants["ours"], checkout=against)

        def rate(name: str, process: _Process) -> float:
            answer = process.ask("epoch")
            if answer["num_clips"] < len(files):
                raise PipelineError(f"it gave {answer['num_clips']} of {len(files)} clips")
            return answer["num_clips"] / answer["seconds"]

        return _in_turn(f"{title}: loaders", variants, rate, repeats)


def _in_turn(
    title: str,
    variants: dict[str, _Way],
    rate: "Callable[[str, _Process], float]",
    repeats: int,
) -> list[dict[str, Any]]:
    """A row for each way; what fails, at its start or later, is a row that says why."""
    errors: dict[str, str] = {}

    def safely(name: str, process: _Process) -> float:
        if name not in errors:
            try:
                return rate(name, process)
            except PipelineError as error:
                errors[name] = str(error)
        return 0.0

    with contextlib.ExitStack() as stack:
        steps = (repeats + 1) * len(variants)
        advance = stack.enter_context(progress_bar(title, total=steps, unit="passes"))
        timed: dict[str, Callable[[], float]] = {}
        for name, way in variants.items():
            process = stack.enter_context(_Process(way.checkout, core=way.core))
            timed[name] = partial(safely, name, process)
            try:
                process.ask(**way.opening)
            except PipelineError as error:
                errors[name] = str(error)
            timed[name]()
            advance()
        rates = interleaved_figures(timed, repeats=repeats, on_done=advance)
    rows: list[dict[str, Any]] = []
    for name in variants:
        if name in errors:
            rows.append({"name": name, "error": errors[name]})
            continue
        row = summary(name, rates[name])
        row["ms_a_clip"] = round(1e3 / statistics.median(rates[name]), 2)
        if "ours" not in errors:
            pairs = zip(rates["ours"], rates[name], strict=True)
            row["times_as_long"] = round(statistics.median(ours / it for ours, it in pairs), 3)
        rows.append(row)
    return rows


class _Process:
    def __init__(self, checkout: Path, *, core: int | None = None) -> None:
        words = [sys.executable, decoding_worker.__file__, str(checkout.resolve())]
        self._process = subprocess.Popen(
            words if core is None else [*words, str(core)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout,
        )  # fmt: skip

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """Raises PipelineError where it fails, or has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"what": what, **more}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        if not line:
            raise PipelineError(f"its process ended by itself (exit code {self._process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PipelineError(answer["error"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # of one that has died
            self._process.__exit__(None, None, None)  # it sees that nobody asks any more, and ends


if __name__ == "__main__":
    main()
