"""Opens video files with PyAV and reads the packets of their first video stream."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
"""FFmpeg formats that may be opened: self-contained video, and audio for a clear error message.
Others, such as playlists, refer to further files and URLs, which FFmpeg would open."""


ANY_METADATA: dict[str, Any] = (
    {"metadata_errors": "surrogateescape"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
"""Arguments for `av.open` that keep metadata not in UTF-8; PyAV 19 keeps it anyway."""


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file's first video stream.

    Raises:
        VideoError: The file can't be opened, or it is encrypted.
    """
    if not path.is_file():
        raise VideoError(path, "there is no such file")
    if path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")
    try:
        container = av.open(
            str(path.absolute()),  # FFmpeg would take a relative path with a colon as a URL
            **ANY_METADATA,
            container_options={"format_whitelist": ",".join(CONTAINERS)},
        )
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(path, f"can't be opened as video ({ffmpeg_message(error)})") from error
    with container:
        stream = first_stream(container, path)
        try:
            yield container, stream
        except Encrypted as error:
            raise VideoError(path, "it is encrypted; decrypt it first") from error


def first_stream(container: InputContainer, path: Path | str) -> VideoStream:
    """The first video stream of a container, with its decoder set up.

    Args:
        container: The container.
        path: Its name in error messages.

    Raises:
        VideoError: There is none, or it can't be decoded.
    """
    streams = picture_streams(container)
    if not streams:
        raise VideoError(path, "it holds no video stream")
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError(path, "no decoder for its codec is installed")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise VideoError(path, f"it claims a frame size of {width:,} × {height:,}")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # for later size changes
    stream.codec_context.thread_count = 1  # files are read in parallel, not one file's frames
    return stream


def picture_streams(container: InputContainer) -> list[VideoStream]:
    """Video streams, without the cover pictures that FFmpeg also lists as video."""
    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]


class Encrypted(Exception):
    """The packets are encrypted."""


def demux(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Yield the packets, then an empty one that flushes the decoder; stops at a broken container.

    Raises:
        Encrypted: The packets are encrypted.
    """
    packets = iter(container.demux(stream))
    try:
        for packet in packets:
            if packet.has_sidedata("encryption_info"):
                raise Encrypted
            yield packet
            break
        yield from packets
    except (av.FFmpegError, IndexError):  # IndexError: PyAV, if a new stream appears midway
        return


def ffmpeg_message(error: Exception) -> str:
    """FFmpeg's message without the error number and the path."""
    return getattr(error, "strerror", None) or str(error)
