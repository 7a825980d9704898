"""Servers and writers of live streams, on this machine, for the tests."""

import contextlib
import os
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest

Send = Callable[[bytes], None]
Answer = Callable[[Send], None]
"""What a server does with a connection after its header; it returns to cut the connection."""

NO_RTSP = (
    "needs GStreamer's RTSP server: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-base gstreamer1.0-rtsp"
)


class HttpServer:
    """Gives each connection the next of some answers; the last one also all further ones."""

    def __init__(self, *answers: Answer, kind: str = "video/mp2t", size: int | None = None) -> None:
        self.count = 0
        lock, owner = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with lock:
                    answer = answers[min(owner.count, len(answers) - 1)]
                    owner.count += 1
                self.send_response(200)
                self.send_header("Content-Type", kind)
                if size is not None:
                    self.send_header("Content-Length", str(size))
                self.end_headers()
                with contextlib.suppress(OSError):
                    answer(self.wfile.write)

            def log_message(self, *words: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *words: object) -> None:
                pass

        self._server: socketserver.BaseServer = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/live"  # type: ignore[index]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> "HttpServer":
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def paced(path: Path, *, times_as_fast: float = 1.0) -> Answer:
    """Send the packets of a file as MPEG-TS, each when it is due."""

    def answer(send: Send) -> None:
        started = time.monotonic()
        pieces: list[bytes] = []

        class Sink:
            def write(self, data: bytes) -> int:
                pieces.append(bytes(data))
                return len(data)

        with av.open(str(path)) as source, av.open(Sink(), "w", format="mpegts") as target:
            stream = source.streams.video[0]
            copy = target.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is None:
                    continue
                assert packet.time_base is not None
                due_s = float(packet.dts * packet.time_base) / times_as_fast
                time.sleep(max(0.0, started + due_s - time.monotonic()))
                packet.stream = copy
                target.mux(packet)
                send(b"".join(pieces))
                pieces.clear()
        send(b"".join(pieces))

    return answer


def whole(data: bytes) -> Answer:
    """Send everything at once, then cut the connection."""
    return lambda send: send(data)


def stalled(data: bytes, stop: threading.Event) -> Answer:
    """Send something, then nothing more."""

    def answer(send: Send) -> None:
        send(data)
        stop.wait()

    return answer


def multipart(pictures: list[bytes], gap_s: float) -> Answer:
    """Motion JPEG as cameras send it, `multipart/x-mixed-replace; boundary=frame`."""

    def answer(send: Send) -> None:
        for picture in pictures:
            send(b"--frame\r\nContent-Type: image/jpeg\r\n")
            send(b"Content-Length: %d\r\n\r\n%b\r\n" % (len(picture), picture))
            time.sleep(gap_s)

    return answer


@contextlib.contextmanager
def pipe(path: Path, data: bytes, *, piece: int = 4096) -> Iterator[Path]:
    """A named pipe into which a thread writes `data`."""
    os.mkfifo(path)

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), path.open("wb", buffering=0) as file:
            for start in range(0, len(data), piece):
                file.write(data[start : start + piece])

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield path
    thread.join(timeout=60)


class RtspServer:
    """GStreamer's RTSP server in a process of its own, with one H.264 file.

    Args:
        video: An MP4 file, sent at its own pace once per connection.
        port: The port; 0 takes a free one.
        user: Name and password that the server asks for.
    """

    def __init__(self, video: Path, *, port: int = 0, user: tuple[str, str] | None = None) -> None:
        script = Path(__file__).with_name("rtsp_server.py")
        self._process = subprocess.Popen(
            [rtsp_python(), script, video, str(port), *(user or ())],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        login = f"{user[0]}:{user[1]}@" if user else ""
        self.url = f"rtsp://{login}127.0.0.1:{self.port}/live"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "RtspServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def rtsp_python() -> str:
    """A Python that can run rtsp_server.py; skips the test if there is none."""
    for python in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        script = Path(__file__).with_name("rtsp_server.py")
        if (
            python
            and not subprocess.run([python, script, "--check"], capture_output=True).returncode
        ):
            return python
    pytest.skip(NO_RTSP)
