"""Interface of the pipelines from video files to labels, ours and the baselines."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dali_pipelines.loaders.loader_config import ClipLoader, LoaderConfig, Sample
from dali_pipelines.spec import ClipSpec, Values


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """Describes a pipeline; can be sent to another process."""

    name: str
    kind: str
    """`ours`, or the name of a baseline."""
    path: Path
    """A run or an artifact; a baseline takes the weights of a run."""


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
    """(C,), averaged over the views of a clip."""


def labelled(model: Any, loader: ClipLoader) -> Iterator[ClipAnswer]:
    """Yield the model's predictions for all clips of a loader."""
    from engine.evaluation.predict import answers

    for numbers, probabilities_BVC in answers(model, loader):
        for number, probabilities_VC in zip(numbers, probabilities_BVC, strict=True):
            yield ClipAnswer(number, probabilities_VC.mean(axis=0))


class Pipeline(Protocol):
    note: str
    """Message of its loader if something makes it slow on this machine."""

    def label(self, rows: list[Sample], setting: Setting) -> Iterator[ClipAnswer]:
        """Predict all clips as fast as possible; clips that can't be read are left out."""

    def one(self, row: Sample) -> Any:
        """Predict a single clip, to measure latency."""
