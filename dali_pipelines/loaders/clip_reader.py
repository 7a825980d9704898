"""Reads one clip in a thread and prepares the input of the DALI graph.

Chooses how each clip is decoded: from the cache, by PyAV, by DALI's image decoder for extracted
frames, or by DALI's video decoder if `takes_video` allows it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.augment import ClipView
from dali_pipelines.decode import frame_folder
from dali_pipelines.decode.fast_decode import FastDecode
from dali_pipelines.decode.indexed_video import KEEP_BELOW
from dali_pipelines.decode.pixels import Frame, decode_resized, resize_short
from dali_pipelines.decode.remux import cut_part
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray
from dali_pipelines.loaders.dali_graph import InputKind
from dali_pipelines.loaders.decode_processes import DecodeProcesses
from dali_pipelines.loaders.frame_cache import FrameCache
from dali_pipelines.loaders.loader_config import LoaderConfig, Sample

ReadBy = Literal["PyAV", "the cache", "DALI's image decoder", "DALI's video decoder"]


@dataclass(frozen=True, kw_only=True)
class ReadClip:
    """A clip that was read, as input of the DALI graph."""

    row: Sample
    input_kind: InputKind
    views: list[ClipView]
    sources: list[Any]
    """Input of the graph; see dali_graph.py."""
    read_by: ReadBy
    num_damaged: int = 0


@dataclass(frozen=True, kw_only=True)
class ClipReader:
    """Reads clips; used by the loader's threads."""

    config: LoaderConfig
    cache: FrameCache | None = None
    takes_video: Callable[[Sample], bool] = field(default=lambda row: False)
    """Whether DALI's video decoder should read this file."""
    for_gpu: bool = False
    """Give frames as one pinned array per view, which is copied to a GPU at once."""
    processes: DecodeProcesses | None = None
    """Decode video files in them; large ones are decoded here, where their index is kept."""
    stop: Event = field(default_factory=Event)

    def read(self, row: Sample, epoch: int) -> ReadClip:
        """Read the views of a clip.

        Raises:
            VideoError: The clip can't be read; the error names the clip.
            Stopped: `stop` was set.
        """
        try:
            if row.frames < 1:
                raise VideoError(row.path, "the index lists 0 frames; index the dataset again")
            views = self.config.views(row, epoch)
            is_plain = all(view.plan.is_plain for view in views)
            if row.path.is_dir():
                if is_plain:
                    return self._read_images(row, views)
                return self._read_pixels(row, views, None)
            cached = self._cached(row, views)
            # What DALI's video decoder makes can't be cached, so it waits until the cache is full.
            fills_cache = self.cache is not None and self.cache.takes_more
            may_be_video = cached is None and is_plain and not fills_cache
            if may_be_video and self.takes_video(row) and (clip := self._read_video(row, views)):
                return clip
            return self._read_pixels(row, views, cached)
        except VideoError as error:
            if error.path == row.path:
                raise
            raise VideoError(row.path, f"{error.path.name}: {error.reason}") from error
        except OSError as error:
            raise VideoError(row.path, error.strerror or str(error)) from error

    def _read_images(self, row: Sample, views: list[ClipView]) -> ReadClip:
        files = frame_folder.frame_files(row.path)
        numbers = np.concatenate([view.plan.left for view in views])
        if numbers.max() >= len(files):
            raise VideoError(
                row.path, f"frame {numbers.max()} is wanted but there are {len(files)}"
            )
        encoded = {number: frame_folder.encoded(files[number]) for number in set(numbers.tolist())}
        return ReadClip(
            row=row,
            input_kind="images",
            views=views,
            sources=[encoded[number] for number in numbers.tolist()],
            read_by="DALI's image decoder",
        )

    def _read_video(self, row: Sample, views: list[ClipView]) -> ReadClip | None:
        """Cut out the needed part of the file; None if DALI would not decode it correctly."""
        part = cut_part(row.path, np.concatenate([view.plan.left for view in views]))
        if part is None:
            return None
        places = part.nvdec_numbers if self.for_gpu else part.numbers
        numbers = [[places[number] for number in view.plan.left.tolist()] for view in views]
        return ReadClip(
            row=row,
            input_kind="video",
            views=views,
            sources=[(part.encoded, np.array(of_view, np.int32)) for of_view in numbers],
            read_by="DALI's video decoder",
        )

    def _cached(self, row: Sample, views: list[ClipView]) -> list[Frame] | None:
        if self.cache is None or not row.path.is_file():
            return None
        return self.cache.get(row.path, self.config.spec.resize, _numbers(views).tolist())

    def _read_pixels(
        self, row: Sample, views: list[ClipView], cached: list[Frame] | None
    ) -> ReadClip:
        numbers = _numbers(views)
        frames, num_damaged = cached, 0
        if frames is None:
            frames, num_damaged = self._decode(row.path, numbers)
            if self.cache is not None and not num_damaged and row.path.is_file():
                self.cache.put(row.path, self.config.spec.resize, numbers.tolist(), frames)
        by_number = dict(zip(numbers.tolist(), frames, strict=True))
        return ReadClip(
            row=row,
            input_kind=pixel_kind(for_gpu=self.for_gpu),
            views=views,
            sources=pixel_sources(
                [_compose(view, by_number) for view in views], for_gpu=self.for_gpu
            ),
            read_by="PyAV" if cached is None else "the cache",
            num_damaged=num_damaged,
        )

    def _decode(self, path: Path, numbers: IntArray) -> tuple[list[Frame], int]:
        short, fast = self.config.spec.resize, FastDecode.of(self.config.spec)
        if path.is_dir():
            whole = frame_folder.read_frames(path, numbers)
            return [resize_short(frame, short) for frame in whole], 0
        if self.processes is not None and path.stat().st_size <= KEEP_BELOW:
            return self.processes.call(decode_resized, path, numbers, short, fast, stop=self.stop)
        return decode_resized(path, numbers, short, fast, self.stop)


def _numbers(views: list[ClipView]) -> IntArray:
    """The frames of all views, ascending."""
    return np.unique(np.concatenate([view.plan.source_indices for view in views]))


def pixel_kind(*, for_gpu: bool) -> InputKind:
    """Input of the graph for decoded frames: single frames, or all frames of a view."""
    return "clips" if for_gpu else "pixels"


def pixel_sources(of_views: list[list[Frame]], *, for_gpu: bool) -> list[Any]:
    """The frames of all views, as input of this kind."""
    if for_gpu:
        return [_in_one_block(frames) for frames in of_views]
    return [frame for frames in of_views for frame in frames]


def _in_one_block(frames: list[Frame]) -> NDArray[np.uint8]:
    """Copy frames into one array, in pinned memory if there is a GPU."""
    import torch

    shape = (len(frames), *frames[0].shape)
    block = torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available()).numpy()
    return np.stack(frames, out=block)


def _compose(view: ClipView, frames: dict[int, Frame]) -> list[Frame]:
    if view.plan.is_plain:
        return [frames[number] for number in view.plan.left.tolist()]
    return list(view.plan.compose(np.stack([frames[n] for n in view.plan.source_indices.tolist()])))
