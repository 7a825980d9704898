"""What every loader agrees on: which clips, in which order, seen how, and what a batch is.

The order of an epoch is a pure function of (seed, epoch); where an epoch stands is the number of
batches handed out. So a run that begins again at that number goes on as if it had never stopped.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dali_pipelines.augment import Augment, ClipView, training_view
from dali_pipelines.errors import SpecError, Stopped
from dali_pipelines.sampling import plan_views
from dali_pipelines.spec import ClipSpec, Values

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row of an index, as far as a loader needs it."""

    id: int
    path: Path
    label: int
    frames: int
    fps: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    repeat: int = 0
    """Which of several times this is that an epoch sees the clip, each varied in its own way."""


class Batch(NamedTuple):
    """B counts looks: a clip that is viewed several times comes as so many neighbors."""

    clips: "torch.Tensor"
    """(B, T, C, H, W)"""
    labels: "torch.Tensor"
    ids: "torch.Tensor"


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    spec: ClipSpec
    batch_size: int = 8
    """Clips; with several views of a clip, a batch holds as many times more."""
    augment: Augment | None = None
    """None: the clips are seen as in testing, always alike."""
    shuffle: bool = False
    seed: int = 0
    num_clips: int = 1
    """Views spread over a clip's time, in testing."""
    num_crops: int = 1
    """1, or 3 along the long side."""
    rank: int = 0
    world_size: int = 1
    values: Values = "float32"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SpecError(f"the batch size must be at least 1, not {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise SpecError(f"rank {self.rank} is not one of 0 to {self.world_size - 1}")
        if self.augment and self.num_views > 1:
            raise SpecError("several views of a clip are for testing; training draws one")

    @property
    def num_views(self) -> int:
        return self.num_clips * self.num_crops

    def views(self, row: Sample, epoch: int) -> list[ClipView]:
        if self.augment is None:
            views = plan_views(
                row.frames,
                row.fps,
                row.width,
                row.height,
                self.spec,
                num_clips=self.num_clips,
                num_crops=self.num_crops,
            )
            return [
                ClipView(plan=each.plan, crop_x=each.crop_x, crop_y=each.crop_y) for each in views
            ]
        return [
            training_view(
                row.frames,
                row.fps,
                self.spec,
                self.augment,
                seed=self.seed,
                epoch=epoch,
                clip=row.id,
                repeat=row.repeat,
            )
        ]

    def batches(self, num_rows: int, epoch: int) -> list[list[int]]:
        """Positions of this rank's clips, batch by batch.

        Over all ranks each clip comes once, and their batches together are those of one process
        with a batch as large. All ranks make the same number of steps: where one has nothing left
        for the last of them, its batch is empty.
        """
        order = np.arange(num_rows)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(num_rows)
        own = order[self.rank :: self.world_size].tolist()
        size = self.batch_size
        num_steps = -(-num_rows // (size * self.world_size))
        return [own[step * size : (step + 1) * size] for step in range(num_steps)]


@dataclass(kw_only=True)
class LoaderReport:
    """What happened to the clips, over all epochs; for one summary at the end."""

    read_by: Counter[str] = field(default_factory=Counter)
    """How many clips each way of reading delivered."""
    failures: dict[Path, str] = field(default_factory=dict)
    """Files that can't be read, with the reason; their clips are missing from the batches."""
    damaged_frames: Counter[Path] = field(default_factory=Counter)
    """Wanted frames that don't decode as they were encoded; see wanted_frames.Wanted."""
    flaws: dict[Path, str] = field(default_factory=dict)
    """Files of which something is missing, though what is there was read."""
    num_streams: dict[Path, int] = field(default_factory=dict)
    """Files of several videos, of which the first was read."""
    refused: dict[Path, str] = field(default_factory=dict)
    """Files that DALI's video decoder didn't take, so that PyAV read them."""

    def describe(self) -> str:
        """One line for the end of a run."""
        parts = [f"{count:,} clips by {way}" for way, count in self.read_by.most_common()]
        if self.refused:
            path, reason = next(iter(self.refused.items()))
            parts.append(f"{len(self.refused):,} files not for DALI's decoder ({path}: {reason})")
        if damage := self.describe_damage():
            parts.append(damage)
        if self.failures:
            path, reason = next(iter(self.failures.items()))
            parts.append(f"{len(self.failures):,} files failed ({path}: {reason})")
        return "; ".join(parts) or "no clips read"

    def describe_damage(self) -> str:
        """What was used though it isn't sound; empty where everything is."""
        parts = []
        if self.damaged_frames:
            parts.append(
                f"{self.damaged_frames.total():,} damaged frames of "
                f"{len(self.damaged_frames):,} files were used ({next(iter(self.damaged_frames))})"
            )
        if self.flaws:
            path, reason = next(iter(self.flaws.items()))
            parts.append(f"{len(self.flaws):,} files aren't whole ({path}: {reason})")
        return "; ".join(parts)

    def describe_streams(self) -> str:
        """Empty where each file holds one video."""
        if not self.num_streams:
            return ""
        path, count = next(iter(self.num_streams.items()))
        return (
            f"{len(self.num_streams):,} files hold several videos, of which the first was read "
            f"({path}: {count})"
        )

    def merge_from(self, other: "LoaderReport") -> None:
        """What another loader, or another process, met."""
        self.read_by += other.read_by
        self.failures |= other.failures
        self.damaged_frames += other.damaged_frames
        self.flaws |= other.flaws
        self.num_streams |= other.num_streams
        self.refused |= other.refused


class ClipLoader(ABC):
    """Iterate once for each epoch; `len` is the number of its batches.

    Clips that can't be read are left out of their batch and named in `report`. A batch of which
    nothing is left is skipped, but not where other ranks wait for this one's step.
    """

    def __init__(self, rows: Sequence[Sample], config: LoaderConfig) -> None:
        if not rows:
            raise SpecError("there are no clips to load")
        self.rows = list(rows)
        self.config = config
        self.report = LoaderReport()
        self.note = ""
        """What whoever started it should know, where something isn't as usual."""
        self._epoch = 0
        self._done = 0
        """Batches of this epoch that were handed out."""
        self._begin_at = 0
        self._is_stopped = False

    def __len__(self) -> int:
        return len(self.config.batches(len(self.rows), self._epoch))

    def __iter__(self) -> Iterator[Batch]:
        """The rest of a loaded epoch, or a whole one; a loop that was left begins again."""
        self._done, self._begin_at = self._begin_at, 0
        batches = self.config.batches(len(self.rows), self._epoch)[self._done :]
        for batch in self._load([[self.rows[each] for each in batch] for batch in batches]):
            if self._is_stopped:
                raise Stopped
            self._done += 1
            if batch is not None:
                yield batch
            elif self.config.world_size > 1:
                yield _empty_batch(self.config)
        self._epoch += 1
        self._done = 0

    def stop(self) -> None:
        """Whoever asks for a batch gets `Stopped` from now on. For a signal's handler: it does no
        more than to say so."""
        self._is_stopped = True

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "done": self._done, "seed": self.config.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state["seed"] != self.config.seed:
            raise SpecError(f"the run began with seed {state['seed']}, not {self.config.seed}")
        self._epoch, self._begin_at = state["epoch"], state["done"]
        self._done = self._begin_at

    @abstractmethod
    def _load(self, batches: list[list[Sample]]) -> Iterator[Batch | None]:
        """A batch for each list of clips, in order; None where no clip of it can be read."""


def _empty_batch(config: LoaderConfig) -> Batch:
    import torch

    spec = config.spec
    nothing = torch.empty(
        0, spec.num_frames, 3, spec.crop, spec.crop, dtype=getattr(torch, config.values)
    )
    return make_batch(nothing, [], config)


def make_batch(clips_BTCHW: "torch.Tensor", rows: list[Sample], config: LoaderConfig) -> Batch:
    """`rows` are the clips, of which the tensor holds `feed.num_views` neighbors each."""
    import torch

    labels = torch.tensor([row.label for row in rows], dtype=torch.long, device=clips_BTCHW.device)
    ids = torch.tensor([row.id for row in rows], dtype=torch.long)
    return Batch(
        clips=clips_BTCHW,
        labels=labels.repeat_interleave(config.num_views),
        ids=ids.repeat_interleave(config.num_views),
    )
