"""Real encoded videos for the tests, made with PyAV."""

import io
import struct
from collections.abc import Callable, Collection, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from dali_pipelines.decode.codec_support import leave_real_time
from dali_pipelines.decode.video_stream import ANY_METADATA
from engine.data import packed_avi

# name: encoder, suffix, pixel format, options
CODECS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "mpeg4": ("mpeg4", ".avi", "yuv420p", {"bf": "2"}),
    "h264": ("libx264", ".mp4", "yuv420p", {"bf": "3", "x264-params": "log-level=none"}),
    "hevc": ("libx265", ".mp4", "yuv420p", {"x265-params": "log-level=none"}),
    "vp8": ("libvpx", ".webm", "yuv420p", {}),
    "vp9": ("libvpx-vp9", ".webm", "yuv420p", {"cpu-used": "8", "deadline": "realtime"}),
    "av1": ("libsvtav1", ".mp4", "yuv420p", {"preset": "12"}),
    "mjpeg": ("mjpeg", ".avi", "yuvj420p", {}),
    "wmv2": ("wmv2", ".wmv", "yuv420p", {}),
    "mpeg2video": ("mpeg2video", ".mpg", "yuv420p", {"bf": "2"}),
}


def numbered(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A frame that says which it is: eight black or white stripes, the bits of its number."""
    bits = np.array([(index >> bit) & 1 for bit in range(8)], np.uint8)
    stripes = (bits * 200 + 25)[np.arange(width) * 8 // width]
    return np.broadcast_to(stripes[None, :, None], (height, width, 3)).copy()


def noisy(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """The same under noise, so that each frame takes some kilobytes."""
    noise = np.random.default_rng(index).integers(-25, 26, (height, width, 3))
    return np.clip(numbered(index, width, height) + noise, 0, 255).astype(np.uint8)


def noise(seed: int) -> Any:
    """Draws blocks of color that change each four frames, others for each seed."""

    def draw(index: int, width: int, height: int) -> Any:
        rng = np.random.default_rng([seed, index // 4])
        small = rng.integers(0, 256, (6, 8, 3), np.uint8)
        return np.repeat(np.repeat(small, height // 6, axis=0), width // 8, axis=1)

    return draw


def number_of(frame: NDArray[np.uint8]) -> int:
    """Reads the number back, whatever the frame's size."""
    gray = frame if frame.ndim == 2 else frame.mean(axis=2)
    step = gray.shape[1] / 8
    bits = [gray[:, int(step * bit + step * 0.4)].mean() > 128 for bit in range(8)]
    return sum(1 << bit for bit, on in enumerate(bits) if on)


def moving(seed: int) -> Any:
    """Draws smooth waves under noise that move, others for each seed."""

    def draw(index: int, width: int, height: int) -> Any:
        rng = np.random.default_rng([seed, index])
        x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
        phase = index / 3 + np.array([0, 1 + seed, 2])
        waves = np.sin(x / (7 + seed % 3) + phase) * np.cos(y / 11 - phase)
        noise = rng.normal(0, 8, (height, width, 1))
        return np.clip(128 + 80 * waves + noise, 0, 255).astype(np.uint8)

    return draw


def every_frame(path: Path) -> list[NDArray[np.uint8]]:
    """All that decoding the whole file shows, in that order: the truth about what frame n is."""
    found = []
    with av.open(str(path), **ANY_METADATA) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            for frame in packet.decode():
                pixels = frame.to_ndarray(format="rgb24")
                found.append(np.rot90(pixels, frame.rotation // 90))
    return found


def every_frame_as_far_as_it_decodes(
    source: Path | bytes,
) -> tuple[list[tuple[bytes, ...]], bool]:
    """The planes of all frames, and whether nothing went wrong on the way: the file isn't damaged,
    and doesn't say another order than its frames have."""
    pictures, is_sound, last = [], True, -1
    try:
        opened = str(source) if isinstance(source, Path) else io.BytesIO(source)
        with av.open(opened, **ANY_METADATA) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                try:
                    decoded = packet.decode()
                except av.FFmpegError:
                    is_sound = False
                    continue
                is_sound &= not any(frame.is_corrupt for frame in decoded)
                is_sound &= bool(pictures or not decoded or decoded[0].key_frame)
                if stream.codec_context.name != "mpeg4" and decoded:
                    is_sound &= all(frame.pts is None or frame.pts > last for frame in decoded)
                    last = max(frame.pts or 0 for frame in decoded)
                pictures += [planes_of(frame) for frame in decoded]
    except (av.FFmpegError, ValueError, IndexError, AttributeError):
        is_sound = False
    return pictures, is_sound


def planes_of(frame: av.VideoFrame) -> tuple[bytes, ...]:
    """Without what pads the rows."""
    rows = [
        np.frombuffer(plane, np.uint8)[: plane.line_size * plane.height].reshape(plane.height, -1)
        for plane in frame.planes
    ]
    widths = [plane.width for plane in frame.planes]
    return tuple(row[:, :width].tobytes() for row, width in zip(rows, widths, strict=True))


def corner(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """White in the top left quarter, black elsewhere."""
    frame = np.full((height, width, 3), 20, np.uint8)
    frame[: height // 2, : width // 2] = 235
    return frame


def write_video(
    path: Path,
    *,
    codec: str = "mpeg4",
    frames: int = 30,
    size: tuple[int, int] = (160, 120),
    fps: int = 30,
    pts: list[int] | None = None,
    slots: list[int] | None = None,
    draw: Callable[[int, int, int], NDArray[np.uint8]] = numbered,
    gop: int = 12,
    options: dict[str, str] | None = None,
) -> Path:
    """`pts` are in milliseconds where given, `slots` in frames; `options` are the container's."""
    encoder, suffix, pixel_format, of_encoder = CODECS[codec]
    path = path if path.suffix else path.with_suffix(suffix)
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(encoder, rate=fps, options=of_encoder)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.codec_context.gop_size = gop
        if codec in ("mpeg4", "wmv2", "mpeg2video", "mjpeg"):
            stream.codec_context.qmin, stream.codec_context.qmax = 2, 4
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(index, *size), format="rgb24")
            frame = frame.reformat(format=pixel_format)
            frame.pts = (slots or range(frames))[index] if pts is None else pts[index]
            frame.time_base = Fraction(1, fps) if pts is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    leave_real_time()
    return path


def write_packed(
    path: Path,
    *,
    frames: int = 30,
    size: tuple[int, int] = (160, 120),
    fps: int = 30,
    gop: int = 300,
    max_b_frames: Literal[1, 2] = 1,
    references: Collection[int] = (),
    closed_gop: bool = True,
    num_fillers: int | None = None,
    title: bytes | None = None,
    draw: Callable[[int, int, int], NDArray[np.uint8]] = numbered,
) -> Path:
    """Packed B-frames: with one in a row as in HMDB51, with two as in UT-Interaction.

    `references` are frames that do not become B-frames. After the first frame come fillers of one
    byte, as many as B-frames in a row unless `num_fillers` is given.
    """
    path = path if path.suffix else path.with_suffix(".avi")

    def pictures() -> Iterator[av.VideoFrame]:
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(index, *size), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            if index in references:
                frame.pict_type = PictureType.P
            yield frame

    packed_avi.write_packed_avi(
        path,
        pictures(),
        size=size,
        fps=fps,
        style={1: packed_avi.DIVX, 2: packed_avi.XVID}[max_b_frames],
        gop=gop,
        closed_gop=closed_gop,
        max_quantizer=4,
        num_fillers=num_fillers,
        title=title,
    )
    return path


def remux(source: Path, target: Path, *, without: Collection[int] = ()) -> Path:
    """Copy the packets into the container that the name of `target` says, `without` some."""
    with (
        av.open(str(source), **ANY_METADATA) as container,
        av.open(str(target), "w") as output,
    ):
        stream: Any = container.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        for number, packet in enumerate(container.demux(stream)):
            if packet.dts is not None and number not in without:
                packet.stream = copy
                output.mux(packet)
    return target


def cut_without_recoding(source: Path, target: Path, shift: int) -> Path:
    """Begin `shift` frames later, as `ffmpeg -c copy` does: by times below zero."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        stream: Any = container.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        ticks = round(shift / stream.average_rate / stream.time_base)
        for packet in container.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, copy
                output.mux(packet)
    return target


def write_two_in_one(path: Path) -> Path:
    """A file of two videos of 20 frames, of which the first has 96 columns."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream, side in zip(streams, (96, 128), strict=True):
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for number in range(20):
            for stream in streams:
                pixels = numbered(number, stream.width, stream.height)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn_clockwise(path: Path) -> Path:
    """Write the matrix of a quarter turn clockwise into an MP4's track header."""
    fixed, unit = 0x10000, 0x40000000
    return write_matrix(path, (0, fixed, 0, -fixed, 0, 0, 0, 0, unit))


def write_matrix(path: Path, matrix: tuple[int, ...]) -> Path:
    """Nine numbers into an MP4's track header, in place of its matrix."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix is 40 bytes in
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path


def damage(path: Path, begin: int, end: int) -> Path:
    """Overwrite a part of the largest packet but keyframes among these, in decoding order."""
    with av.open(str(path), **ANY_METADATA) as container:
        found = [packet for packet in container.demux(video=0) if packet.size][begin:end]
    largest = max((each for each in found if not each.is_keyframe), key=lambda each: each.size)
    assert largest.pos is not None
    data = bytearray(path.read_bytes())
    start, stop = (largest.pos + 8 + largest.size * part // 16 for part in (1, 3))
    data[start:stop] = np.random.default_rng(0).bytes(stop - start)
    path.write_bytes(data)
    return path


def with_latin1_title(path: Path) -> Path:
    """The same packets under metadata that isn't UTF-8, as some clips of HMDB51 have it."""
    target = path.with_stem(f"{path.stem}-latin1")
    with (
        av.open(str(path)) as container,
        av.open(str(target), "w", **ANY_METADATA) as output,
    ):
        output.metadata["title"] = b"caf\xe9".decode("utf-8", "surrogateescape")
        stream: Any = container.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        for packet in container.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                output.mux(packet)
    return target
