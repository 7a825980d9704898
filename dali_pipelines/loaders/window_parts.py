"""Windows whose frames DALI decodes: from parts of the file, each decoded once.

A part holds all wanted frames of some consecutive groups of pictures. Windows that overlap, or
that lie in one group, share its frames, which are kept until the last window that needs them.
"""

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dali_pipelines.decode.indexed_video import open_indexed
from dali_pipelines.decode.remux import cut_part
from dali_pipelines.errors import Stopped
from dali_pipelines.frame_plan import IntArray
from dali_pipelines.loaders.dali_graph import PartGraph, reason_of
from dali_pipelines.loaders.windows import (
    ReadWindow,
    Window,
    WindowPart,
    read_windows,
    require_whole,
    views_of,
)
from dali_pipelines.spec import ClipSpec, Values

if TYPE_CHECKING:
    import torch

MIN_FRAMES = 32
"""Smallest number of frames in a part, except in the last one: a group may hold a single one."""
NONE_LATER = 1 << 62
"""`keep_from` of the last window that is read: no frame of the file is needed afterwards."""
MAX_BYTES = 2 << 30
"""Decoded frames of one run of DALI, in their full size; a single part may be larger."""


def read_parts(
    windows: list[Window], spec: ClipSpec, *, for_gpu: bool, stop: Event | None = None
) -> Iterator[ReadWindow]:
    """Like `read_windows`, but with parts of the file instead of frames, where they can be cut."""
    num_yielded = 0
    for window in _by_parts(windows, spec, for_gpu):
        if stop is not None and stop.is_set():
            raise Stopped
        yield window
        num_yielded += 1
    yield from read_windows(windows[num_yielded:], spec, stop=stop)


def _by_parts(windows: list[Window], spec: ClipSpec, for_gpu: bool) -> Iterator[ReadWindow]:
    """The windows up to the first whose frames can't be cut out."""
    views = views_of(windows, spec)
    if not windows or windows[0].path.is_dir() or not all(view.plan.is_plain for view in views):
        return
    require_whole(windows)
    path, numbers = windows[0].path, [view.plan.left for view in views]
    groups = _groups(path, np.unique(np.concatenate(numbers)))
    cut_until = -1
    for index, (window, view) in enumerate(zip(windows, views, strict=True)):
        parts = []
        while cut_until < numbers[index].max():
            group = next(groups, None)
            part = cut_part(path, group) if group is not None else None
            if group is None or part is None:
                return
            places = part.nvdec_numbers if for_gpu else part.numbers
            parts.append(WindowPart(part.encoded, places, len(group) * part.frame_bytes))
            cut_until = int(group[-1])
        later = numbers[index + 1 :]
        keep_from = int(later[0].min()) if later else NONE_LATER
        yield ReadWindow(window, view, [], 0, tuple(parts), keep_from)


def _groups(path: Path, wanted: IntArray) -> Iterator[IntArray]:
    """Split frame numbers where decoding can start anew; nothing if the file has no index."""
    with open_indexed(path) as video:
        index = video.index
    if index is None or wanted[-1] >= len(index):
        return
    starts = [index.keyframe_for(position) for position in index.positions[wanted].tolist()]
    begin = 0
    for place in range(1, len(wanted)):
        if starts[place] != starts[place - 1] and place - begin >= MIN_FRAMES:
            yield wanted[begin:place]
            begin = place
    yield wanted[begin:]


class _Reading(NamedTuple):
    """One reading of a file, which may be listed twice, or in several ranges of windows."""

    path: Path
    num_before: int
    """How many readings ended before it."""


class PartDecoder:
    """Decodes the parts of windows with DALI.

    Args:
        spec: Preprocessing settings.
        max_parts: Largest number of parts in one run of DALI.
        num_threads: CPU threads of DALI.
        gpu: GPU index; None decodes on the CPU.
        values: Data type of the clips.
    """

    def __init__(
        self, spec: ClipSpec, *, max_parts: int, num_threads: int, gpu: int | None, values: Values
    ) -> None:
        self._max_parts = max_parts
        self._make_graph = lambda: PartGraph(
            spec, max_parts=max_parts, num_threads=num_threads, gpu=gpu, values=values
        )
        self._graph: PartGraph | None = None
        self._num_ended = 0
        self._frames: dict[_Reading, dict[int, torch.Tensor]] = {}
        """Decoded frames (C, H, W) of each file that are still needed, by their number."""
        self.refused: dict[Path, str] = {}
        """Files of which DALI has rejected a part, with the reason."""

    def clips(self, windows: list[ReadWindow]) -> "list[torch.Tensor | None]":
        """The clips (T, C, H, W) of windows that are passed in order; None of rejected files."""
        readings = []
        for window in windows:
            readings.append(_Reading(window.window.path, self._num_ended))
            self._num_ended += window.keep_from == NONE_LATER
        pairs = list(zip(readings, windows, strict=True))
        self._decode([(reading, part) for reading, window in pairs for part in window.parts])
        clips = [self._clip(reading, window) for reading, window in pairs]
        self._frames = {key: self._frames[key] for key in readings[-1:] if key in self._frames}
        return clips

    def _clip(self, reading: "_Reading", window: ReadWindow) -> "torch.Tensor | None":
        import torch

        if reading.path in self.refused:
            return None
        frames = self._frames[reading]
        clip = torch.stack([frames[number] for number in window.view.plan.left.tolist()])
        if window.keep_from == NONE_LATER:
            del self._frames[reading]
        else:
            self._frames[reading] = {n: frames[n] for n in frames if n >= window.keep_from}
        return clip

    def _decode(self, parts: list[tuple["_Reading", WindowPart]]) -> None:
        """Decode parts and keep their frames."""
        run: list[tuple[_Reading, WindowPart]] = []
        num_bytes = 0
        for reading, part in parts:
            if run and (len(run) == self._max_parts or num_bytes + part.num_bytes > MAX_BYTES):
                self._run(run)
                run, num_bytes = [], 0
            run.append((reading, part))
            num_bytes += part.num_bytes
        if run:
            self._run(run)

    def _run(self, parts: list[tuple["_Reading", WindowPart]]) -> None:
        if self._graph is None:
            self._graph = self._make_graph()
        numbers = [sorted(part.numbers, key=part.numbers.__getitem__) for _, part in parts]
        try:
            clips_NFCHW = self._graph.run([
                (part.encoded, np.array([part.numbers[n] for n in of_part], np.int32))
                for (_, part), of_part in zip(parts, numbers, strict=True)
            ])  # fmt: skip
        except RuntimeError as error:
            self._graph = None  # a DALI pipeline can't be used after an error
            if len(parts) > 1:
                for part in parts:
                    self._run([part])
            else:
                self.refused[parts[0][0].path] = reason_of(error)
            return
        for (reading, _), of_part, frames_FCHW in zip(parts, numbers, clips_NFCHW, strict=True):
            of_file = self._frames.setdefault(reading, {})
            of_file.update(zip(of_part, frames_FCHW, strict=False))  # short ones are padded
