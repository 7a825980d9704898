"""Runs a model on any number of clips, in batches of one size."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.spec import ClipSpec
from engine.memory import is_out_of_memory

if TYPE_CHECKING:
    import torch


class VideoModel(Protocol):
    """A model with the preprocessing of its training, such as Predictor."""

    @property
    def clip(self) -> ClipSpec: ...
    @property
    def class_names(self) -> list[str]: ...
    @property
    def device(self) -> "torch.device": ...
    def __call__(self, clips: "torch.Tensor") -> "torch.Tensor":
        """Return logits (B, num_classes) of uint8 clips (B, T, C, H, W)."""


class BatchedPredictor:
    """Computes probabilities in batches of one size; the last batch is padded.

    If memory runs out, the batch size is halved; `halved` counts how often.
    """

    def __init__(self, model: "Callable[[torch.Tensor], torch.Tensor]", batch_size: int) -> None:
        self._model = model
        self._size = self.batch_size = batch_size
        self.halved = 0

    @classmethod
    def before_loading(cls, model: VideoModel, batch_size: int) -> Self:
        """Create one before a loader starts.

        On a GPU it runs a batch of zeros, because a model may record a CUDA graph the first time,
        and a loader's CUDA calls could disturb the recording.
        """
        import torch

        predictor = cls(model, batch_size)
        if model.device.type == "cuda":
            predictor(torch.zeros(batch_size, *model.clip.shape, dtype=torch.uint8))
        return predictor

    def __call__(self, clips: "torch.Tensor") -> NDArray[np.float32]:
        import torch

        while True:
            try:
                parts = [self._padded(part) for part in clips.split(self._size)]
                return torch.cat(parts).numpy()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self._size == 1:
                    raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                self._size = max(1, self._size // 2)
                self.halved += 1

    def _padded(self, clips: "torch.Tensor") -> "torch.Tensor":
        import torch

        num_missing = self._size - len(clips)
        batch = clips
        if num_missing:
            batch = torch.cat([clips, clips[-1:].expand(num_missing, *clips.shape[1:])])
        probabilities_BC = self._model(batch).float().softmax(dim=1)
        return probabilities_BC[: len(clips)].cpu()


def top_classes(
    model: VideoModel, probabilities_C: NDArray[np.float32], top_k: int
) -> dict[str, float]:
    """The most likely classes and their probabilities, the best first."""
    best = np.argsort(-probabilities_C, kind="stable")[:top_k].tolist()
    return {model.class_names[index]: float(probabilities_C[index]) for index in best}
