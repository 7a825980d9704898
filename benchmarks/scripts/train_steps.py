"""Speed of training steps on this machine, in several variants.

Run `python -m benchmarks.scripts.train_steps`. All variants train cnn-lstm on EfficientNet-Lite0,
16 frames of 160², on clips that are in memory already, by AdamW. They take turns. Each row has the
ratio to the first variant, which is what `engine train` does; `first_step_s` has the time to
compile. Weights are random, which doesn't affect the speed. `loss` is that of the last step; all
variants of a batch size see the same clips and start with the same weights.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import interleaved, summary
from benchmarks.machine import command_line, fingerprint, result_file
from benchmarks.scripts.training import RESULTS
from engine.memory import keep_freed_memory

BATCH = 8
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "torch.compile": {"compiles": True},
    "bf16": {"bf16": True},
    "bf16, torch.compile": {"bf16": True, "compiles": True},
    "contiguous, not channels last": {"channels_last": False},
    "batch 16": {"batch": 16},
    "frozen backbone": {"frozen": 1.0},
    "first half of the backbone frozen": {"frozen": 0.5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    keep_freed_memory()  # as engine train does
    model, clips = _inputs(options)
    steps: dict[str, Callable[[], int]] = {}
    first: dict[str, float] = {}
    losses: dict[str, float] = {}
    for name in dict.fromkeys(["as it is", *options.only]):
        step = _step(copy.deepcopy(model), clips, losses, name, **VARIANTS[name])
        started = time.perf_counter()
        step()
        first[name] = round(time.perf_counter() - started, 1)
        print(f"{name}: first step {first[name]} s", flush=True)
        steps[name] = step
    rates = interleaved(steps, repeats=options.repeats)
    rows = [
        {**summary(name, rates[name]), "first_step_s": first[name], "loss": losses[name]}
        for name in steps
    ]
    for row in rows:
        row["ratio"] = round(row["clips_per_s"] / rows[0]["clips_per_s"], 2)
        print(f"{row['name']}: {row['clips_per_s']} clips/s, {row['ratio']} ×", flush=True)
    result = {
        "command": command_line("benchmarks.scripts.train_steps"),
        **facts,
        "protocol": " ".join((__doc__ or "").split()),
        "model": f"cnn-lstm, {options.backbone}, {options.frames} × {options.size}²",
        "rows": rows,
    }
    path = result_file(options.out, "train_steps", facts)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def _inputs(options: argparse.Namespace) -> tuple[Any, Any]:
    """A model, and normalized clips (B, T, C, H, W)."""
    import torch

    from dali_pipelines.spec import ClipSpec
    from engine.models.registry import ModelSpec, build

    spec, _ = ModelSpec.of_preset("cnn-lstm", "base", 6, backbone=options.backbone)
    torch.manual_seed(0)
    clip = ClipSpec(num_frames=options.frames, resize=options.size, crop=options.size)
    largest = max(variant.get("batch", BATCH) for variant in VARIANTS.values())
    return build(spec, clip), torch.randn(largest, *clip.shape)


def _step(
    model: Any, clips: Any, losses: dict[str, float], name: str, *,
    batch: int = BATCH, compiles: bool = False, bf16: bool = False, channels_last: bool = True,
    frozen: float = 0.0,
) -> Callable[[], int]:  # fmt: skip
    """One training step as a function that returns the number of clips."""
    import torch
    from torch.nn.functional import cross_entropy

    from engine.models import memory_format
    from engine.models.freezing import set_frozen

    if channels_last:
        model = memory_format.channels_last(model)
    set_frozen(model.train(), frozen == 1, share=frozen)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], 3e-4)
    called = torch.compile(model) if compiles else model
    labels = torch.arange(batch) % 6

    def step() -> int:
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = cross_entropy(called(clips[:batch]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[name] = round(float(loss.detach()), 4)
        return batch

    return step


if __name__ == "__main__":
    main()
