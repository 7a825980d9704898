"""Which decoder `engine label` uses on a GPU: NVDEC or PyAV, by a short measurement per kind.

The choice is kept in the journal, so that a resumed run reads the same pixels.
"""

import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Literal

from dali_pipelines.errors import VideoError
from dali_pipelines.loaders.video_choice import VideoChoice
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.spec import ClipSpec
from engine.errors import RefusedError

Decoder = Literal["pyav", "nvdec"] | list[str]
"""A list: NVDEC for these kinds of videos, PyAV for the others."""

MAX_LOOKED_AT = 500
MAX_OF_KIND = 64
MAX_WINDOWS = 64
"""Windows of one measurement; long films are not read to their end."""
MARGIN = 1.1
"""How much faster NVDEC has to be, since PyAV also notices damaged frames."""


def require_gpu(gpu: int | None) -> None:
    if gpu is None:
        raise RefusedError(
            "`decoder='nvdec'` needs a model that runs on an NVIDIA GPU: use `decoder='pyav'`."
        )


def videos_of(decoder: Decoder, *, for_gpu: bool) -> VideoChoice | None:
    """The files that NVDEC reads, for the loader."""
    if decoder in ("pyav", []):
        return None
    return VideoChoice(for_gpu=for_gpu, kinds=None if decoder == "nvdec" else decoder)


def measure(
    paths: Iterable[Path],
    clip: ClipSpec,
    *,
    gpu: int | None,
    window_s: float | None = None,
    stride_s: float | None = None,
    batch_size: int = 8,
) -> dict[str, tuple[float, float]]:
    """Windows per second by NVDEC and by PyAV, for each kind of video that NVDEC decodes.

    Args:
        paths: The files; only the first of them are looked at.
        clip: Preprocessing settings.
        gpu: GPU index; None measures DALI's decoder for CPUs instead of NVDEC.
        window_s: Length of a window in seconds; None takes each video as one window.
        stride_s: Seconds from one window to the next.
        batch_size: Windows per batch.
    """

    def rate(files: list[Path], videos: VideoChoice | None) -> float:
        loader = WindowLoader(
            files, clip, window_s=window_s, stride_s=stride_s, batch_size=batch_size, gpu=gpu,
            values="uint8", videos=videos,
        )  # fmt: skip
        num_windows, started, has_started = 0, time.perf_counter(), False
        batches = loader.batches()
        for batch in batches:
            if not has_started and len(files) > batch_size:  # DALI's pipeline is built by now
                started, has_started = time.perf_counter(), True
                continue
            num_windows += len(batch.windows)
            if num_windows >= MAX_WINDOWS:
                batches.close()
                break
        return num_windows / (time.perf_counter() - started)

    rates = {}
    for kind, files in _by_kind(paths, for_gpu=gpu is not None).items():
        for of_run in (files[:1], files):  # the first run only warms up
            rates[kind] = (
                rate(of_run, VideoChoice(for_gpu=gpu is not None)), rate(of_run, None)
            )  # fmt: skip
    return rates


def _by_kind(paths: Iterable[Path], *, for_gpu: bool) -> dict[str, list[Path]]:
    videos = VideoChoice(for_gpu=for_gpu)
    kinds: dict[str, list[Path]] = {}
    for path in islice(paths, MAX_LOOKED_AT):
        try:
            kind = None if path.is_dir() else videos.kind_of(path)
        except (VideoError, OSError):
            continue
        if kind is not None and len(files := kinds.setdefault(str(kind), [])) < MAX_OF_KIND:
            files.append(path)
    return kinds


def faster_kinds(rates: dict[str, tuple[float, float]]) -> list[str]:
    """The kinds of videos that NVDEC reads faster."""
    return sorted(kind for kind, (nvdec, pyav) in rates.items() if nvdec > MARGIN * pyav)


def describe(rates: dict[str, tuple[float, float]]) -> list[str]:
    """A line about each kind of video."""
    chosen = faster_kinds(rates)
    return [
        f"{kind}: {'NVDEC' if kind in chosen else 'PyAV'} "
        f"(NVDEC {nvdec:,.0f} windows/s, PyAV {pyav:,.0f})"
        for kind, (nvdec, pyav) in rates.items()
    ]
