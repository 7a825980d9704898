"""What an evaluation found, under which protocol."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_pipelines.loaders.loader_config import Sample
from dali_pipelines.spec import ClipSpec
from engine.evaluation.predict import Predictions


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Without these a figure says nothing."""

    split: str
    scheme: str
    num_clips: int
    num_failed: int
    views: str
    """Looks at a clip in time, times crops; their mean is the answer for the video."""
    frames: str
    checkpoint: str
    chosen_by: str
    """Which figure of which part chose the checkpoint."""
    device: str
    interval: str = "95% bootstrap over sources, 2,000 resamples"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    name: str
    protocol: Protocol
    class_names: list[str]
    levels: dict[str, dict[str, Any]]
    """`video`, and with several views `clip`: what metrics.measure found."""
    predictions: Predictions
    spec: ClipSpec
    are_own_clips: bool = True
    """Of the dataset on which it was trained."""

    @property
    def scores(self) -> dict[str, Any]:
        """Of the videos, their views taken together."""
        return self.levels["video"]


def are_repeats(runs: Sequence[Evaluated]) -> bool:
    """Whether a mean over runs means something: they differ by their fold or seed alone."""
    protocols = [run.protocol for run in runs]
    facts = {
        (re.sub(r"\d+", "", each.scheme), each.split, each.views, each.device) for each in protocols
    }
    return len(runs) > 1 and len(facts) == 1


@dataclass(frozen=True, kw_only=True)
class Confused:
    """One clip that was taken for something else."""

    row: Sample
    true: str
    predicted: str
    confidence: float
    strip: str
    gif: Path
