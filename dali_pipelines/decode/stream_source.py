"""Sources of streams: cameras, URLs, pipes and growing files; and reading bytes from the last two.

The names of sources, as printed, never contain the credentials of a URL.
"""

import os
import re
import select
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

from dali_pipelines.errors import SpecError

Kind = Literal["camera", "url", "pipe", "file"]

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "tcp", "udp")
SECRET = re.compile(r"user|usr|login|pass|pwd|token|key|secret|auth|sign?|session|cred", re.I)
"""Names of query parameters whose values aren't shown."""
HIDDEN = "***"
POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class StreamSource:
    """A source of a stream."""

    address: str = field(repr=False)
    """Path or URL, with credentials."""
    name: str
    """The same without credentials, for output."""
    kind: Kind

    @classmethod
    def of(cls, text: str) -> "StreamSource":
        """Recognize a source: `-` for standard input, a URL, or a path.

        Raises:
            SpecError: It is none of these.
        """
        if text == "-":
            return cls(address=text, name=text, kind="pipe")
        if "://" in text:
            name, scheme = without_credentials(text), text.partition("://")[0].lower()
            if scheme not in SCHEMES:
                raise SpecError(f"{name}: use a URL that starts with {', '.join(SCHEMES)}")
            return cls(address=text, name=name, kind="url")
        try:
            mode = Path(text).stat().st_mode
        except OSError as error:
            raise SpecError(f"{text}: {error.strerror or error}") from error
        kinds: tuple[tuple[bool, Kind], ...] = (
            (stat.S_ISREG(mode), "file"),
            (stat.S_ISFIFO(mode), "pipe"),
            (stat.S_ISCHR(mode), "camera"),
        )
        for fits, kind in kinds:
            if fits:
                return cls(address=text, name=text, kind=kind)
        raise SpecError(f"{text} is no camera, URL, pipe or file")

    @property
    def is_live(self) -> bool:
        """Whether its frames come at their own pace, so that late ones are dropped."""
        return self.kind in ("camera", "url")


def without_credentials(url: str) -> str:
    """Replace the user, the password, and query values that may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://{HIDDEN}"
    _, at, host = parts.netloc.rpartition("@")
    query = "&".join(_without_secret(pair) for pair in parts.query.split("&"))
    return urlunsplit(parts._replace(netloc=f"{HIDDEN}{at}{host}" if at else host, query=query))


def _without_secret(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}={HIDDEN}" if equals and SECRET.search(name) else pair


class Bytes(Protocol):
    """What `av.open` reads from instead of a file."""

    has_ended: bool

    def read(self, size: int) -> bytes: ...
    def close(self) -> None: ...


def bytes_of(source: StreamSource, timeout_s: float, stop: Event) -> Bytes:
    """Open a pipe or a growing file."""
    if source.kind == "pipe":
        return PipeBytes(source.address, stop)
    return GrowingBytes(source.address, timeout_s, stop)


class PipeBytes:
    """Bytes of standard input or a named pipe, as they come."""

    def __init__(self, path: str, stop: Event) -> None:
        self.has_ended = False
        self._stop = stop
        if path == "-":
            self._file = os.dup(sys.stdin.fileno())
        else:  # without O_NONBLOCK, opening would wait for a writer
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def read(self, size: int) -> bytes:
        while not self._stop.is_set():
            if not self._poll.poll(1000 * POLL_S):
                continue
            try:
                data = os.read(self._file, size)
            except BlockingIOError:
                continue
            self.has_ended = not data
            return data
        return b""

    def close(self) -> None:
        os.close(self._file)


class GrowingBytes:
    """Bytes of a file that another process still writes."""

    def __init__(self, path: str, timeout_s: float, stop: Event) -> None:
        self.has_ended = False
        self._timeout_s, self._stop = timeout_s, stop
        self._file = os.open(path, os.O_RDONLY)
        self._has_waited = False
        self._grown_at = time.monotonic() - max(0.0, quiet_s(os.fstat(self._file)))

    def read(self, size: int) -> bytes:
        while not self._stop.is_set():
            if data := os.read(self._file, size):
                if self._has_waited:
                    self._grown_at, self._has_waited = time.monotonic(), False
                return data
            self._has_waited = True
            if time.monotonic() - self._grown_at >= self._timeout_s:
                self.has_ended = True
                break
            self._stop.wait(POLL_S)
        return b""

    def close(self) -> None:
        os.close(self._file)


def quiet_s(status: os.stat_result) -> float:
    """Seconds since a file was written the last time."""
    return time.time() - status.st_mtime
