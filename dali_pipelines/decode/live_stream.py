"""Decodes a live stream: one connection, frame by frame, as they come.

A connection ends when the stream ends, breaks or stalls; the caller decides whether to connect
again. Streams without time stamps are timed by the arrival of their packets, or by counting frames
if they aren't live.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from threading import Event
from typing import Any, NamedTuple

import av
from av.container import InputContainer

from dali_pipelines.decode.all_frames import DisplayedFrame, frames_by_counting
from dali_pipelines.decode.backlog import Backlog
from dali_pipelines.decode.fast_decode import FastDecode
from dali_pipelines.decode.stream_source import Bytes, StreamSource
from dali_pipelines.decode.video_stream import (
    ANY_METADATA,
    CONTAINERS,
    ffmpeg_message,
    first_stream,
)
from dali_pipelines.decode.wanted_frames import DecodedFrame
from dali_pipelines.errors import VideoError

LIVE_FORMATS = ("rtsp", "rtp", "video4linux2")
WITHOUT_CLOCK = frozenset({"mpjpeg", "mjpeg", "image2pipe", "h264", "hevc"})
"""Formats without time stamps; FFmpeg makes some up, of 25 frames per second."""
MAX_FRUITLESS = 100
"""Packets in a row that may give no frame before the connection is given up: the codec may have
changed."""
MAX_HELD = 8
"""First frames that may lack a time stamp, before the stream counts as one without."""
DEFAULT_FPS = 25.0


class LiveFrame(NamedTuple):
    item: DecodedFrame
    time_s: float
    """Display time, as the stream counts."""
    duration_s: float
    """0 if unknown."""
    arrived: float
    """When its packet arrived, as of time.monotonic."""
    num_skipped: int
    """Packets that were skipped before it because the decoder was behind."""


class Connection:
    """An open stream.

    Args:
        source: What to open.
        reader: Its bytes, if it is a pipe or a file.
        timeout_s: Seconds without a frame after which a live stream counts as lost.
        stop: Set it to end the connection.
        fast: Decode some codecs faster.

    Raises:
        VideoError: The stream can't be opened.

    Attributes:
        ended_by: Why there are no more frames; empty if a finite stream was read to its end.
    """

    def __init__(
        self,
        source: StreamSource,
        reader: Bytes | None,
        *,
        timeout_s: float,
        stop: Event,
        fast: FastDecode | None = None,
    ) -> None:
        self._source, self._timeout_s, self._stop = source, timeout_s, stop
        self._container = _open(source, reader, timeout_s)
        try:
            self._stream = first_stream(self._container, source.name)
        except VideoError:
            self._container.close()
            raise
        context = self._stream.codec_context
        self._reduction = fast.set_up(context) if fast else None
        is_camera = self._container.format.name == "mpjpeg"  # some promise an enormous file
        self.is_finite = not source.is_live or (self._container.size > 0 and not is_camera)
        """Whether the stream is a file, wherever it is: nothing of it is dropped."""
        format_name = self._container.format.name
        self._has_clock = format_name != "avi" and (
            self.is_finite or format_name not in WITHOUT_CLOCK
        )
        """Whether frames have display times; in AVI the times of packets count them."""
        self.ended_by = ""
        self._backlog = None if self.is_finite else Backlog()
        self._num_fruitless = 0
        self._num_skipped = self._resumes_at = 0
        """Packets that were skipped, and the time stamp of the last of them."""
        self._last_frame_at = self._arrived = time.monotonic()

    def describe(self) -> str:
        """Codec, size and frame rate, as far as they are known."""
        context, rate = self._stream.codec_context, self._stream.average_rate
        parts = [context.name]
        if context.width:
            parts.append(f"{context.width}×{context.height}")
        if rate and self._container.format.name not in WITHOUT_CLOCK:
            parts.append(f"{float(rate):.3g} fps")
        return ", ".join(parts)

    def close(self) -> None:
        self._container.close()

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Yield frames in display order, from the first that decodes cleanly."""
        held: list[LiveFrame] = []
        """First frames without a time stamp; RTSP gives the first one none."""
        last_s: float | None = None
        for displayed in self._decoded():
            time_s = self._time_of(displayed)
            if time_s is None:
                if last_s is None:
                    held.append(self._live(displayed, 0.0))
                    self._has_clock = len(held) < MAX_HELD
                    continue
                time_s = last_s + self._gap_s
            last_s = time_s
            for number_back, frame in zip(range(len(held), 0, -1), held, strict=True):
                yield frame._replace(time_s=time_s - number_back * self._gap_s)
            held.clear()
            yield self._live(displayed, time_s)

    def _decoded(self) -> Iterator[DisplayedFrame]:
        context = self._stream.codec_context
        has_clean = False
        with closing(self._packets()) as packets:
            for displayed in frames_by_counting(context, packets, Event()):
                self._last_frame_at, self._num_fruitless = time.monotonic(), 0
                has_clean = has_clean or not displayed.is_damaged
                if not has_clean:
                    continue  # the stream was joined between two keyframes
                size = displayed.frame.width, displayed.frame.height
                if self._reduction is not None and size != self._reduction.reduced:
                    self.ended_by = "its frame size has changed"
                    return
                yield displayed

    def _time_of(self, displayed: DisplayedFrame) -> float | None:
        """Display time of a frame; None if it has none although others have."""
        frame = displayed.frame
        stamp = frame.dts if frame.pts is None else frame.pts
        if self._has_clock:
            # A frame that is flushed from the decoder has no time base.
            return None if stamp is None else stamp * float(self._stream.time_base or 0)
        return displayed.number * self._gap_s if self.is_finite else self._arrived

    def _live(self, displayed: DisplayedFrame, time_s: float) -> LiveFrame:
        frame = displayed.frame
        unit_s = float(self._stream.time_base or 0) if self._has_clock else 0.0
        num_skipped = 0
        if self._num_skipped and (frame.pts is None or frame.pts > self._resumes_at):
            num_skipped, self._num_skipped = self._num_skipped, 0
        return LiveFrame(
            item=DecodedFrame(
                displayed.number,
                frame,
                displayed.is_damaged,
                self._reduction.full if self._reduction else None,
            ),
            time_s=time_s,
            duration_s=(frame.duration or 0) * unit_s,
            arrived=self._arrived,
            num_skipped=num_skipped,
        )

    @property
    def _gap_s(self) -> float:
        """Time between two frames, as the stream says; not always right."""
        return float(1 / (self._stream.average_rate or self._stream.guessed_rate or DEFAULT_FPS))

    def _packets(self) -> Generator[av.Packet | None, None, None]:
        """The packets of the stream, and at its end None, which flushes the decoder."""
        try:
            yield from self._wanted(self._container.demux())
        except IndexError:  # PyAV, if a new stream appears midway
            self.ended_by = "its streams have changed"
        except av.FFmpegError as error:
            self.ended_by = _reason(error, self._timeout_s)
        else:
            if not self.ended_by and not self.is_finite:
                self.ended_by = "it has ended"
        yield None

    def _wanted(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """Packets of the stream, without those that are skipped because the decoder is behind."""
        is_skipping = False
        asked = time.monotonic()
        for packet in packets:
            self._arrived = now = time.monotonic()
            if self._stop.is_set():
                return
            if not self.is_finite and now - self._last_frame_at > self._timeout_s:
                self.ended_by = f"it gave no frame for {self._timeout_s:g} s"
                return
            if packet.stream.index == self._stream.index and packet.size:
                if self._backlog is not None:
                    stamp = packet.pts if packet.dts is None else packet.dts
                    media_s = None if stamp is None else float(stamp * packet.time_base)
                    is_behind = self._backlog.is_behind(now, now - asked, media_s)
                    is_skipping = is_behind or (is_skipping and not packet.is_keyframe)
                if is_skipping:
                    self._num_skipped += 1
                    self._resumes_at = packet.pts or 0
                else:
                    if self._num_fruitless == MAX_FRUITLESS:
                        self.ended_by = f"{MAX_FRUITLESS} packets in a row gave no frame"
                        return
                    self._num_fruitless += 1
                    yield packet
            asked = time.monotonic()


@contextmanager
def connected(
    source: StreamSource,
    reader: Bytes | None,
    *,
    timeout_s: float,
    stop: Event,
    fast: FastDecode | None = None,
) -> Iterator[Connection]:
    """Open a stream and close it at the end; see Connection."""
    connection = Connection(source, reader, timeout_s=timeout_s, stop=stop, fast=fast)
    try:
        yield connection
    finally:
        with suppress(av.FFmpegError):
            connection.close()


def _open(source: StreamSource, reader: Bytes | None, timeout_s: float) -> InputContainer:
    options = {"format_whitelist": ",".join([*CONTAINERS, *LIVE_FORMATS])}
    more: dict[str, Any] = {}
    if source.kind == "url":
        options["protocol_whitelist"] = "rtsp,rtp,rtcp,http,https,httpproxy,tls,tcp,udp,rtmp"
        options["rtsp_transport"] = "tcp"  # UDP loses packets, and firewalls block it
    if source.kind == "camera":
        more["format"] = "v4l2"
    if reader is None:
        more["timeout"] = (timeout_s, timeout_s)
    # Errors of FFmpeg name the URL with its password, so none is chained.
    try:
        return av.open(reader or source.address, container_options=options, **more, **ANY_METADATA)
    except av.FFmpegError as error:
        reason = _reason(error, timeout_s)
    except ValueError as error:
        reason = str(error)
    raise VideoError(source.name, reason) from None


def _reason(error: av.FFmpegError, timeout_s: float) -> str:
    if isinstance(error, av.error.ExitError):
        return f"it gave nothing for {timeout_s:g} s"
    return ffmpeg_message(error)
