"""Cost of decoding the sampled frames of a clip with each decoder, and speed of the loaders.

Run `python -m benchmarks.scripts.decoding --clips NAME=FOLDER [--against CHECKOUT]`. Every decoder
runs in a separate process, one at a time, in turn with the others (A B A B), after a warm-up pass.

core: each process is pinned to the first core and decodes with one thread, from files to RGB
frames, which the same code resizes to a short side of 128. The result is processor time per clip,
which other processes affect little. `times_as_long`, relative to our decoder, is the median over
the rounds, because the speed of a machine changes between rounds.
loaders: clips per second of whole epochs on all cores, 8 frames of 224², by our loader and by plain
PyTorch. If a folder has few files, they are used several times under different names.
parts: processor time and bytes per clip of the parts that NVDEC gets instead of whole files, and
the bytes of the files.

Frame numbers refer to a full decode, made beforehand; files that don't decode to their end are left
out. `--against` also times another checkout of this project. `benchmarks.scripts.frames` measures
whether decoders return the right frames.
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
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.baselines.frame_readers import READERS
from benchmarks.clip_sets import (
    Clip,
    ClipSet,
    add_clips_argument,
    decoded_clips,
    linked,
    numbers_of,
)
from benchmarks.harness import interleaved_figures, summary
from benchmarks.machine import commit_of, fingerprint, result_file
from benchmarks.scripts import decoding_worker
from benchmarks.scripts.frames import RESULTS, versions
from benchmarks.worker import PipelineError
from dali_pipelines.decode.remux import ClipPart, cut_part
from engine.progress import enable_progress_bars, progress_bar

ROOT = Path(__file__).parents[2]
PARTS = ("core", "loaders", "parts")
DECODERS = ("ours", "pyav", "torchcodec", "torchcodec-approximate", "decord", "opencv")
MIN_CLIPS = 8
"""If a folder has fewer clips, a pass reads them several times."""
MAX_CLIPS = 40
BATCH_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_clips_argument(parser)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16])
    parser.add_argument(
        "--load", type=int, default=200, help="number of clips per epoch of the loaders"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    enable_progress_bars()
    facts = fingerprint()
    path = result_file(options.out, "decoding", facts)
    result = {
        "command": command(options),
        "protocol": " ".join((__doc__ or "").split()),
        **facts,
        "versions": versions(READERS.values()),
        "against": commit_of(options.against) if options.against else None,
        "sets": [measure(clips, options) for clips in options.clips],
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def command(options: argparse.Namespace) -> str:
    words = ["python", "-m", "benchmarks.scripts.decoding"]
    for clips in options.clips:
        words += ["--clips", clips.argument]
    if options.against:
        words += ["--against", options.against.name]
    if tuple(options.only) != PARTS:
        words += ["--only", *options.only]
    words += ["--frames", *map(str, options.frames), "--load", str(options.load)]
    return shlex.join([*words, "--repeats", str(options.repeats)])


def measure(clips: ClipSet, options: argparse.Namespace) -> dict[str, Any]:
    intact, broken = decoded_clips(clips.sample(options.load))
    result: dict[str, Any] = {"name": clips.name, "num_files": len(intact), "broken": broken}
    if not intact:
        return result
    against, repeats = options.against, options.repeats
    if "core" in options.only:
        result["core"] = []
        for num_frames in options.frames:
            result["core"] += core(clips.name, intact, num_frames, against, repeats)
    if "loaders" in options.only:
        result["loaders"] = loaders(clips.name, intact, options.load, against, repeats)
    if "parts" in options.only:
        result["parts"] = [parts(intact, num_frames, repeats) for num_frames in options.frames]
    for part in PARTS:
        for row in result.get(part, []):
            print(json.dumps({"set": clips.name, **row}), flush=True)
    return result


@dataclass(frozen=True, kw_only=True)
class _Pipeline:
    opening: dict[str, Any]
    """The first request to its process, which isn't timed."""
    checkout: Path = ROOT
    core: int | None = None


def core(
    title: str, clips: list[Clip], num_frames: int, against: Path | None, repeats: int
) -> list[dict[str, Any]]:
    subset = [clips[index] for index in numbers_of(len(clips), MAX_CLIPS, "equidistant")]
    subset *= math.ceil(MIN_CLIPS / len(subset))
    requests = [
        (str(clip.path), numbers_of(clip.num_frames, num_frames, "equidistant")) for clip in subset
    ]
    first_core = min(os.sched_getaffinity(0))
    pipelines = {
        name: _Pipeline(opening={"what": "open", "reader": name}, core=first_core)
        for name in DECODERS
    }
    if against:
        pipelines["against"] = dataclasses.replace(pipelines["ours"], checkout=against)
    notes: dict[str, dict[str, Any]] = {}

    def rate(name: str, process: _Process) -> float:
        answer = process.ask("decode", clips=requests)
        notes[name] = {"missing": answer["missing"]}
        if answer["failed"]:
            notes[name] |= {"failed": len(answer["failed"]), "first_failure": answer["failed"][0]}
            if len(answer["failed"]) == len(requests):
                raise PipelineError(f"it can't read any of the clips ({answer['failed'][0]})")
        return len(requests) / answer["seconds"]

    rows = _in_turn(f"{title}: {num_frames} frames", pipelines, rate, repeats)
    return [{"frames": num_frames, **row, **notes.get(row["name"], {})} for row in rows]


