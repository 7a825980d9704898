"""Speed of the data commands as processes: start-up, synthesis, indexing, checking, auditing.

Run `python -m benchmarks.scripts.data`. Each repeat makes a new synthetic dataset (so that the file
cache is warm) and runs every command once. Start-up is timed in turn with `python -c pass`. The
bound for checking is a full decode by PyAV in as many threads as cores. Prints and writes JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.full_decode import count_frames
from benchmarks.machine import fingerprint, result_file
from dali_pipelines.cores import num_cores

RESULTS = Path(__file__).parents[1] / "results"
STARTS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=1000, help="number of clips, in 8 classes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    per_class = options.clips // 8
    runs = [measure(per_class) for _ in range(options.repeats)]
    facts = fingerprint()
    result = {
        "command": f"python -m benchmarks.scripts.data --clips {options.clips} "
        f"--repeats {options.repeats}",
        **facts,
        "num_clips": per_class * 8,
        "start_up": start_up(),
        "rows": rows(runs, per_class * 8),
    }
    result_file(options.out, "data", facts).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({"start_up": result["start_up"], "rows": result["rows"]}, indent=2))


def measure(per_class: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        return {
            "synth": timed("data", "synth", root, "--clips-per-class", per_class),
            "index": timed("data", "index", root),
            "split": timed("data", "split", root, "--scheme", "grouped"),
            "check": timed("data", "check", root),
            "check bound": decode_all(sorted(root.rglob("*.avi"))),
            "audit": timed("data", "audit", root),
        }


def rows(runs: list[dict[str, float]], num_clips: int) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = []
    for name in runs[0]:
        times_s = [run[name] for run in runs]
        median_s = statistics.median(times_s)
        table.append(
            {
                "name": name,
                "times_s": [round(value, 3) for value in times_s],
                "clips_per_s": round(num_clips / median_s, 1),
            }
        )
    by_name = {row["name"]: row["clips_per_s"] for row in table}
    check = next(row for row in table if row["name"] == "check")
    check["share_of_bound"] = round(by_name["check"] / by_name["check bound"], 2)
    return table


def start_up() -> dict[str, float]:
    """Measure start-up of `engine --help` and of Python, as medians in seconds."""
    ours, bare = [], []
    for _ in range(STARTS):
        ours.append(timed("--help"))
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append(time.perf_counter() - started)
    return {
        "engine_help_s": round(statistics.median(ours), 3),
        "bare_python_s": round(statistics.median(bare), 3),
    }


def timed(*arguments: object) -> float:
    command = [str(Path(sys.executable).with_name("engine")), *map(str, arguments)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def decode_all(paths: list[Path]) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(num_cores()) as executor:
        assert all(executor.map(count_frames, paths))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
