"""Duration and results of `engine demo`.

Run `python -m benchmarks.scripts.demo`. Results are taken from the files that the demo wrote.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import fingerprint, result_file
from benchmarks.scripts.training import RESULTS, engine
from engine.labelling import writers

KEPT = (
    "name",
    "kind",
    "backend",
    "precision",
    "clips_per_s",
    "repeats",
    "top1",
    "agreement",
    "error",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = result_file(options.out, "demo", facts)
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as folder:
        out = Path(folder) / "demo"
        result = {"command": "python -m benchmarks.scripts.demo", **facts}
        result["seconds"] = round(engine("demo", "--out", out), 1)
        result |= read_results(out)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def read_results(out: Path) -> dict[str, Any]:
    (measured,) = (out / "bench").glob("end_to_end_*.json")
    (report,) = json.loads((out / "run" / "evaluation" / "report.json").read_text())
    with writers.failures_of(out / "labels.jsonl").open(newline="") as file:
        failures = list(csv.DictReader(file))
    return {
        "steps": json.loads((out / "steps.json").read_text().replace(str(out), "demo")),
        "top1": report["video"]["top1"],
        "top1_interval": report["video"]["top1_interval"],
        "num_tested": report["protocol"]["num_clips"],
        "rows": [
            {key: row[key] for key in KEPT if key in row}
            for row in json.loads(measured.read_text())["rows"]
        ],
        "num_labelled": len((out / "labels.jsonl").read_text().splitlines()),
        "failures": failures,
    }


if __name__ == "__main__":
    main()
