"""TorchLoader: the reference loader, in plain PyTorch.

A Dataset decodes every frame with PyAV and applies torchvision's v2 transforms; a DataLoader runs
one worker process per core. Tests compare the pixels of DaliLoader with it, and benchmarks the
speed.
"""

import gc
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from dali_pipelines.augment import ClipView, color_matrix, crop_offset
from dali_pipelines.cores import num_cores
from dali_pipelines.decode import frame_folder
from dali_pipelines.decode.pixels import Frame, resized_size, to_pixels
from dali_pipelines.decode.wanted_frames import decode_in_turn
from dali_pipelines.errors import LoaderError, VideoError
from dali_pipelines.frame_plan import IntArray
from dali_pipelines.loaders.loader_config import Batch, ClipLoader, LoaderConfig, Sample, make_batch

TIMEOUT_S = 600.0
SHARED = Path("/dev/shm")
PREFETCH = 2
"""Batches prefetched by each worker; the default of DataLoader."""
Decode = Callable[[Sample, IntArray], list[Frame]]
"""Decodes the frames with these numbers (ascending) at their original size."""


class TorchLoader(ClipLoader):
    """Reference loader in plain PyTorch.

    Args:
        rows: The samples.
        config: The settings.
        num_workers: Worker processes; None takes one per core, 0 loads in this process.
        decode: Replaces PyAV, to compare other decoding libraries.
        timeout_s: Seconds to wait for a batch before the run fails.
    """

    def __init__(
        self,
        rows: Sequence[Sample],
        config: LoaderConfig,
        *,
        num_workers: int | None = None,
        decode: Decode | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__(rows, config)
        self._num_workers = num_cores() if num_workers is None else num_workers
        self._decode = decode
        self._timeout_s = timeout_s
        needed = (PREFETCH * self._num_workers + 1) * _bytes_of_batch(config) * config.world_size
        self._through_pipes = self._num_workers > 0 and needed > _free_shared_memory()
        if self._through_pipes:
            self.note = (
                f"{SHARED} has less than the {needed / 2**20:,.0f} MiB that the torch loader's "
                "batches need, so they go through pipes, which is slower; in a container, "
                "raise --shm-size"
            )

    def _load(self, batches: list[list[Sample]]) -> Iterator[Batch | None]:
        rows = [row for batch in batches for row in batch]
        positions = iter(range(len(rows)))
        workers_table = _shared_table(max(1, self._num_workers))
        gc.collect()  # unused DALI graphs must be freed in the process that owns their threads
        loader: DataLoader[Any] = DataLoader(
            ClipDataset(
                rows, self.config, self._epoch, workers_table, self._decode, self._through_pipes
            ),
            batch_sampler=[[next(positions) for _ in batch] for batch in batches],
            num_workers=self._num_workers,
            prefetch_factor=PREFETCH if self._num_workers else None,
            collate_fn=list,
            timeout=self._timeout_s if self._num_workers else 0,
            worker_init_fn=_freeze_inherited_objects,
        )
        try:
            for items in loader:
                yield self._batch(items)
        except RuntimeError as error:
            raise _with_file_name(error, rows, workers_table) from error

    def _batch(self, items: "list[Item | VideoError]") -> Batch | None:
        for item in items:
            if isinstance(item, VideoError):
                self.report.failures[item.path] = item.reason
            elif item.num_damaged:
                self.report.damaged_frames[item.row.path] += item.num_damaged
        readable = [item for item in items if not isinstance(item, VideoError)]
        self.report.read_by["PyAV, every frame"] += len(readable)
        if not readable:
            return None
        return make_batch(
            torch.cat([torch.as_tensor(item.clips) for item in readable]),
            [item.row for item in readable],
            self.config,
        )


def _bytes_of_batch(config: LoaderConfig) -> int:
    spec, size = config.spec, getattr(torch, config.values).itemsize
    return config.batch_size * config.num_views * spec.num_frames * 3 * spec.crop**2 * size


def _free_shared_memory() -> int:
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else 0


def _shared_table(num_lines: int) -> torch.Tensor:
    """Shared memory: forked workers write two numbers per line, and this process reads them."""
    memory = mmap.mmap(-1, num_lines * 2 * torch.int64.itemsize)
    return torch.frombuffer(memory, dtype=torch.int64).view(num_lines, 2).fill_(-1)


def _freeze_inherited_objects(worker: int) -> None:
    """Keep a forked worker from freeing DALI graphs of the parent, which would hang: the graph's
    threads don't exist in the worker."""
    gc.freeze()


class Item(NamedTuple):
    """A clip that a worker has read."""

    row: Sample
    clips: torch.Tensor | np.ndarray
    """Workers send tensors through shared memory, and arrays through a pipe."""
    num_damaged: int


class ClipDataset(Dataset[Any]):
    """Reads and transforms one clip per item; errors of a file are returned, not raised."""

    def __init__(
        self,
        rows: list[Sample],
        config: LoaderConfig,
        epoch: int,
        workers_table: torch.Tensor,
        decode: Decode | None,
        through_pipes: bool,
    ) -> None:
        self._decode = decode
        self._through_pipes = through_pipes
        self._rows = rows
        self._config = config
        self._epoch = epoch
        self._workers_table = workers_table
        """One line per worker: its process id, and the position of the clip that it is reading."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> "Item | VideoError":
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            self._workers_table[worker.id] = torch.tensor([os.getpid(), position])
        row = self._rows[position]
        try:
            if row.frames < 1:
                raise VideoError(row.path, "the index lists 0 frames; index the dataset again")
            views = self._config.views(row, self._epoch)
            clips_and_damage = [self._clip_TCHW(row, view) for view in views]
            clips = torch.stack([clip for clip, _ in clips_and_damage])
            num_damaged = sum(damaged for _, damaged in clips_and_damage)
            return Item(row, clips.numpy() if self._through_pipes else clips, num_damaged)
        except VideoError as error:
            return error
        except OSError as error:
            return VideoError(row.path, error.strerror or str(error))

    def _clip_TCHW(self, row: Sample, view: ClipView) -> tuple[torch.Tensor, int]:
        """Return the view's clip and the number of its damaged frames."""
        spec, num_damaged = self._config.spec, 0
        if self._decode is not None:
            decoded = self._decode(row, view.plan.source_indices)
        else:
            decoded, num_damaged = _decode(row, view.plan.source_indices)
        frames_THWC = view.plan.compose(np.stack(decoded))
        clip = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
        width, height = resized_size(clip.shape[3], clip.shape[2], spec.resize)
        clip = transforms.resize(clip, [height, width], antialias=True)
        top = crop_offset(height, spec.crop, view.crop_y)
        left = crop_offset(width, spec.crop, view.crop_x)
        clip = transforms.crop(clip, top, left, spec.crop, spec.crop)
        if view.mirror:
            clip = transforms.horizontal_flip(clip)
        if self._config.augment is not None and self._config.augment.changes_color:
            clip = _change_color(clip, view)
        if self._config.values == "uint8":
            return clip, num_damaged
        clip = transforms.to_dtype(clip, torch.float32, scale=True)
        clip = transforms.normalize(clip, list(spec.mean), list(spec.std))
        return clip.to(getattr(torch, self._config.values)), num_damaged


def _decode(row: Sample, numbers: IntArray) -> tuple[list[Frame], int]:
    if row.path.is_dir():
        return list(frame_folder.read_frames(row.path, numbers)), 0
    frames, num_damaged = [], 0
    for item in decode_in_turn(row.path, numbers):
        frames.append(to_pixels(item.frame))
        num_damaged += item.is_damaged
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(row.path, "its frames differ in size")
    return frames, num_damaged


def _change_color(clip_TCHW: torch.Tensor, view: ClipView) -> torch.Tensor:
    matrix, offset = color_matrix(view)
    changed = torch.einsum("dc,tchw->tdhw", torch.tensor(matrix).float(), clip_TCHW.float())
    return (changed + offset).round().clamp(0, 255).to(torch.uint8)


def _with_file_name(
    error: RuntimeError, rows: list[Sample], workers_table: torch.Tensor
) -> RuntimeError:
    """Name the file in an error of DataLoader, which only gives the worker's process id."""
    if "timed out" in str(error):
        names = " or ".join(str(rows[position].path) for _, position in workers_table.tolist())
        return LoaderError(f"{names} gave no frames in time")
    dead = {int(number) for number in re.findall(r"\d+", str(error).partition("pid")[2])}
    candidates = [
        rows[position].path for process, position in workers_table.tolist() if process in dead
    ]
    if not candidates:
        return error
    return LoaderError(f"{candidates[0]}: the worker process that was reading it died")
