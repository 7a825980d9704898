"""All the kernels of a model as one CUDA graph, for each batch size: one launch, not hundreds."""

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from trt.build_input import Run

MAX_SIZES = 4
"""Each graph keeps memory of its own; sizes beyond these run kernel by kernel."""
NUM_WARM_UP = 3
"""Runs before recording, in which libraries choose their kernels and reserve memory."""


class CudaGraphRunner:
    """Records a batch size when it is first seen, and replays it from then on."""

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
        own = clips.clone()
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(NUM_WARM_UP):
                self._run(own)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._run(own)
        return _Recorded(graph, own, logits)


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    clips: torch.Tensor
    """Where the graph reads."""
    logits: torch.Tensor
    """Where it writes."""
