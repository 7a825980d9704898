"""Small files that claim, or take, absurd amounts of memory or time."""

import re
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import videos
from numpy.typing import NDArray


def write_huge_y4m(folder: Path) -> Path:
    path = folder / "huge.y4m"
    path.write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1 Ip C420jpeg\nFRAME\n" + b"x" * 1000)
    return path


def write_huge_mjpeg(folder: Path) -> Path:
    """Each picture claims the size."""
    path = videos.write_video(folder / "huge.avi", codec="mjpeg", frames=4)
    data = path.read_bytes()
    path.write_bytes(
        re.sub(rb"(\xff\xc0\x00\x11\x08).{4}", rb"\1" + struct.pack(">2H", 60000, 60000), data)
    )
    return path


def _still(index: int, width: int, height: int) -> NDArray[np.uint8]:
    return videos.numbered(0, width, height)


def write_endless(folder: Path, codec: str = "mpeg2video") -> Path:
    """One keyframe and 20,000 large frames that need it, each repeating the one before: its last
    frame takes many seconds."""
    source = videos.write_video(
        folder / "a.mp4", codec=codec, frames=2, size=(1920, 1080), draw=_still, gop=600
    )
    path = folder / "endless.mkv"
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream: Any = container.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        first, second = [bytes(each) for each in container.demux(stream) if each.size]
        for number in range(20_000):
            packet = av.Packet(first if not number else second)
            packet.pts = packet.dts = 40 * number
            packet.time_base, packet.stream = stream.time_base.__class__(1, 1000), copy
            packet.is_keyframe = not number
            output.mux(packet)
    return path
