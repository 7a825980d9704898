"""Common parts of all loaders: samples, batches, the order of an epoch, and the report.

The order of an epoch is a pure function of (seed, epoch), and the state of a loader is the number
of batches that it has returned. So a resumed run continues as if it had not been interrupted.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dali_pipelines.augment import Augment, ClipView, training_view
from dali_pipelines.errors import SpecError, Stopped
from dali_pipelines.sampling import plan_views
from dali_pipelines.spec import ClipSpec, Values

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip of a dataset, with the metadata that a loader needs."""

    id: int
    path: Path
    label: int
    frames: int
    fps: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    repeat: int = 0
    """Which repetition of the clip within the epoch; each is augmented differently."""


class Batch(NamedTuple):
    """A batch of B views; several views of one clip are next to each other."""

    clips: "torch.Tensor"
    """(B, T, C, H, W), on the loader's device"""
    labels: "torch.Tensor"
    """(B,), on the CPU"""
    ids: "torch.Tensor"


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Settings shared by all loaders."""

    spec: ClipSpec
    batch_size: int = 8
    """Clips per batch; with several views of a clip, a batch holds batch_size × num_views views."""
    augment: Augment | None = None
    """None: deterministic test views."""
    shuffle: bool = False
    seed: int = 0
    num_clips: int = 1
    """Test views of a clip, spread over time."""
    num_crops: int = 1
    """Test crops: 1 for the center, or 3 along the long side."""
    rank: int = 0
    world_size: int = 1
    values: Values = "float32"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SpecError(f"the batch size must be at least 1, not {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise SpecError(f"rank {self.rank} is not one of 0 to {self.world_size - 1}")
        if self.augment and self.num_views > 1:
            raise SpecError("several views of a clip need augment=None; training uses one view")

    @property
    def num_views(self) -> int:
        return self.num_clips * self.num_crops

    def views(self, row: Sample, epoch: int) -> list[ClipView]:
        """Return the views of a sample in this epoch."""
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
                ClipView(plan=view.plan, crop_x=view.crop_x, crop_y=view.crop_y) for view in views
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
        """Return the positions of this rank's clips, batch by batch.

        Each clip is in exactly one batch of one rank. The batches of all ranks together equal those
        of a single process with a batch size of batch_size × world_size. All ranks have the same
        number of batches, so the last one may be empty.
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
    """Summary of the clips that were read, over all epochs."""

    read_by: Counter[str] = field(default_factory=Counter)
    """Number of clips read by each decoder or the cache."""
    failures: dict[Path, str] = field(default_factory=dict)
    """Files that can't be read, with the reason; their clips are missing from the batches."""
    damaged_frames: Counter[Path] = field(default_factory=Counter)
    """Number of damaged frames used from each file; see wanted_frames.DecodedFrame."""
    flaws: dict[Path, str] = field(default_factory=dict)
    """Files that are incomplete, with the reason; the rest of them was read."""
    num_streams: dict[Path, int] = field(default_factory=dict)
    """Files with several video streams; only the first stream was read."""
    refused: dict[Path, str] = field(default_factory=dict)
    """Files that DALI's video decoder rejected, with the reason; PyAV read them instead."""

    def describe(self) -> str:
        """One-line summary for the end of a run."""
        parts = [f"{count:,} clips by {decoder}" for decoder, count in self.read_by.most_common()]
        if refused := self.describe_refused():
            parts.append(refused)
        if damage := self.describe_damage():
            parts.append(damage)
        if self.failures:
            path, reason = next(iter(self.failures.items()))
            parts.append(f"{len(self.failures):,} files failed ({path}: {reason})")
        return "; ".join(parts) or "no clips read"

    def describe_refused(self) -> str:
        """One-line note on files that DALI's video decoder rejected; empty if there are none."""
        if not self.refused:
            return ""
        path, reason = next(iter(self.refused.items()))
        return f"{len(self.refused):,} files rejected by DALI's decoder ({path}: {reason})"

    def describe_damage(self) -> str:
        """One-line summary of damaged and incomplete files; empty if there are none."""
        parts = []
        if self.damaged_frames:
            parts.append(
                f"{self.damaged_frames.total():,} damaged frames of "
                f"{len(self.damaged_frames):,} files were used ({next(iter(self.damaged_frames))})"
            )
        if self.flaws:
            path, reason = next(iter(self.flaws.items()))
            parts.append(f"{len(self.flaws):,} files are incomplete ({path}: {reason})")
        return "; ".join(parts)

    def describe_streams(self) -> str:
        """One-line note on files with several video streams; empty if there are none."""
        if not self.num_streams:
            return ""
        path, count = next(iter(self.num_streams.items()))
        return (
            f"{len(self.num_streams):,} files hold several videos, of which the first was read "
            f"({path}: {count})"
        )

    def renamed(self, names: Mapping[Path, Path]) -> "LoaderReport":
        """The same report with other paths for some files."""

        def of(paths: Mapping[Path, Any]) -> dict[Path, Any]:
            return {names.get(path, path): value for path, value in paths.items()}

        return LoaderReport(
            read_by=self.read_by,
            failures=of(self.failures),
            damaged_frames=Counter(of(self.damaged_frames)),
            flaws=of(self.flaws),
            num_streams=of(self.num_streams),
            refused=of(self.refused),
        )

    def merge_from(self, other: "LoaderReport") -> None:
        """Add the report of another loader or process."""
        self.read_by += other.read_by
        self.failures |= other.failures
        self.damaged_frames += other.damaged_frames
        self.flaws |= other.flaws
        self.num_streams |= other.num_streams
        self.refused |= other.refused


