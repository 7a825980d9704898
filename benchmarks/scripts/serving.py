"""Speed, latency and correctness of `engine serve` under load, on 127.0.0.1.

Run `python -m benchmarks.scripts.serving --artifact ARTIFACT`. The clips are synthetic; server and
load generator share this machine. Select parts with `--only`:

rate: answers per second to 16 clients of wrk that upload clips, as a share of the files per second
of `engine label` with the same artifact on the same clips, before and after.
load: latency (50%, 95%, 99%) by the number of clients.
mixed: 10,000 uploads by locust, 5% of them broken in the middle. Each answer is compared with the
label, the confidence and the duration that the Python API gives for the same clip.

wrk is a package of Debian; locust is from PyPI, and may be in another environment: `--locust`.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from benchmarks.machine import command_line, fingerprint, result_file
from benchmarks.scripts.labelling import labelled, linked
from benchmarks.scripts.training import RESULTS, engine
from benchmarks.serving_figures import latency_chart
from benchmarks.worker import memory_mib
from engine.prediction import Prediction

PARTS = ("rate", "load", "mixed")
REPEATS = 3
CLIENTS = 16
LOADS = (1, 2, 4, 8, 16, 32)
SCRIPTS = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=20, help="of each load")
    parser.add_argument("--locust", default="locust", help="the program")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = result_file(options.out, "serving", facts)
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= {"command": command_line("benchmarks.scripts.serving"), **facts}
    result["protocol"] = " ".join((__doc__ or "").split())
    artifact = options.artifact.absolute()
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as temporary:
        folder = Path(temporary)
        engine("data", "synth", folder / "set", "--clips-per-class", 50, "--seed", 5)
        clips = sorted((folder / "set" / "videos").glob("*/*.avi"))
        (folder / "list").write_text("".join(f"{clip}\n" for clip in clips))
        for part in options.only:
            if part == "rate":
                measured: Any = rate(artifact, linked(clips, folder / "files", options.clips),
                                     folder, options.seconds)  # fmt: skip
            elif part == "load":
                measured = load(artifact, folder, options.seconds)
            else:
                measured = mixed(artifact, clips, folder, options)
            result[part] = measured
            print(json.dumps({part: measured}), flush=True)
            path.write_text(json.dumps(result, indent=2) + "\n")
    if "load" in result:
        latency_chart(path.with_suffix(".png"), result["load"])
    print(f"written to {path}")


def rate(artifact: Path, files: Path, folder: Path, seconds: int) -> list[dict[str, Any]]:
    rows = []
    before = labelled(artifact, files)["files_per_s"]
    for _ in range(REPEATS):
        with server(artifact) as (port, _):
            wrk(port, folder, CLIENTS, 3)  # warm-up
            answers = wrk(port, folder, CLIENTS, seconds)
        after = labelled(artifact, files)["files_per_s"]
        share = round(2 * answers["answers_per_s"] / (before + after), 3)
        rows.append({"label_files_per_s": [before, after], **answers, "share": share})
        before = after
    return rows


def load(artifact: Path, folder: Path, seconds: int) -> list[dict[str, Any]]:
    with server(artifact) as (port, _):
        wrk(port, folder, CLIENTS, 3)
        return [wrk(port, folder, clients, seconds) for clients in LOADS]


def mixed(
    artifact: Path, clips: list[Path], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    from engine import api

    expected = {
        str(prediction.path): {
            "label": prediction.label,
            "confidence": prediction.confidence,
            "end_s": prediction.end_s,
        }
        for prediction in cast(list[Prediction], api.load(artifact).predict(clips))
    }
    (folder / "expected.json").write_text(json.dumps(expected))
    with server(artifact) as (port, process):
        wrk(port, folder, CLIENTS, 10)
        before = memory_mib(process.pid)
        words = ["--headless", "-u", str(CLIENTS), "-r", str(CLIENTS), "--only-summary"]
        variables = {
            "EXPECTED": str(folder / "expected.json"),
            "COUNTS": str(folder / "counts.json"),
            "REQUESTS": str(options.requests),
        }
        subprocess.run(
            [options.locust, "-f", SCRIPTS / "serving_locust.py", *words,
             "-H", f"http://127.0.0.1:{port}"],
            check=True, capture_output=True, env=os.environ | variables,
        )  # fmt: skip
        after = memory_mib(process.pid)
    counts = json.loads((folder / "counts.json").read_text())
    return {**counts, "mib_before": round(before), "mib_after": round(after)}


@contextlib.contextmanager
def server(artifact: Path) -> "Iterator[tuple[int, subprocess.Popen[str]]]":
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", str(artifact), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert "serving" in line, line
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wrk(port: int, folder: Path, clients: int, seconds: int) -> dict[str, Any]:
    program = shutil.which("wrk")
    assert program, "wrk isn't installed: apt-get install wrk"
    done = subprocess.run(
        [program, "-t1", f"-c{clients}", f"-d{seconds}s", "-s", SCRIPTS / "serving.lua",
         f"http://127.0.0.1:{port}"],
        check=True, capture_output=True, text=True,
        env=os.environ | {"CLIPS": str(folder / "list")},
    )  # fmt: skip
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    assert found, done.stdout
    answers, micros, errors, *latencies = map(int, found.groups())
    return {
        "clients": clients,
        "answers_per_s": round(answers / micros * 1e6, 1),
        "errors": errors,
        **{
            f"p{percent}_ms": round(value / 1000, 1)
            for percent, value in zip((50, 95, 99), latencies, strict=True)
        },
    }


if __name__ == "__main__":
    main()
