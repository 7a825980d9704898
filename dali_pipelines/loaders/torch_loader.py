"""TorchLoader: the plain reference, as most people write it.

A torch Dataset decodes every frame with PyAV, torchvision's v2 transforms follow, and a DataLoader
runs as many worker processes as there are cores. It is here to be compared with: the tests hold
DaliLoader to its pixels, and the benchmarks to a multiple of its speed.
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
"""Batches that each worker has ready; DataLoader's default."""
Decode = Callable[[Sample, IntArray], list[Frame]]
"""The frames of these numbers, ascending, as they are in the file."""


class TorchLoader(ClipLoader):
    def __init__(
        self,
        rows: Sequence[Sample],
        config: LoaderConfig,
        *,
        num_workers: int | None = None,
        decode: Decode | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`decode` stands in for PyAV, for comparison with other libraries. `timeout_s`: so long
        are worker processes waited for, before the run is ended."""
        super().__init__(rows, config)
        self._num_workers = num_cores() if num_workers is None else num_workers
        self._decode = decode
        self._timeout_s = timeout_s
        needed = (PREFETCH * self._num_workers + 1) * _bytes_of_batch(config) * config.world_size
        self._through_pipes = self._num_workers > 0 and needed > _free_shared_memory()
        if self._through_pipes:
            self.note = (
                f"{SHARED} has less than the {needed / 2**20:,.0f} MiB that the torch loader's "
                "batches take, so that they go through pipes, which is slower; in a container, "
                "raise --shm-size"
            )

    def _load(self, batches: list[list[Sample]]) -> Iterator[Batch | None]:
        rows = [row for batch in batches for row in batch]
        positions = iter(range(len(rows)))
        at_work = _shared_table(max(1, self._num_workers))
        gc.collect()  # a DALI graph that is garbage must go here, where its threads are
        loader: DataLoader[Any] = DataLoader(
            ClipDataset(rows, self.config, self._epoch, at_work, self._decode, self._through_pipes),
            batch_sampler=[[next(positions) for _ in batch] for batch in batches],
            num_workers=self._num_workers,
            prefetch_factor=PREFETCH if self._num_workers else None,
            collate_fn=list,
            timeout=self._timeout_s if self._num_workers else 0,
            worker_init_fn=_keep_what_is_inherited,
        )
        try:
            for items in loader:
                yield self._batch(items)
        except RuntimeError as error:
            raise _named(error, rows, at_work) from error

    def _batch(self, items: "list[Item | VideoError]") -> Batch | None:
        for item in items:
            if isinstance(item, VideoError):
                self.report.failures[item.path] = item.reason
            elif item.num_damaged:
                self.report.damaged_frames[item.row.path] += item.num_damaged
        whole = [item for item in items if not isinstance(item, VideoError)]
        self.report.read_by["PyAV, every frame"] += len(whole)
        if not whole:
            return None
        return make_batch(
            torch.cat([torch.as_tensor(item.clips) for item in whole]),
            [item.row for item in whole],
            self.config,
        )


def _bytes_of_batch(config: LoaderConfig) -> int:
    spec, size = config.spec, getattr(torch, config.values).itemsize
    return config.batch_size * config.num_views * spec.num_frames * 3 * spec.crop**2 * size


def _free_shared_memory() -> int:
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else 0


def _shared_table(num_lines: int) -> torch.Tensor:
    """Two numbers a line that forked workers write and this process reads."""
    memory = mmap.mmap(-1, num_lines * 2 * torch.int64.itemsize)
    return torch.frombuffer(memory, dtype=torch.int64).view(num_lines, 2).fill_(-1)


def _keep_what_is_inherited(worker: int) -> None:
    """A DALI graph of the parent, deleted in a forked worker, waits for threads it has not."""
    gc.freeze()


class Item(NamedTuple):
    row: Sample
    clips: torch.Tensor | np.ndarray
    """A tensor goes to another process through shared memory, an array through a pipe."""
    num_damaged: int


class ClipDataset(Dataset[Any]):
    def __init__(
        self,
        rows: list[Sample],
        config: LoaderConfig,
        epoch: int,
        at_work: torch.Tensor,
        decode: Decode | None,
        through_pipes: bool,
    ) -> None:
        self._decode = decode
        self._through_pipes = through_pipes
        self._rows = rows
        self._config = config
        self._epoch = epoch
        self._at_work = at_work
        """A line for each worker: its process, and the clip that it is reading."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> "Item | VideoError":
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            self._at_work[worker.id] = torch.tensor([os.getpid(), position])
        row = self._rows[position]
        try:
            if row.frames < 1:
                raise VideoError(row.path, "the index counts no frames in it; index it anew")
            views = self._config.views(row, self._epoch)
            seen = [self._clip_TCHW(row, view) for view in views]
            clips = torch.stack([clip for clip, _ in seen])
            num_damaged = sum(odd for _, odd in seen)
            return Item(row, clips.numpy() if self._through_pipes else clips, num_damaged)
        except VideoError as error:
            return error
        except OSError as error:
            return VideoError(row.path, error.strerror or str(error))

    def _clip_TCHW(self, row: Sample, view: ClipView) -> tuple[torch.Tensor, int]:
        """And how many of its frames are damaged."""
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
        raise VideoError(row.path, "its picture changes size midway")
    return frames, num_damaged


def _change_color(clip_TCHW: torch.Tensor, view: ClipView) -> torch.Tensor:
    matrix, offset = color_matrix(view)
    changed = torch.einsum("dc,tchw->tdhw", torch.tensor(matrix).float(), clip_TCHW.float())
    return (changed + offset).round().clamp(0, 255).to(torch.uint8)


def _named(error: RuntimeError, rows: list[Sample], at_work: torch.Tensor) -> RuntimeError:
    """DataLoader names the processes that died; what they were reading stands in `at_work`."""
    if "timed out" in str(error):
        names = " or ".join(str(rows[position].path) for _, position in at_work.tolist())
        return LoaderError(f"{names} gave no frames in time")
    dead = {int(number) for number in re.findall(r"\d+", str(error).partition("pid")[2])}
    lost = [rows[position].path for process, position in at_work.tolist() if process in dead]
    if not lost:
        return error
    return LoaderError(f"{lost[0]}: the worker process that was reading it died")
