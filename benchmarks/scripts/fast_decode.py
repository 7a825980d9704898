"""Speed of fast decoding against exact decoding, and how far the pixels differ.

Run `python -m benchmarks.scripts.fast_decode --clips NAME=FOLDER`. Files of each codec that can be
decoded fast are read exactly and fast in turn (A B A B), in one process and one thread, after a
warm-up pass: opening, indexing, decoding, RGB, resizing to the short side. The result is clips per
second of processor time, which other processes affect little; `times_as_fast` is the median over
the rounds. `mean_difference` and `p99_difference` are those of the resized RGB values (0 to 255),
averaged over the clips. `identical` says whether both read frames of the same numbers, sizes and
marks of damage. With `--as-mjpeg`, the first frames of each clip are also written as Motion JPEG at
their own size, and measured like that. Files that can't be read are counted and left out.
"""

import argparse
import json
import shlex
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.clip_sets import Clip, ClipSet, add_clips_argument, numbers_of
from benchmarks.harness import interleaved_figures, summary
from benchmarks.machine import fingerprint, result_file
from benchmarks.scripts.frames import RESULTS
from dali_pipelines.decode import clip_file
from dali_pipelines.decode.fast_decode import FastDecode
from dali_pipelines.decode.pixels import to_resized_pixels
from dali_pipelines.decode.wanted_frames import DecodedFrame, decode_wanted
from dali_pipelines.errors import VideoError
from dali_pipelines.spec import FastCodec
from engine.progress import enable_progress_bars, progress_bar

MJPEG_FRAMES = 60
"""Frames of a clip that are written as Motion JPEG."""
MJPEG_QUALITY = 3
"""FFmpeg's quantizer: 2 is the best."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_clips_argument(parser)
    parser.add_argument("--files", type=int, default=40, help="maximum number of files per folder")
    parser.add_argument("--frames", type=int, default=8, help="number of frames per clip")
    parser.add_argument("--short", type=int, nargs="+", default=[112, 224])
    parser.add_argument("--as-mjpeg", action="store_true", help="also as Motion JPEG")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    enable_progress_bars()
    facts = fingerprint()
    path = result_file(options.out, "fast_decode", facts)
    result = {
        "command": command(options),
        "protocol": " ".join((__doc__ or "").split()),
        **facts,
        "versions": {"av": av.__version__},
        "rows": [row for clips in options.clips for row in measure(clips, options)],
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def command(options: argparse.Namespace) -> str:
    words = ["python", "-m", "benchmarks.scripts.fast_decode"]
    for clips in options.clips:
        words += ["--clips", clips.argument]
    words += ["--files", str(options.files), "--frames", str(options.frames)]
    words += ["--short", *map(str, options.short), "--repeats", str(options.repeats)]
    return shlex.join([*words, *(["--as-mjpeg"] if options.as_mjpeg else [])])


def measure(clips: ClipSet, options: argparse.Namespace) -> list[dict[str, Any]]:
    by_codec: dict[str, list[Clip]] = defaultdict(list)
    num_unreadable = 0
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as folder:
        for number, path in enumerate(clips.sample(options.files).paths):
            try:
                facts = clip_file.probe(path)
                if facts.codec in get_args(FastCodec):
                    by_codec[facts.codec].append(Clip(path=path, num_frames=facts.frames))
                if options.as_mjpeg:
                    copy = write_mjpeg(path, Path(folder) / f"{number:05}.avi")
                    by_codec["as mjpeg"].append(copy)
            except VideoError:
                num_unreadable += 1
        rows = []
        for codec, of_codec in by_codec.items():
            for short in options.short:
                row = {
                    "set": clips.name,
                    "codec": codec,
                    "num_files": len(of_codec),
                    "num_unreadable": num_unreadable,
                    "frames": options.frames,
                    "short": short,
                    **compare(of_codec, options.frames, short, options.repeats),
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
        return rows


def compare(clips: list[Clip], num_frames: int, short: int, repeats: int) -> dict[str, Any]:
    """Speed and difference of fast and exact decoding of the same frames."""
    wanted = [
        (clip.path, np.array(numbers_of(clip.num_frames, num_frames, "equidistant")))
        for clip in clips
    ]
    modes = {"exact": None, "fast": FastDecode(get_args(FastCodec), short)}
    means, highs, is_identical = [], [], True
    for path, numbers in wanted:  # this is the warm-up, too
        exact, fast = (read(path, numbers, short, mode) for mode in modes.values())
        is_identical &= [_facts(*item) for item in exact] == [_facts(*item) for item in fast]
        difference = np.abs(
            np.stack([pixels for _, pixels in exact]).astype(np.int16)
            - np.stack([pixels for _, pixels in fast])
        )
        means.append(float(difference.mean()))
        highs.append(float(np.percentile(difference, 99)))
    steps = repeats * len(modes)
    with progress_bar(f"{len(clips)} clips, short side {short}", total=steps, unit="passes") as on:
        timed: dict[str, Callable[[], float]] = {
            name: partial(_rate, wanted, short, mode) for name, mode in modes.items()
        }
        rates = interleaved_figures(timed, repeats=repeats, on_done=on)
    ratios = [fast / exact for exact, fast in zip(rates["exact"], rates["fast"], strict=True)]
    return {
        "modes": [summary(name, rates[name]) for name in modes],
        "times_as_fast": round(statistics.median(ratios), 3),
        "mean_difference": round(statistics.fmean(means), 2),
        "p99_difference": round(statistics.fmean(highs), 2),
        "identical": is_identical,
    }


def read(
    path: Path, numbers: NDArray[np.int64], short: int, fast: FastDecode | None
) -> list[tuple[DecodedFrame, NDArray[np.uint8]]]:
    return [
        (item, to_resized_pixels(item, short)) for item in decode_wanted(path, numbers, fast=fast)
    ]


def _facts(item: DecodedFrame, pixels: NDArray[np.uint8]) -> tuple[Any, ...]:
    return item.number, item.is_damaged, pixels.shape


def _rate(
    wanted: list[tuple[Path, NDArray[np.int64]]], short: int, fast: FastDecode | None
) -> float:
    started = time.process_time()
    for path, numbers in wanted:
        read(path, numbers, short, fast)
    return len(wanted) / (time.process_time() - started)


def write_mjpeg(source: Path, target: Path) -> Clip:
    """Write the first frames of a video as Motion JPEG."""
    facts = clip_file.probe(source)
    count = min(MJPEG_FRAMES, facts.frames)
    frames = clip_file.read_frames(source, np.arange(count))
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = facts.width, facts.height, "yuvj420p"
        stream.codec_context.qmin = stream.codec_context.qmax = MJPEG_QUALITY
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format="yuvj420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Clip(path=target, num_frames=count)


if __name__ == "__main__":
    main()
