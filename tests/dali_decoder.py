"""How DALI's video decoder numbers the frames of a file, for machines without a GPU.

The rules are those of dali/operators/video/frames_decoder_base.cc and frames_decoder_gpu.cc:

- BuildIndex makes an entry for each packet of the stream, also for one whose picture isn't shown.
  The entry has the packet's pts, or its dts if there is none; a packet with a negative time is left
  out. The entries are sorted by time, and frame n is the nth of them.
- A packet of H.264 is a keyframe if it holds a NAL unit of type 5, one of HEVC if it holds one of
  types 16 to 21; of other codecs if the container says so. Without a keyframe, decoding starts at
  the first packet.
- On a GPU, the nth picture that NVDEC decodes gets the time of the nth packet: each packet has to
  hold one picture.
"""

import io
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray


class Entry(NamedTuple):
    time: int
    is_keyframe: bool


def index(encoded: NDArray[np.uint8]) -> list[Entry]:
    """The frames of a file in memory, as DALI numbers them."""
    with av.open(io.BytesIO(encoded.tobytes())) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context.name
        entries = []
        for packet in container.demux(stream):
            time = packet.dts if packet.pts is None else packet.pts
            if not packet.size or time is None or time < 0:
                continue
            entries.append(Entry(time, packet.is_keyframe and _is_key(codec, bytes(packet))))
    return sorted(entries)


def frames_at(encoded: NDArray[np.uint8]) -> dict[int, NDArray[np.uint8]]:
    """The pictures of a file in RGB, by their times; one that isn't shown is missing."""
    with av.open(io.BytesIO(encoded.tobytes())) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return {
            frame.pts: frame.to_ndarray(format="rgb24")
            for frame in container.decode(video=0)
            if frame.pts is not None
        }


def _is_key(codec: str, data: bytes) -> bool:
    if codec not in ("h264", "hevc"):
        return True
    position, kinds = 0, []
    while position + 4 < len(data):  # Matroska has lengths before the units
        size = int.from_bytes(data[position : position + 4], "big")
        first = data[position + 4]
        kinds.append(first & 0x1F if codec == "h264" else first >> 1 & 0x3F)
        position += 4 + size
    return any(kind == 5 if codec == "h264" else 16 <= kind <= 21 for kind in kinds)
