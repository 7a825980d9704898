"""Real encoded videos for the tests, made with PyAV."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from dali_pipelines.decoders import leave_real_time

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
    bits = [(index >> bit) & 1 for bit in range(8)]
    stripes = np.repeat(np.array(bits, np.uint8) * 200 + 25, width // 8 + 1)[:width]
    return np.broadcast_to(stripes[None, :, None], (height, width, 3)).copy()


def number_of(frame: NDArray[np.uint8]) -> int:
    """Reads the number back, whatever the frame's size."""
    grey = frame if frame.ndim == 2 else frame.mean(axis=2)
    step = grey.shape[1] / 8
    bits = [grey[:, int(step * bit + step * 0.4)].mean() > 128 for bit in range(8)]
    return sum(1 << bit for bit, on in enumerate(bits) if on)


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
) -> Path:
    """`pts` are in milliseconds where given, `slots` in frames."""
    encoder, suffix, pixel_format, options = CODECS[codec]
    path = path if path.suffix else path.with_suffix(suffix)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=fps, options=options)
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
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: the matrix is 40 bytes in
    fixed, unit = 0x10000, 0x40000000
    data[matrix : matrix + 36] = struct.pack(">9i", 0, fixed, 0, -fixed, 0, 0, 0, 0, unit)
    path.write_bytes(data)
    return path


def with_latin1_title(path: Path) -> Path:
    """The same packets under metadata that isn't UTF-8, as some clips of HMDB51 have it."""
    target = path.with_stem(f"{path.stem}-latin1")
    with (
        av.open(str(path)) as container,
        av.open(str(target), "w", metadata_encoding="latin-1") as output,
    ):
        output.metadata["title"] = "caf\xe9"
        stream: Any = container.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        for packet in container.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                output.mux(packet)
    return target