class ClipLoader(ABC):
    """Base class of the loaders. Iterate once per epoch; `len` is the number of batches.

    Clips that can't be read are left out of their batch and listed in `report`. Empty batches are
    skipped, except with several ranks, which must all take the same number of steps.

    Attributes:
        rows: The samples.
        config: The settings.
        report: What was read so far.
        note: A warning for the user, or an empty string.
    """

    def __init__(self, rows: Sequence[Sample], config: LoaderConfig) -> None:
        if not rows:
            raise SpecError("there are no clips to load")
        self.rows = list(rows)
        self.config = config
        self.report = LoaderReport()
        self.note = ""
        self._epoch = 0
        self._done = 0
        """Number of batches of this epoch that were returned."""
        self._begin_at = 0
        self._is_stopped = False

    def __len__(self) -> int:
        return len(self.config.batches(len(self.rows), self._epoch))

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over an epoch, or over the rest of it after `load_state_dict`.

        If an iteration is abandoned, the next one starts the same epoch again.
        """
        self._done, self._begin_at = self._begin_at, 0
        batches = self.config.batches(len(self.rows), self._epoch)[self._done :]
        samples = [[self.rows[position] for position in positions] for positions in batches]
        for batch in self._load(samples):
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
        """Make the iteration raise `Stopped`. Safe to call from a signal handler."""
        self._is_stopped = True

    def state_dict(self) -> dict[str, int]:
        """Position in the data, for resuming."""
        return {"epoch": self._epoch, "done": self._done, "seed": self.config.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position that `state_dict` returned.

        Raises:
            SpecError: The seed differs.
        """
        if state["seed"] != self.config.seed:
            raise SpecError(f"the run began with seed {state['seed']}, not {self.config.seed}")
        self._epoch, self._begin_at = state["epoch"], state["done"]
        self._done = self._begin_at

    @abstractmethod
    def _load(self, batches: list[list[Sample]]) -> Iterator[Batch | None]:
        """Yield a batch for each list of samples, in order; None if none of them can be read."""


def _empty_batch(config: LoaderConfig) -> Batch:
    import torch

    spec = config.spec
    nothing = torch.empty(
        0, spec.num_frames, 3, spec.crop, spec.crop, dtype=getattr(torch, config.values)
    )
    return make_batch(nothing, [], config)


def make_batch(clips_BTCHW: "torch.Tensor", rows: list[Sample], config: LoaderConfig) -> Batch:
    """Create a batch from `rows` and their `config.num_views` adjacent views each."""
    import torch

    # On the CPU: creating them on a GPU would wait for all work there.
    labels = torch.tensor([row.label for row in rows], dtype=torch.long)
    ids = torch.tensor([row.id for row in rows], dtype=torch.long)
    return Batch(
        clips=clips_BTCHW,
        labels=labels.repeat_interleave(config.num_views),
        ids=ids.repeat_interleave(config.num_views),
    )
