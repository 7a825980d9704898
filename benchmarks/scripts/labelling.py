"""What `engine label` reaches, costs and keeps in memory, as whole commands.

Run `python -m benchmarks.scripts.labelling --run RUN --artifact ARTIFACT` with a TimeSformer and
with what was compiled from it. Parts, each by itself with `--only`:

rate: clips/s of the command, by its own count (without start-up) and as a whole, in turn with
`transformers`' video pipeline over the same files with the same weights.
cluster: more files, by the plain command and on a local Ray cluster with as many workers, each
with all cores; and by two workers that share them.
files: memory while 10,000 files are labelled, a clip or so each; film: while one of two hours is,
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

from benchmarks.machine import file_name, fingerprint
from benchmarks.pipeline import PipelineSpec, Setting
from benchmarks.scripts.training import RESULTS, engine
from benchmarks.worker import Worker, memory_mib
from dali_pipelines.decode import clip_file
from dali_pipelines.loaders.loader_config import Sample

PARTS = ("rate", "cluster", "files", "film")
REPEATS = 2
LOOK_S = 0.5
POINTS = 24
FILM_S = 7200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=300, help="for rate; cluster has twice")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = options.out / file_name("labelling", facts)
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= {"command": "python -m benchmarks.scripts.labelling", **facts}
    result["protocol"] = " ".join((__doc__ or "").split())
    run, artifact = options.run.absolute(), options.artifact.absolute()
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as temporary:
        folder = Path(temporary)
        engine("data", "synth", folder / "set", "--clips-per-class", 50, "--seed", 5)
        drawn = sorted((folder / "set" / "videos").glob("*/*.avi"))
        for part in options.only:
            if part == "rate":
                found: Any = rate(run, artifact, linked(drawn, folder / "some", options.clips))
            elif part == "cluster":
                found = cluster(artifact, linked(drawn, folder / "more", 2 * options.clips))
            elif part == "files":
                found = watched(artifact, linked(drawn, folder / "many", options.files))
            else:
                film(drawn, folder / "long" / "film.avi")
                found = watched(artifact, folder / "long", "--window", 10, "--stride", 5)
            result[part] = found
            print(json.dumps({part: found}), flush=True)
            path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def linked(clips: list[Path], folder: Path, count: int) -> Path:
    """So many files, of which those that are the same video share its bytes."""
    folder.mkdir()
    for number, clip in zip(range(count), itertools.cycle(clips), strict=False):
        os.link(clip, folder / f"{number:06}.avi")
    return folder


def film(clips: list[Path], path: Path) -> None:
    """Clips of one size after the other, as they are encoded, until two hours are full."""
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
    return av.open(str(path), metadata_errors="replace")


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
        "hf_clips_per_s": [round(each, 1) for each in theirs],
        "times_hf": [
            round(mine["files_per_s"] / other, 1) for mine, other in zip(ours, theirs, strict=True)
        ],
    }


def cluster(artifact: Path, folder: Path) -> list[dict[str, Any]]:
    variants: dict[str, tuple[object, ...]] = {
        "plain": (),
        "Ray, 1 worker": ("--cluster", "--workers", 1),
        "Ray, 2 workers": ("--cluster", "--workers", 2),
    }
    rows: list[dict[str, Any]] = []
    for _ in range(REPEATS):
        for name, flags in variants.items():
            rows.append({"name": name, **labelled(artifact, folder, *flags)})
    return rows


def labelled(artifact: Path, folder: Path, *flags: object) -> dict[str, Any]:
    """One fresh run of the command, by its own count and by the clock."""
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        done = subprocess.run(
            _command(artifact, folder, Path(temporary), *flags),
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    counted = re.search(r"([\d,]+) files labelled .*?([\d,.]+) files/s", done.stdout)
    assert counted, done.stdout
    return {
        "num_files": int(counted[1].replace(",", "")),
        "files_per_s": float(counted[2].replace(",", "")),
        "whole_s": round(seconds, 1),
    }


def watched(artifact: Path, folder: Path, *flags: object) -> dict[str, Any]:
    """A run of the command, and its memory over time."""
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        curve: list[tuple[float, float]] = []
        command = _command(artifact, folder, Path(temporary), *flags)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                curve.append((time.perf_counter() - started, memory_mib(process.pid)))
                time.sleep(LOOK_S)
            said = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, said
    half = len(curve) // 2
    step = max(1, len(curve) // POINTS)
    return {
        "said": said.splitlines()[-1],
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
