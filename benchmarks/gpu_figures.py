"""What the documentation says was proved on a GPU, from the results of `benchmarks.gpu_proof`."""

import json
from pathlib import Path
from typing import Any

NOTHING = """\
- Nothing was run on a GPU yet: not NVDEC, not TensorRT engines, not bf16 training on a GPU, not
  CUDA graphs. The code is tested as far as a CPU allows (TensorRT-RTX engines are built, not run).
"""
HOW = "  [docs/gpu.md](docs/gpu.md) says how to run all checks that need a GPU.\n"
NO_CARD = ("none", "rehearsal")


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
    done = [name for name, step in steps.items() if "value" in step]
    failed = [name for name, step in steps.items() if "error" in step]
    skipped = [f"{name} ({step['skipped']})" for name, step in steps.items() if "skipped" in step]
    lines = [f"- {_card(steps) or path.stem}: {len(done)} of {len(steps)} checks are done."]
    if failed:
        lines.append(f"  Failed: {', '.join(failed)}.")
    if skipped:
        lines.append(f"  Could not run there: {', '.join(skipped)}.")
    lines.append(f"  Source: `{result['command']}`, in `benchmarks/results/{path.name}`.")
    return "\n".join(lines) + "\n"


def _card(steps: dict[str, Any]) -> str:
    """Full name of the GPU, from the first step that is done."""
    for step in steps.values():
        if gpu := step.get("machine", {}).get("machine", {}).get("gpu"):
            return str(gpu["name"])
    return ""
