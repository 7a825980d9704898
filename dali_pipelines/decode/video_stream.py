"""Opening a video file with PyAV: the one picture stream of it, or an error that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from dali_pipelines.decode.clip_facts import MAX_PIXELS
from dali_pipelines.errors import VideoError

CONTAINERS = (
    "aac aiff amv apng apv asf av1 avi avs2 avs3 cavsvideo cine dhav dirac dnxhd dv evc flac "
    "flic flv gif gxf h261 h263 h264 hevc ivf kux live_flv lxf m4v matroska mjpeg mlv mov mp3 "
    "mpeg mpegts mpegtsraw mpegvideo mpjpeg mxf nsv nut nuv obu ogg pmp pva r3d rm roq ser "
    "smjpeg smk swf ty vc1 vivo vvc wav wtv yuv4mpegpipe"
).split()
"""FFmpeg's names of those that hold their pictures themselves, and of sound, to be told so. Others,
such as playlists, name further files and addresses, which it would open in turn, wherever they lie.
"""


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    if not path.is_file():
        raise VideoError(path, "there is no such file")
    if path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")
    try:
        container = av.open(
            str(path.absolute()),  # else FFmpeg takes a name with a colon for an address
            metadata_errors="replace",
            container_options={"format_whitelist": ",".join(CONTAINERS)},
        )
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(path, f"can't be opened as video ({plain_words(error)})") from error
    with container:
        streams = picture_streams(container)
        if not streams:
            raise VideoError(path, "it holds no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoError(path, "no decoder for its codec is installed")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise VideoError(path, f"it claims a picture of {width:,} × {height:,}")
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # where it grows later
        stream.codec_context.thread_count = 1  # files are read in parallel, not one file's frames
        try:
            yield container, stream
        except Encrypted as error:
            raise VideoError(path, "it is encrypted; it has to be decrypted first") from error


def picture_streams(container: InputContainer) -> list[VideoStream]:
    """FFmpeg presents a song's cover picture as a video of one frame; it is none."""
    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]


class Encrypted(Exception):
    """Its packets can't be decoded without a key."""


def demux(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets, then an empty one that drains the decoder; fewer where the container is broken."""
    packets = iter(container.demux(stream))
    try:
        for packet in packets:
            if packet.has_sidedata("encryption_info"):
                raise Encrypted
            yield packet
            break
        yield from packets
    except (av.FFmpegError, IndexError):  # PyAV's, where a stream appears that wasn't announced
        return


def plain_words(error: Exception) -> str:
    """FFmpeg's words without its error number and the path, which the caller names."""
    return getattr(error, "strerror", None) or str(error)
