"""The results of an evaluation and its protocol."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dali_pipelines.loaders.loader_config import Sample
from dali_pipelines.spec import ClipSpec
from engine.evaluation.predict import Predictions


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the metrics were measured; they can't be compared without it."""

    split: str
    scheme: str
    num_clips: int
    num_failed: int
    views: str
    """Clips in time × crops of each video; their mean is the prediction for the video."""
    frames: str
    checkpoint: str
    chosen_by: str
    """The metric and split that selected the checkpoint."""
    device: str
    interval: str = "95% bootstrap over sources, 2,000 resamples"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The results of one run."""

    name: str
    protocol: Protocol
    class_names: list[str]
    levels: dict[str, dict[str, Any]]
    """Metrics, see `metrics.measure`, of each `video` and, with several views, of each `clip`."""
    predictions: Predictions
    spec: ClipSpec
    sources: list[str] = field(default_factory=list)
    """Source of each row of `predictions`."""
    are_own_clips: bool = True
    """Whether the clips are from the dataset that the run was trained on."""

    @property
    def scores(self) -> dict[str, Any]:
        """Metrics of the videos, after averaging their views."""
        return self.levels["video"]


def are_repeats(runs: Sequence[Evaluated]) -> bool:
    """True if the runs differ only in fold or seed, so that their mean is meaningful."""
    protocols = [run.protocol for run in runs]
    facts = {
        (re.sub(r"\d+", "", protocol.scheme), protocol.split, protocol.views, protocol.device)
        for protocol in protocols
    }
    return len(runs) > 1 and len(facts) == 1


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None as the deviation of a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Confused:
    """A misclassified clip."""

    row: Sample
    true: str
    predicted: str
    confidence: float
    strip: str
    gif: Path
