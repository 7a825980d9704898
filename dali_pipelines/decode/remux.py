"""Cuts out the part of a video file that DALI's decoder needs for some frames.

DALI decodes a file from its first frame on, assumes that AVI packets come in display order, and
counts frames that an edit list hides. So the needed pictures are written to a small Matroska file
in memory, with timestamps that give the display order.
"""

import io
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dali_pipelines.decode import h264_headers, mpeg4_packets
from dali_pipelines.decode.clip_facts import NVDEC_CODECS
from dali_pipelines.decode.coded_pictures import SHOWS_EXISTING
from dali_pipelines.decode.indexed_video import IndexedVideo, open_indexed
from dali_pipelines.decode.packet_index import PacketIndex
from dali_pipelines.decode.video_stream import ffmpeg_message
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray

TICK = Fraction(1, 25)
PARTED_CODECS = NVDEC_CODECS | {"mjpeg"}  # DALI decodes mjpeg on a CPU only
LEADING_IS_LOST = frozenset({"hevc", "mpeg4", "mpeg1video", "mpeg2video"})
"""Codecs whose decoders drop leading pictures: those displayed before the first keyframe."""


class ClipPart(NamedTuple):
    encoded: NDArray[np.uint8]
    """A Matroska file."""
    numbers: dict[int, int]
    """Frame number in the original file → frame number in the part."""
    nvdec_numbers: dict[int, int]
    """The same as DALI counts on a GPU: with the pictures of VP8 and VP9 that aren't shown."""
    frame_bytes: int
    """Size of a decoded frame in RGB."""


def cut_part(path: Path, wanted: IntArray) -> ClipPart | None:
    """Cut out the part of a video file that is needed to decode the frames `wanted`.

    The codec must be one that DALI decodes, on a GPU or a CPU.

    Returns:
        None if the file's frames would not decode correctly from a part.

    Raises:
        VideoError: The file can't be read.
    """
    try:
        with open_indexed(path) as video:
            index, codec = video.index, video.stream.codec_context.codec.canonical_name
            if index is None or wanted.max() >= len(index) or codec not in PARTED_CODECS:
                return None
            numbers = np.unique(wanted)
            chosen = _choose(video, index, numbers)
            if chosen is None:
                return None
            return _write(video.stream, index, chosen, numbers)
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(path, ffmpeg_message(error)) from error


def _choose(
    video: IndexedVideo, index: PacketIndex, numbers: IntArray
) -> dict[int, av.Packet] | None:
    """Select the needed pictures by position, in decoding order."""
    context = video.stream.codec_context
    shows_existing = SHOWS_EXISTING.get(context.codec.canonical_name)
    stream = h264_headers.Stream.of(context.extradata or b"") if context.name == "h264" else None
    needed = set(index.positions[numbers].tolist())
    chosen: dict[int, av.Packet] = {}
    for run in index.runs(numbers.tolist()):
        is_first = True
        position = run.start - 1
        for position, packet in enumerate(video.run(run), run.start):
            if is_first and stream is not None and not stream.is_idr(bytes(packet)):
                return None
            is_first = False
            if index.kinds[position : position + 1] in ("S", "N"):
                return None  # NVDEC lacks global motion, and needs a picture in each packet
            if shows_existing is not None and shows_existing(packet):
                return None  # DALI expects a picture in each packet
            if position not in needed:
                is_leading = index.ranks[position] < index.ranks[run.start]
                if is_leading and context.name in LEADING_IS_LOST:
                    continue
                if index.may_be_left_out(position):
                    continue
                if stream is not None and not stream.is_reference(bytes(packet)):
                    continue
            chosen[position] = packet
        if position < run.stop - 1:
            return None
    return chosen


def _write(
    stream: VideoStream, index: PacketIndex, pictures: dict[int, av.Packet], numbers: IntArray
) -> ClipPart:
    """Write the pictures with timestamps in display order, delayed so that pts >= dts."""
    by_rank = sorted(pictures, key=lambda position: index.ranks[position])
    display_place = {position: number for number, position in enumerate(by_rank)}
    delay = max(decoded - display_place[position] for decoded, position in enumerate(pictures))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        target = output.add_stream_from_template(stream, opaque=True)
        if stream.codec_context.name == "mpeg4":  # removes the mark of a packed bitstream
            BitStreamFilterContext("mpeg4_unpack_bframes", stream, target)
        for decoded, (position, packet) in enumerate(pictures.items()):
            if index.kinds[position : position + 1] == "I":
                packet = mpeg4_packets.without_packing(packet)
            packet.stream, packet.time_base, packet.duration = target, TICK, 1
            packet.pts, packet.dts = display_place[position] + delay, decoded
            output.mux(packet)
    shown: dict[int, int] = {}
    for position in by_rank:
        if position not in index.unseen:
            shown[position] = len(shown)
    positions = {int(number): int(index.positions[number]) for number in numbers}
    return ClipPart(
        encoded=np.frombuffer(buffer.getbuffer(), np.uint8),
        numbers={number: shown[position] for number, position in positions.items()},
        nvdec_numbers={number: display_place[position] for number, position in positions.items()},
        frame_bytes=3 * stream.codec_context.width * stream.codec_context.height,
    )
