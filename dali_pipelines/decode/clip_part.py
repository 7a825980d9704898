"""The part of a file that DALI's video decoder is given: the pictures that the wanted frames need.

DALI decodes a file from its first frame on, takes AVI's packets for frames in order of display, and
counts what an edit list hides. So the needed pictures are put into a small Matroska file in memory,
with time stamps that say in which order they are shown.
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

from dali_pipelines.decode import h264, mpeg4
from dali_pipelines.decode.clip_facts import NVDEC_CODECS
from dali_pipelines.decode.indexed_video import IndexedVideo, open_indexed
from dali_pipelines.decode.packet_index import PacketIndex
from dali_pipelines.decode.video_stream import plain_words
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray

TICK = Fraction(1, 25)
LEADING_IS_LOST = frozenset({"hevc", "mpeg4", "mpeg1video", "mpeg2video"})
"""Codecs whose decoders can't show what precedes the keyframe that they begin at."""


class ClipPart(NamedTuple):
    encoded: NDArray[np.uint8]
    numbers: dict[int, int]
    """Number of a wanted frame in the file → its number in the part."""


def cut_part(path: Path, wanted: IntArray) -> ClipPart | None:
    """None where a decoder that goes from one run of pictures to the next would be led astray."""
    try:
        with open_indexed(path) as video:
            index, codec = video.index, video.stream.codec_context.codec.canonical_name
            if index is None or wanted.max() >= len(index) or codec not in NVDEC_CODECS:
                return None
            numbers = np.unique(wanted)
            chosen = _choose(video, index, numbers)
            if chosen is None:
                return None
            return _write(video.stream, index, chosen, numbers)
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(path, plain_words(error)) from error


def _choose(
    video: IndexedVideo, index: PacketIndex, numbers: IntArray
) -> dict[int, av.Packet] | None:
    """Position → the needed picture, in decoding order."""
    context = video.stream.codec_context
    stream = h264.Stream.of(context.extradata or b"") if context.name == "h264" else None
    needed = set(index.positions[numbers].tolist())
    chosen: dict[int, av.Packet] = {}
    for run in index.runs(numbers.tolist()):
        first = True
        position = run.start - 1
        for position, packet in enumerate(video.run(run), run.start):
            if first and stream is not None and not stream.is_idr(bytes(packet)):
                return None
            first = False
            if index.kinds[position : position + 1] in ("S", "N"):
                return None  # NVDEC has no global motion, and needs a picture for each packet
            if position not in needed:
                leads = index.ranks[position] < index.ranks[run.start]
                if leads and context.name in LEADING_IS_LOST:
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
    """Each picture is stamped with its place in the order of display, behind all that it needs."""
    by_rank = sorted(pictures, key=lambda position: index.ranks[position])
    place = {position: number for number, position in enumerate(by_rank)}
    late = max(decoded - place[position] for decoded, position in enumerate(pictures))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        target = output.add_stream_from_template(stream, opaque=True)
        if stream.codec_context.name == "mpeg4":  # the headers then say no longer that it is packed
            BitStreamFilterContext("mpeg4_unpack_bframes", stream, target)
        for decoded, (position, packet) in enumerate(pictures.items()):
            if index.kinds[position : position + 1] == "I":
                packet = mpeg4.without_packing(packet)
            packet.stream, packet.time_base, packet.duration = target, TICK, 1
            packet.pts, packet.dts = place[position] + late, decoded
            output.mux(packet)
    shown: dict[int, int] = {}
    for position in by_rank:
        if position not in index.unseen:
            shown[position] = len(shown)
    return ClipPart(
        encoded=np.frombuffer(buffer.getbuffer(), np.uint8),
        numbers={int(each): shown[int(index.positions[each])] for each in numbers},
    )
