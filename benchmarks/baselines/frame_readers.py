"""Reads frames of a video by number with each library, as its documentation recommends.

`scripts/frames.py` checks the frames, `scripts/decoding.py` measures the time. All readers decode
in one thread. They leave out frame numbers that the library can't reach.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np

import engine
from benchmarks.clip_sets import first_line
from benchmarks.full_decode import frames_in_turn, to_rgb
from dali_pipelines.decode import clip_file
from dali_pipelines.decode.pixels import Frame
from dali_pipelines.decode.video_stream import ANY_METADATA
from dali_pipelines.decode.wanted_frames import decode_wanted
from dali_pipelines.errors import VideoError

Pictures = Iterator[tuple[int, Frame]]


@dataclass(frozen=True, kw_only=True)
class Reader:
    words: str
    read: Callable[[Path, Sequence[int]], Pictures]
    """Reads frames by ascending, unique numbers."""
    count: Callable[[Path], int | None]
    """The reported number of frames; None if the file doesn't state it."""
    package: str = ""
    """Required pip package, besides engine."""
    module: str = ""
    needs: str = ""
    """Other requirements, and how to install them."""
    is_ours: bool = False


def lacks(reader: Reader) -> str | None:
    """Return why a reader can't be used: not installed, or it can't read a small MPEG-4 file."""
    if reader.module and find_spec(reader.module) is None:
        return f"{reader.package} isn't installed: pip install {reader.package}"
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as folder:
        path = Path(folder) / "small.avi"
        _write_small(path)
        try:
            frames = list(reader.read(path, [0]))
        except Exception as error:  # libraries raise anything if parts of them are missing
            reason = f"{type(error).__name__}: {first_line(error, path)}"
        else:
            reason = "" if frames else "it returns no frame"
    if not reason:
        return None
    hint = f"; {reader.needs}" if reader.needs else ""
    return f"{reader.package or reader.words} can't read a small MPEG-4 file ({reason}){hint}"


def _write_small(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(0, 250, 25):
            picture = np.full((48, 64, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def num_damaged(path: Path, numbers: Sequence[int]) -> int:
    """Count frames that our loaders use, and report, although they are damaged."""
    return sum(item.is_damaged for item in decode_wanted(path, np.array(numbers)))


def _ours(path: Path, numbers: Sequence[int]) -> Pictures:
    try:
        yield from zip(numbers, engine.read_frames(path, numbers), strict=True)
    except VideoError:
        for number in numbers:
            with suppress(VideoError):
                yield number, engine.read_frames(path, [number])[0]


def _count_ours(path: Path) -> int:
    return clip_file.probe(path).frames


def _pyav(path: Path, numbers: Sequence[int]) -> Pictures:
    wanted = set(numbers)
    for number, frame in enumerate(frames_in_turn(path)):
        if number in wanted:
            yield number, to_rgb(frame)
        if number >= numbers[-1]:
            return


def _count_pyav(path: Path) -> int | None:
    with av.open(str(path.absolute()), **ANY_METADATA) as container:
        return container.streams.video[0].frames or None


def _torchvision(path: Path, numbers: Sequence[int]) -> Pictures:
    shown = _by_time_stamp(path)
    for number in numbers:
        if number < len(shown):
            yield number, to_rgb(shown[number])


def _count_torchvision(path: Path) -> int:
    return len(_by_time_stamp(path))


def _by_time_stamp(path: Path) -> list[av.VideoFrame]:
    """Frames like `read_video` before torchvision 0.28: one per time stamp, sorted by it."""
    frames: dict[Any, av.VideoFrame] = {frame.pts: frame for frame in frames_in_turn(path)}
    return [frames[pts] for pts in sorted(frames) if pts >= 0]


def _opencv(path: Path, numbers: Sequence[int]) -> Pictures:
    capture = _open_opencv(path)
    wanted = set(numbers)
    for number in range(numbers[-1] + 1):
        if not capture.grab():
            return
        if number in wanted:
            has_frame, picture = capture.retrieve()
            if has_frame:
                yield number, picture[:, :, ::-1]


def _opencv_seeking(path: Path, numbers: Sequence[int]) -> Pictures:
    import cv2

    capture = _open_opencv(path)
    for number in numbers:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        has_frame, picture = capture.read()
        if has_frame:
            yield number, picture[:, :, ::-1]


def _count_opencv(path: Path) -> int:
    import cv2

    return int(_open_opencv(path).get(cv2.CAP_PROP_FRAME_COUNT))


def _open_opencv(path: Path) -> Any:
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise VideoError(path, "OpenCV can't open it")
    return capture


def _decord(path: Path, numbers: Sequence[int]) -> Pictures:
    from decord import DECORDError

    reader = _open_decord(path)
    known = [number for number in numbers if number < len(reader)]
    try:
        yield from zip(known, reader.get_batch(known).asnumpy(), strict=True)
    except DECORDError:
        for number in known:
            with suppress(DECORDError):
                yield number, reader[number].asnumpy()


def _count_decord(path: Path) -> int:
    return len(_open_decord(path))


def _open_decord(path: Path) -> Any:
    from decord import VideoReader

    return VideoReader(str(path), num_threads=1)


def _torchcodec(path: Path, numbers: Sequence[int], seek_mode: str) -> Pictures:
    decoder = _open_torchcodec(path, seek_mode)
    known = [number for number in numbers if number < len(decoder)]
    try:
        yield from zip(known, decoder.get_frames_at(known).data.numpy(), strict=True)
    except RuntimeError:
        for number in known:
            with suppress(RuntimeError):
                yield number, decoder.get_frame_at(number).data.numpy()


def _count_torchcodec(path: Path, seek_mode: str) -> int:
    return len(_open_torchcodec(path, seek_mode))


def _open_torchcodec(path: Path, seek_mode: str) -> Any:
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(
        str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode
    )


OPENCV: dict[str, Any] = {"package": "opencv-python-headless", "module": "cv2"}
DECORD: dict[str, Any] = {"package": "decord", "module": "decord"}
TORCHCODEC: dict[str, Any] = {
    "package": "torchcodec",
    "module": "torchcodec",
    "needs": "it needs FFmpeg's libraries, on Debian: apt-get install ffmpeg",
}
READERS: dict[str, Reader] = {
    "ours": Reader(words="`engine.read_frames`", read=_ours, count=_count_ours, is_ours=True),
    "pyav": Reader(words="PyAV, all frames in turn", read=_pyav, count=_count_pyav),
    "opencv": Reader(
        words="OpenCV, all frames in turn", read=_opencv, count=_count_opencv, **OPENCV
    ),
    "opencv-seek": Reader(
        words="OpenCV, `CAP_PROP_POS_FRAMES`", read=_opencv_seeking, count=_count_opencv, **OPENCV
    ),
    "decord": Reader(words="decord, `get_batch`", read=_decord, count=_count_decord, **DECORD),
    "torchcodec": Reader(
        words="torchcodec, `exact`",
        read=partial(_torchcodec, seek_mode="exact"),
        count=partial(_count_torchcodec, seek_mode="exact"),
        **TORCHCODEC,
    ),
    "torchcodec-approximate": Reader(
        words="torchcodec, `approximate`",
        read=partial(_torchcodec, seek_mode="approximate"),
        count=partial(_count_torchcodec, seek_mode="approximate"),
        **TORCHCODEC,
    ),
    "torchvision": Reader(
        words="torchvision's `read_video`, by time stamp",
        read=_torchvision,
        count=_count_torchvision,
    ),
}
