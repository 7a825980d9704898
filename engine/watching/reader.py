"""Reads one source in a thread: connects, decodes, cuts windows, and connects again."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from dali_pipelines.decode.fast_decode import FastDecode
from dali_pipelines.decode.live_stream import Connection, LiveFrame, connected
from dali_pipelines.decode.stream_source import Bytes, StreamSource, bytes_of, quiet_s
from dali_pipelines.errors import Stopped, VideoError
from dali_pipelines.loaders.stream_windows import RollingWindows, StreamWindow
from dali_pipelines.loaders.windows import windows_of
from dali_pipelines.spec import ClipSpec
from engine.watching.pending import Pending

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
"""Seconds before connecting again: doubled after each failure, up to the second one."""

OnStatus = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    clip: ClipSpec
    window_s: float
    stride_s: float
    timeout_s: float


class SourceReader:
    """Puts the windows of a source into `pending`, until it ends or `stop` is set.

    Args:
        number: Index of the source in `pending`.
        source: The source.
        settings: Windows and timeout.
        pending: Receives the windows.
        stop: Set it to end the reading.
        on_status: Called with a sentence when a stream is opened or lost.

    Attributes:
        error: Why a file or pipe couldn't be read to its end; empty if it could.
        num_lost: How often a live stream was lost.
    """

    def __init__(
        self,
        number: int,
        source: StreamSource,
        settings: ReadSettings,
        pending: Pending,
        stop: Event,
        on_status: OnStatus,
    ) -> None:
        self.source, self.error, self.num_lost = source, "", 0
        self._number, self._settings, self._pending = number, settings, pending
        self._stop, self._on_status = stop, on_status
        self._rolling: RollingWindows | None = None
        """The part that is being read."""
        self._last: RollingWindows | None = None
        """The part before it."""
        self._num_parts = self._num_windows = 0
        self._first_arrival = 0.0

    def run(self) -> None:
        """Read the source. Unexpected errors go to `pending`, and end the watching of all."""
        try:
            if self.source.is_live:
                self._read_live()
            elif self.source.kind == "file" and not self._is_growing():
                self._read_finished_file()
            else:
                self._read_bytes()
        except Stopped:
            pass
        except VideoError as error:
            self._give_up(error.reason)
        except OSError as error:
            self._give_up(error.strerror or str(error))
        except BaseException as error:
            self._pending.fail(error)
        finally:
            self._pending.finish()

    def _read_live(self) -> None:
        delay_s = FIRST_DELAY_S
        while not self._stop.is_set():
            try:
                with self._connected(None) as connection:
                    has_frames = self._read(connection)
                    if connection.is_finite and not connection.ended_by:
                        self._finish_part(may_drop=False, accepts_short=self._num_parts == 1)
                        return
                reason = connection.ended_by
            except VideoError as error:
                has_frames, reason = False, error.reason
            if self._stop.is_set():
                return
            self._finish_part(may_drop=True)
            self.num_lost += 1
            if has_frames:
                delay_s = FIRST_DELAY_S
            self._say(f"{reason}; connecting again in {delay_s:g} s")
            self._stop.wait(delay_s)
            delay_s = min(2 * delay_s, MAX_DELAY_S)

    def _read_bytes(self) -> None:
        """Read a pipe or a growing file; opened again where its codec changes."""
        reader = bytes_of(self.source, self._settings.timeout_s, self._stop)
        try:
            while not reader.has_ended and not self._stop.is_set():
                has_frames = self._read_once(reader)
                if not has_frames and not self._num_windows and self.source.kind == "file":
                    self._wait_until_finished()
                    return self._read_finished_file()
            self._finish_part(may_drop=False, accepts_short=self._num_parts == 1)
        finally:
            reader.close()
        return None

    def _read_once(self, reader: Bytes) -> bool:
        """Read until the end or a change; returns whether there were frames.

        Raises:
            VideoError: A pipe that has not given any frame can't be opened.
        """
        try:
            with self._connected(reader) as connection:
                has_frames = self._read(connection)
            if connection.ended_by and not reader.has_ended:
                self._say(f"{connection.ended_by}; going on with what follows")
            return has_frames
        except VideoError:
            if self.source.kind == "file" or self._num_parts:
                return False
            raise

    def _read_finished_file(self) -> None:
        """Label a file that doesn't grow exactly as `engine label` does."""
        settings = self._settings
        path = Path(self.source.address)
        self._say(f"a finished file; windows of {settings.window_s:g} s")
        for read in windows_of(
            path, settings.clip, settings.window_s, settings.stride_s, 0, stop=self._stop
        ):
            self._put(
                StreamWindow(
                    start_s=read.window.start_s,
                    end_s=read.window.end_s,
                    view=read.view,
                    frames=read.frames,
                    num_damaged=read.num_damaged,
                    arrived=time.monotonic(),
                ),
                may_drop=False,
            )

    def _read(self, connection: Connection) -> bool:
        """Read the frames of a connection; returns whether there were any."""
        self._say(f"connected: {connection.describe()}")
        may_drop = not connection.is_finite
        has_frames = False
        with closing(connection.frames()) as frames:
            for frame in frames:
                if self._stop.is_set():
                    raise Stopped
                rolling = self._rolling
                if (
                    rolling is None
                    or not has_frames
                    or frame.num_skipped
                    or not rolling.continues(frame, self._settings.timeout_s)
                ):
                    self._finish_part(may_drop=may_drop)
                    rolling = self._start_part(frame, is_reconnected=not has_frames)
                has_frames = True
                for window in rolling.add(frame):
                    self._put(window, may_drop=may_drop)
        return has_frames

    def _start_part(self, frame: LiveFrame, *, is_reconnected: bool) -> RollingWindows:
        """Start windows anew: at the first frame, and after an interruption or a new size."""
        settings, last = self._settings, self._last
        begins_s = 0.0
        if last is None:
            self._first_arrival = frame.arrived
        else:
            passed_s = frame.time_s - last.last_stamp_s
            if self.source.is_live and is_reconnected:
                passed_s = frame.arrived - self._first_arrival - last.last_s
            elif passed_s > settings.timeout_s and not frame.num_skipped:
                passed_s = 0.0  # the stream has set its clock
            begins_s = last.last_s + max(passed_s, last.gap_s)
            if frame.num_skipped:
                num_windows = max(1, round((begins_s - last.last_s) / settings.stride_s))
                self._pending.count_dropped(self._number, num_windows)
        self._rolling = RollingWindows(
            settings.clip,
            window_s=settings.window_s,
            stride_s=settings.stride_s,
            begins_s=begins_s,
            part=self._num_parts,
        )
        self._num_parts += 1
        return self._rolling

    def _finish_part(self, *, may_drop: bool, accepts_short: bool = False) -> None:
        if self._rolling is not None:
            self._last, self._rolling = self._rolling, None
            for window in self._last.end(accepts_short=accepts_short):
                self._put(window, may_drop=may_drop)

    def _put(self, window: StreamWindow, *, may_drop: bool) -> None:
        self._num_windows += 1
        self._pending.put(self._number, window, may_drop=may_drop)

    def _connected(self, reader: Bytes | None) -> AbstractContextManager[Connection]:
        return connected(
            self.source,
            reader,
            timeout_s=self._settings.timeout_s,
            stop=self._stop,
            fast=FastDecode.of(self._settings.clip),
        )

    def _is_growing(self) -> bool:
        return quiet_s(Path(self.source.address).stat()) < self._settings.timeout_s

    def _wait_until_finished(self) -> None:
        self._say("it can't be read while it grows; waiting until it is finished")
        while self._is_growing():
            if self._stop.wait(FIRST_DELAY_S):
                raise Stopped

    def _give_up(self, reason: str) -> None:
        self.error = reason
        self._say(reason)

    def _say(self, text: str) -> None:
        self._on_status(f"{self.source.name}: {text}")
