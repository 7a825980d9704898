"""Runs a model as one CUDA graph per batch size, which takes one launch instead of hundreds."""

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from trt.build_input import Run

MAX_SIZES = 4
"""Largest number of recorded batch sizes, since each graph keeps its own memory; other sizes run
without a graph."""
NUM_WARM_UP = 3
"""Runs before recording, in which libraries choose kernels and allocate memory."""


class CudaGraphRunner:
    """Records a graph for each new batch size, and replays it from then on."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._recorded: dict[int, _Recorded | None] = {}
        """By batch size; None if the model can't be recorded."""

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        size = len(clips)
        if size not in self._recorded and len(self._recorded) < MAX_SIZES:
            self._recorded[size] = self._record(clips)
        recorded = self._recorded.get(size)
        if recorded is None:
            return self._run(clips)
        recorded.clips.copy_(clips)
        recorded.graph.replay()
        return recorded.logits.clone()

    def _record(self, clips: torch.Tensor) -> "_Recorded | None":
        static_clips = clips.clone()
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(NUM_WARM_UP):
                self._run(static_clips)
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        # By default, CUDA calls of any thread, such as a loader's, would end the capture.
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                logits = self._run(static_clips)
        except RuntimeError:  # something in it waits for the GPU
            return None
        return _Recorded(graph, static_clips, logits)


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    clips: torch.Tensor
    """Input buffer of the graph."""
    logits: torch.Tensor
    """Output buffer of the graph."""
