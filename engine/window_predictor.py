"""Runs a model on decoded windows: the DALI graph, then batches of some sizes."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.augment import ClipView
from dali_pipelines.cores import num_cores
from dali_pipelines.decode.pixels import Frame
from dali_pipelines.loaders.clip_reader import pixel_kind, pixel_sources
from dali_pipelines.loaders.dali_graph import ClipGraph
from engine.batched_predictor import BatchedPredictor, VideoModel


class WindowPredictor:
    """Computes probabilities of windows whose frames are decoded and resized.

    Run the model once before, because a model may record a CUDA graph then, which a DALI graph
    could disturb.

    Args:
        model: The model.
        sizes: Batch sizes to run it with, ascending. Other numbers of windows are padded to the
            largest one.
    """

    def __init__(self, model: VideoModel, sizes: Iterable[int]) -> None:
        self._predictors = {size: BatchedPredictor(model, size) for size in sizes}
        self._largest = max(self._predictors)
        self._for_gpu = model.device.index is not None
        self._graph = ClipGraph(
            pixel_kind(for_gpu=self._for_gpu),
            model.clip,
            max_views=self._largest,
            num_threads=num_cores(),
            gpu=model.device.index,
            values="uint8",
        )

    def __call__(
        self, frames: Sequence[list[Frame]], views: Sequence[ClipView]
    ) -> NDArray[np.float32]:
        """Return the probabilities (B, C) of at most as many windows as the largest size."""
        clips = self._graph.run(pixel_sources(list(frames), for_gpu=self._for_gpu), list(views))
        return self._predictors.get(len(views), self._predictors[self._largest])(clips)
