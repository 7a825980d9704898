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
        self._recorded: dict[int, _Recorded] = {}

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        size = len(clips)
        if size not in self._recorded:
            if len(self._recorded) == MAX_SIZES:
                return self._run(clips)
            self._recorded[size] = self._record(clips)
        recorded = self._recorded[size]
        recorded.clips.copy_(clips)
        recorded.graph.replay()
        return recorded.logits.clone()

    def _record(self, clips: torch.Tensor) -> "_Recorded":
        static_clips = clips.clone()
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(NUM_WARM_UP):
                self._run(static_clips)
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._run(static_clips)
        return _Recorded(graph, static_clips, logits)


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    clips: torch.Tensor
    """Input buffer of the graph."""
    logits: torch.Tensor
    """Output buffer of the graph."""
