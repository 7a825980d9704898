"""A way from video files to labels, ours or a peer's."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dali_pipelines.loaders.loader_config import ClipLoader, LoaderConfig, Sample
from dali_pipelines.spec import ClipSpec, Values


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """Says which way, in words that travel to another process."""

    name: str
    kind: str
    """`ours`, or one of the peers."""
    path: Path
    """A run or an artifact; a peer takes the weights of a run."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    batch: int = 8
    num_clips: int = 1
    num_crops: int = 1

    @property
    def views(self) -> str:
        return f"{self.num_clips}x{self.num_crops}"

    def loader_config(self, spec: ClipSpec, values: Values) -> LoaderConfig:
        return LoaderConfig(
            spec=spec,
            batch_size=self.batch,
            num_clips=self.num_clips,
            num_crops=self.num_crops,
            values=values,
        )


class ClipAnswer(NamedTuple):
    id: int
    probabilities: Any
    """(C,), the mean over a clip's views."""


def labelled(model: Any, loader: ClipLoader) -> Iterator[ClipAnswer]:
    """All that a loader gives, answered by a model that takes its clips."""
    from engine.evaluation.predict import answers

    for numbers, probabilities_BVC in answers(model, loader):
        for number, probabilities_VC in zip(numbers, probabilities_BVC, strict=True):
            yield ClipAnswer(number, probabilities_VC.mean(axis=0))


class Pipeline(Protocol):
    note: str
    """What its loader says of this machine, where something makes it slower than usual."""

    def label(self, rows: list[Sample], setting: Setting) -> Iterator[ClipAnswer]:
        """From files to answers, as fast as it goes; clips that can't be read are left out."""

    def one(self, row: Sample) -> Any:
        """A single clip by itself, for its latency."""
