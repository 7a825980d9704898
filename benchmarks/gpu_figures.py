"""What the documentation says was proved on a GPU, from the results of `benchmarks.gpu_proof`."""

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.__main__ import PARTS

NOTHING = """\
- Nothing was run on a GPU yet: not NVDEC, not TensorRT engines, not bf16 training on a GPU, not
  CUDA graphs. The code is tested as far as a CPU allows (TensorRT-RTX engines are built, not run).
"""
HOW = "  [docs/gpu.md](docs/gpu.md) says how to run all checks that need a GPU.\n"
NO_CARD = ("none", "rehearsal")
COMPARED = ("decode: frames", "decode: real")
NVDEC = "DALI's video decoder"


def gpu_limits(results: Path) -> str:
    """One bullet for each GPU: what was done, what failed, and what could not run there."""
    paths = [path for path in sorted(results.glob("gpu_*.json"))
             if path.stem.split("_")[1] not in NO_CARD]  # fmt: skip
    return ("".join(map(_of_card, paths)) or NOTHING) + HOW


def _of_card(path: Path) -> str:
    result = json.loads(path.read_text())
    steps = {
        f"{part}: {name}": step
        for part, of_part in result["parts"].items()
        for name, step in of_part.items()
    }
    failed = [name for name, step in steps.items() if _has_failed(step)]
    done = [name for name, step in steps.items() if "value" in step and name not in failed]
    skipped = [f"{name} ({step['skipped']})" for name, step in steps.items() if "skipped" in step]
    every = {f"{part}: {name}" for part, names in PARTS.items() for name in names}
    lines = [f"- {_card(steps) or path.stem}: {_frames(steps)}Done: {', '.join(done)}."]
    if failed:
        lines.append(f"  Failed: {', '.join(failed)}.")
    if skipped:
        lines.append(f"  Could not run there: {', '.join(skipped)}.")
    if left := len(every - steps.keys()):
        lines.append(f"  Not run yet: {left} of {len(every)} checks.")
    lines.append(f"  Source: `{result['command']}`, in `benchmarks/results/{path.name}`.")
    return "\n".join(lines) + "\n"


def _has_failed(step: dict[str, Any]) -> bool:
    value = step.get("value")
    return "error" in step or (isinstance(value, dict) and value.get("exit_code", 0) != 0)


def _frames(steps: dict[str, Any]) -> str:
    """What was compared frame by frame."""
    rows = [row for name in COMPARED for row in steps.get(name, {}).get("value", ())]
    if not rows:
        return ""
    by_nvdec = [row for row in rows if NVDEC in row.get("read_by", {})]
    wrong = sum(row.get("wrong_frames", 0) for row in by_nvdec)
    return (
        f"NVDEC decoded {len(by_nvdec)} of {len(rows)} files, real and drawn, with {wrong} wrong "
        "frames; PyAV decoded the others. "
    )


def _card(steps: dict[str, Any]) -> str:
    """Full name of the GPU, from the first step that is done."""
    for step in steps.values():
        if gpu := step.get("machine", {}).get("machine", {}).get("gpu"):
            return str(gpu["name"])
    return ""
