"""PendingStep: the loss of a training step, which the GPU may not have computed yet."""

import torch
from torch import Tensor

from dali_pipelines.loaders.loader_config import Batch


class PendingStep:
    """A step that was launched, and whose loss has not been looked at.

    Args:
        step: Number of the step.
        parts: Its batches.
        num_clips: Number of clips of all ranks.
        totals_2: Sum of the losses, and number of correct labels. Copying them to the CPU starts
            here; `float(totals_2[0])` would wait for all work that was given to the GPU since.
    """

    def __init__(self, step: int, parts: list[Batch], num_clips: int, totals_2: Tensor) -> None:
        self.step = step
        self.parts = parts
        self.num_clips = num_clips
        self._copied: torch.cuda.Event | None = None
        self._totals_2 = totals_2
        if totals_2.is_cuda:
            self._totals_2 = torch.empty_like(totals_2, device="cpu", pin_memory=True)
            self._totals_2.copy_(totals_2, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def totals(self) -> tuple[float, float]:
        """Sum of the losses, and number of correct labels; waits for this step only."""
        if self._copied is not None:
            self._copied.synchronize()
        loss_sum, num_correct = self._totals_2.tolist()
        return loss_sum, num_correct
