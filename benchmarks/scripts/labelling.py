"""Speed and memory of `engine label`, run as whole commands.

Run `python -m benchmarks.scripts.labelling --run RUN --artifact ARTIFACT` with a TimeSformer and
an artifact compiled from it. Select parts with `--only`:

rate: clips/s of the command, as it reports (without start-up) and over the whole process, in turn
with the video pipeline of `transformers` on the same files with the same weights.
bench: clips/s of the command beside the end-to-end rate of `engine bench` for the same artifact on
clips of the same set, in turn, and the duration of the command with a single clip.
cluster: more files, by the plain command and on a local Ray cluster, with one worker on all cores
and with two workers that share them.
files: memory while labelling 10,000 short files. film: memory while labelling a film of two hours
in windows of 10 s every 5 s.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from benchmarks.machine import fingerprint, result_file
from benchmarks.pipeline import PipelineSpec, Setting
from benchmarks.scripts.training import RESULTS, engine
from benchmarks.worker import Worker, memory_mib
from dali_pipelines.decode import clip_file
from dali_pipelines.decode.video_stream import ANY_METADATA
from dali_pipelines.loaders.loader_config import Sample

PARTS = ("rate", "bench", "cluster", "files", "film")
REPEATS = 2
BENCH_REPEATS = 3
MEMORY_INTERVAL_S = 0.5
POINTS = 24
FILM_S = 7200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument(
        "--clips", type=int, default=300, help="clips for rate; twice as many for bench and cluster"
    )
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = result_file(options.out, "labelling", facts)
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= {"command": "python -m benchmarks.scripts.labelling", **facts}
    result["protocol"] = " ".join((__doc__ or "").split())
    run, artifact = options.run.absolute(), options.artifact.absolute()
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as temporary:
        folder = Path(temporary)
        engine("data", "synth", folder / "set", "--clips-per-class", 50, "--seed", 5)
        clips = sorted((folder / "set" / "videos").glob("*/*.avi"))
        for part in options.only:
            if part == "rate":
                measured: Any = rate(run, artifact, linked(clips, folder / "some", options.clips))
            elif part == "bench":
                more = linked(clips, folder / "beside", 2 * options.clips)
                measured = beside_bench(artifact, folder / "set", more)
            elif part == "cluster":
                measured = cluster(artifact, linked(clips, folder / "more", 2 * options.clips))
            elif part == "files":
                measured = watched(artifact, linked(clips, folder / "many", options.files))
            else:
                film(clips, folder / "long" / "film.avi")
                measured = watched(artifact, folder / "long", "--window", 10, "--stride", 5)
            result[part] = measured
            print(json.dumps({part: measured}), flush=True)
            path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def linked(clips: list[Path], folder: Path, count: int) -> Path:
    """Make `count` hard links to clips, which are repeated."""
    folder.mkdir()
    for number, clip in zip(range(count), itertools.cycle(clips), strict=False):
        os.link(clip, folder / f"{number:06}.avi")
    return folder


def film(clips: list[Path], path: Path) -> None:
    """Concatenate clips of one size, without re-encoding, to a film of two hours."""
    path.parent.mkdir()
    with av.open(str(path), "w") as out, _open(clips[0]) as first:
        template = first.streams.video[0]
        stream = out.add_stream_from_template(template)
        frames = 0
        for clip in itertools.cycle(clips):
            with _open(clip) as container:
                video = container.streams.video[0]
                if (video.width, video.height) != (template.width, template.height):
                    continue
                assert video.average_rate is not None
                for packet in container.demux(video):
                    if packet.dts is None:
                        continue
                    packet.stream = stream
                    packet.pts = packet.dts = frames
                    packet.time_base = 1 / video.average_rate
                    out.mux(packet)
                    frames += 1
            if frames / video.average_rate > FILM_S:
                return


def _open(path: Path) -> InputContainer:
    return av.open(str(path), **ANY_METADATA)


def rate(run: Path, artifact: Path, folder: Path) -> dict[str, Any]:
    rows = []
    for number, path in enumerate(sorted(folder.iterdir())):
        facts = clip_file.probe(path)
        rows.append(Sample(id=number, path=path, label=0, frames=facts.frames, fps=facts.fps))
    ours, theirs = [], []
    with Worker(PipelineSpec(name="hf", kind="hf", path=run)) as worker:
        worker.ask("open", rows[0])
        worker.ask("label", rows[:16], Setting(batch=1))
        for _ in range(REPEATS):
            ours.append(labelled(artifact, folder))
            answer = worker.ask("label", rows, Setting(batch=1))
            theirs.append(len(answer["probabilities"]) / answer["seconds"])
    return {
        "num_files": len(rows),
        "ours": ours,
        "hf_clips_per_s": [round(rate_, 1) for rate_ in theirs],
        "times_hf": [
            round(our_run["files_per_s"] / their_rate, 1)
            for our_run, their_rate in zip(ours, theirs, strict=True)
        ],
    }


def beside_bench(artifact: Path, root: Path, folder: Path) -> list[dict[str, Any]]:
    rows = []
    one = linked(sorted(folder.iterdir())[:1], folder.parent / "one", 1)
    for number in range(BENCH_REPEATS):
        alone, ours = labelled(artifact, one), labelled(artifact, folder)
        out = folder.parent / f"bench-{number}"
        engine("bench", artifact, "--data", root, "--repeats", 3, "--seconds", 5, "--out", out)
        (measured,) = out.glob("end_to_end_*.json")
        (row,) = json.loads(measured.read_text())["rows"]
        rows.append({
            **ours, "bench_clips_per_s": row["clips_per_s"],
            "share": ours["files_per_s"] / row["clips_per_s"], "one_file_s": alone["whole_s"],
        })  # fmt: skip
    return rows


def cluster(artifact: Path, folder: Path) -> list[dict[str, Any]]:
    flags_of: dict[str, tuple[object, ...]] = {
        "plain": (),
        "Ray, 1 worker": ("--cluster", "--workers", 1),
        "Ray, 2 workers": ("--cluster", "--workers", 2),
    }
    rows: list[dict[str, Any]] = []
    for _ in range(REPEATS):
        for name, flags in flags_of.items():
            rows.append({"name": name, **labelled(artifact, folder, *flags)})
    return rows


def labelled(artifact: Path, folder: Path, *flags: object) -> dict[str, Any]:
    """Run the command; returns its reported speed and the duration of the process."""
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        completed = subprocess.run(
            _command(artifact, folder, Path(temporary), *flags),
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    reported = re.search(r"([\d,]+) files labelled .*?([\d,.]+) files/s", completed.stdout)
    assert reported, completed.stdout
    return {
        "num_files": int(reported[1].replace(",", "")),
        "files_per_s": float(reported[2].replace(",", "")),
        "whole_s": round(seconds, 1),
    }


def watched(artifact: Path, folder: Path, *flags: object) -> dict[str, Any]:
    """Run the command and record its memory over time."""
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        curve: list[tuple[float, float]] = []
        command = _command(artifact, folder, Path(temporary), *flags)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                curve.append((time.perf_counter() - started, memory_mib(process.pid)))
                time.sleep(MEMORY_INTERVAL_S)
            output = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, output
    half = len(curve) // 2
    step = max(1, len(curve) // POINTS)
    return {
        "said": output.splitlines()[-1],
        "seconds": round(curve[-1][0], 1),
        "peak_mib": round(max(mib for _, mib in curve)),
        "peak_of_first_half_mib": round(max(mib for _, mib in curve[:half])),
        "peak_of_second_half_mib": round(max(mib for _, mib in curve[half:])),
        "curve_s_mib": [(round(at, 1), round(mib)) for at, mib in curve[::step]],
    }


def _command(artifact: Path, folder: Path, temporary: Path, *flags: object) -> list[str]:
    words = ["label", folder, "--model", artifact, "--out", temporary / "labels.csv", *flags]
    return [sys.executable, "-m", "engine", *map(str, words)]


if __name__ == "__main__":
    main()
