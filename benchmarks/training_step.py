"""One training step of a model on random clips: forward, backward and update."""

from collections.abc import Callable
from typing import Any


def training_step(
    model: Any, clips: Any, logits_of: Callable[[Any], Any], precision: str = "fp32"
) -> Callable[[], int]:
    """A function that trains on `clips`, on the GPU where there is one, and returns their number.

    `logits_of` is given the clips; `model` is what learns.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    clips = clips.to(device)
    labels = torch.zeros(len(clips), dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> int:
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