def loaders(
    title: str, clips: list[Clip], count: int, against: Path | None, repeats: int
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as folder:
        files = [(str(clip.path), clip.num_frames) for clip in linked(clips, Path(folder), count)]
        load = {"what": "load", "clips": files, "batch_size": BATCH_SIZE}
        pipelines = {
            "ours": _Pipeline(opening=load | {"loader": "dali"}),
            "plain": _Pipeline(opening=load | {"loader": "torch"}),
        }
        if against:
            pipelines["against"] = dataclasses.replace(pipelines["ours"], checkout=against)

        def rate(name: str, process: _Process) -> float:
            answer = process.ask("epoch")
            if answer["num_clips"] < len(files):
                raise PipelineError(f"it returned {answer['num_clips']} of {len(files)} clips")
            return answer["num_clips"] / answer["seconds"]

        return _in_turn(f"{title}: loaders", pipelines, rate, repeats)


def parts(clips: list[Clip], num_frames: int, repeats: int) -> dict[str, Any]:
    """Cut the parts of all clips `repeats` times, after a warm-up pass."""
    wanted = [np.array(numbers_of(clip.num_frames, num_frames, "equidistant")) for clip in clips]
    times = []
    found: list[ClipPart | None] = []
    for _ in range(repeats + 1):
        started = time.process_time()
        found = [cut_part(clip.path, numbers) for clip, numbers in zip(clips, wanted, strict=True)]
        times.append(1000 * (time.process_time() - started) / len(clips))
    pairs = [(part, clip) for part, clip in zip(found, clips, strict=True) if part is not None]
    file_bytes = sum(clip.path.stat().st_size for _, clip in pairs)
    part_bytes = sum(part.encoded.nbytes for part, _ in pairs)
    return {
        "frames": num_frames,
        "num_clips": len(clips),
        "num_cut": len(pairs),
        "ms_per_clip": round(statistics.median(times[1:]), 3),
        "repeats": [round(value, 3) for value in times[1:]],
        "bytes_per_part": round(part_bytes / max(1, len(pairs))),
        "bytes_per_file": round(file_bytes / max(1, len(pairs))),
    }


def _in_turn(
    title: str,
    pipelines: dict[str, _Pipeline],
    rate: "Callable[[str, _Process], float]",
    repeats: int,
) -> list[dict[str, Any]]:
    """Time pipelines in turn; one that fails becomes a row with the error."""
    errors: dict[str, str] = {}

    def rate_or_zero(name: str, process: _Process) -> float:
        if name not in errors:
            try:
                return rate(name, process)
            except PipelineError as error:
                errors[name] = str(error)
        return 0.0

    with contextlib.ExitStack() as stack:
        steps = (repeats + 1) * len(pipelines)
        advance = stack.enter_context(progress_bar(title, total=steps, unit="passes"))
        timed: dict[str, Callable[[], float]] = {}
        for name, pipeline in pipelines.items():
            process = stack.enter_context(_Process(pipeline.checkout, core=pipeline.core))
            timed[name] = partial(rate_or_zero, name, process)
            try:
                process.ask(**pipeline.opening)
            except PipelineError as error:
                errors[name] = str(error)
            timed[name]()
            advance()
        rates = interleaved_figures(timed, repeats=repeats, on_done=advance)
    rows: list[dict[str, Any]] = []
    for name in pipelines:
        if name in errors:
            rows.append({"name": name, "error": errors[name]})
            continue
        row = summary(name, rates[name])
        row["ms_a_clip"] = round(1e3 / statistics.median(rates[name]), 2)
        if "ours" not in errors:
            pairs = zip(rates["ours"], rates[name], strict=True)
            ratios = [our_rate / rate_ for our_rate, rate_ in pairs]
            row["times_as_long"] = round(statistics.median(ratios), 3)
        rows.append(row)
    return rows


class _Process:
    """A process that runs `decoding_worker.py`."""

    def __init__(self, checkout: Path, *, core: int | None = None) -> None:
        words = [sys.executable, decoding_worker.__file__, str(checkout.resolve())]
        self._process = subprocess.Popen(
            words if core is None else [*words, str(core)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout,
        )  # fmt: skip

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the answer; raises PipelineError if it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"what": what, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        if not line:
            raise PipelineError(f"its process died (exit code {self._process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PipelineError(answer["error"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # the process has died
            self._process.__exit__(None, None, None)  # closing stdin ends the process


if __name__ == "__main__":
    main()
