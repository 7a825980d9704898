"""One training step of a model on random clips: forward, backward and update."""

from collections.abc import Callable
from typing import Any


def training_step(
    model: Any, clips: Any, logits_of: Callable[[Any], Any], precision: str = "fp32"
) -> Callable[[], int]:
    """Return a function that runs one training step and returns the number of clips.

    Args:
        model: The model to train; it is moved to the GPU if there is one.
        clips: The clips of the batch.
        logits_of: Computes logits of clips.
        precision: "fp32", "tf32", or "bf16" for autocast.
    """
    import torch

    from trt.tf32 import set_tf32

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    clips = clips.to(device)
    labels = torch.zeros(len(clips), dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> int:
        set_tf32(precision == "tf32")
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits = logits_of(clips)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return len(clips)

    return step
