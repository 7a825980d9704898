"""A server of `engine app` in a process of its own, for the tests."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import videos

SECRET = "abc.mp4"  # ../abc.mp4 is as long as PICKED, so that one can stand for the other
PICKED = "inside.mp4"
ODD_CONFIG = """
[server]
enableXsrfProtection = false
enableCORS = false
enableStaticServing = true
address = "0.0.0.0"
"""


@dataclass(frozen=True, kw_only=True)
class Server:
    process: "subprocess.Popen[str]"
    port: int
    home: Path
    films: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def temporary(self) -> Path:
        return self.home / "tmp"


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def serve(run: Path, home: Path, *more: str) -> Server:
    pytest.importorskip("streamlit", reason="needs Streamlit: pip install -e '.[app]'")
    (home / "tmp").mkdir()
    films = home / "films"
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "app", str(run), "--videos", str(films),
         "--port", str(port), *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "HOME": str(home), "TMPDIR": str(home / "tmp")},
    )  # fmt: skip
    server = Server(process=process, port=port, home=home, films=films)
    deadline = time.monotonic() + 900
    while not answers(server):
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return server


def answers(server: Server) -> bool:
    with contextlib.suppress(OSError):
        return ask(server, "GET", "/_stcore/health")[0] == 200
    return False


def ask(server: Server, method: str, path: str, **more: Any) -> tuple[int, bytes]:
    """As it is written here: no client tidies the path."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=900)
    try:
        connection.request(method, path, **more)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def end(server: Server, how: signal.Signals) -> str:
    server.process.send_signal(how)
    try:
        output, _ = server.process.communicate(timeout=900)
    finally:
        server.process.kill()
    assert server.process.returncode == 0, output
    assert "Traceback" not in output
    return str(output)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos in a folder, one beside it, and settings of a user who is careless."""
    home = tmp_path_factory.mktemp("app")
    films = home / "films"
    films.mkdir()
    videos.write_video(films / PICKED, codec="h264", size=(96, 72), draw=videos.noise(1))
    videos.write_video(home / SECRET, codec="h264", size=(96, 72), draw=videos.noise(2))
    (films / "link.mp4").symlink_to(home / SECRET)
    (home / ".streamlit").mkdir()
    (home / ".streamlit" / "config.toml").write_text(ODD_CONFIG)
    return home


@pytest.fixture(scope="module")
def server(run: Path, home: Path) -> Iterator[Server]:
    served = serve(run, home, "--max-upload-mb", "1")
    try:
        yield served
        end(served, signal.SIGINT)
        assert list(served.temporary.iterdir()) == []
    finally:
        served.process.kill()


def listing(home: Path) -> dict[str, bytes]:
    files = (path for path in home.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): path.read_bytes() for path in files}
