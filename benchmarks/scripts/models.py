"""Size and speed of the models: `python -m benchmarks.scripts.models`.

Each preset of published size is built with random weights, which doesn't affect the speed: number
of parameters, multiply-adds of one clip, and clips per second on this machine in eager fp32 and in
int8 by OpenVINO. Each is measured in a process of its own; what is measured already is kept.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import fingerprint, result_file
from benchmarks.scripts.training import RESULTS
from engine.models.registry import PRESETS

SKIPPED = {"timesformer l", "timesformer hr", "hf base", "torchvision base", "x3d base"}
"""Too large for two cores, or another name of a preset that is measured."""
REPEATS = 3
MIN_S = 1.0
NUM_CLASSES = 400
TIMEOUT_S = 1800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", metavar="FAMILY", choices=PRESETS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    facts = fingerprint()
    path = result_file(options.out, "models", facts)
    result = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    result |= {"command": "python -m benchmarks.scripts.models", **facts}
    result["protocol"] = " ".join((__doc__ or "").split())
    for family in options.only or PRESETS:
        for preset in PRESETS[family]:
            name = f"{family} {preset}"
            if name in SKIPPED or preset == "small" or "rates" in result["rows"].get(name, {}):
                continue
            print(name, flush=True)
            result["rows"][name] = _in_a_process(family, preset)
            path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def measure(family: str, preset: str) -> dict[str, Any]:
    """The figures of one preset."""
    from benchmarks.stages import backends
    from engine.models import registry

    spec, clip = registry.ModelSpec.of_preset(family, preset, NUM_CLASSES)
    model = registry.build(spec, clip)
    parameters = sum(weight.numel() for weight in model.parameters())
    del model
    found = backends.measure(
        family, preset, batch=1, repeats=REPEATS, min_s=MIN_S, backends=["openvino"],
        precisions=["int8"], with_compile=False, with_peaks=False,
    )  # fmt: skip
    failed = {row["name"]: row["error"] for row in found["rows"] if "error" in row}
    return {
        "frames": clip.num_frames,
        "size": clip.crop,
        "parameters": parameters,
        "multiply_adds": found["gflop_per_clip"] / 2 * 1e9,
        "rates": {row["name"]: row["clips_per_s"] for row in found["rows"] if "error" not in row},
        "published": _published(family, preset),
        **({"failed": failed} if failed else {}),
    }


def _published(family: str, preset: str) -> float | None:
    """Top-1 accuracy on Kinetics-400 that torchvision states for its weights."""
    if family != "torchvision":
        return None
    from torchvision.models import get_model_weights

    metrics = get_model_weights(preset).DEFAULT.meta["_metrics"]
    accuracy: float = metrics["Kinetics-400"]["acc@1"]
    return accuracy


def _in_a_process(family: str, preset: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scripts.models", "--one", family, preset]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {TIMEOUT_S} s"}
    if ended.returncode:
        return {"error": f"exit code {ended.returncode}: {ended.stderr.strip()[-500:]}"}
    row: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
