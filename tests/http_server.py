"""A server of `engine serve` in a thread of the tests: real HTTP over a real socket."""

import contextlib
import http.client
import json
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from app_server import free_port

from engine.serving.http.settings import ServeSettings


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]


class Http:
    """Sends requests as they are written here."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body=body, headers=names)
            reply = connection.getresponse()
            data = reply.read()
            is_json = (reply.getheader("content-type") or "").startswith("application/json")
            return Answer(
                reply.status,
                json.loads(data) if is_json else data,
                {name.lower(): value for name, value in reply.getheaders()},
            )
        finally:
            connection.close()

    def upload(self, video: Path | bytes, target: str = "/v1/predict", **headers: str) -> Answer:
        data = video if isinstance(video, bytes) else video.read_bytes()
        boundary = secrets.token_hex(8)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n'
            "Content-Type: video/mp4\r\n\r\n"
        )
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return self.ask("POST", target, body, Content_Type=kind, **headers)

    def name(self, target: str = "/v1/predict", **values: Any) -> Answer:
        body = json.dumps(values).encode()
        return self.ask("POST", target, body, Content_Type="application/json")


@contextlib.contextmanager
def served(settings: ServeSettings, **config: Any) -> Iterator[Http]:
    for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        pytest.importorskip(package, reason=f"needs {package}: pip install -e '.[serve]'")
    import uvicorn

    from engine.serving.http.app import create_app

    with socket.create_server(("127.0.0.1", 0)) as listening:
        options = uvicorn.Config(create_app(settings), log_level="warning", **config)
        server = uvicorn.Server(options)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Http(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(300)
            assert not thread.is_alive()


def start(run: Path, *words: str) -> "tuple[subprocess.Popen[str], Http]":
    """`engine serve` in a process of its own."""
    pytest.importorskip("fastapi", reason="needs FastAPI: pip install -e '.[serve]'")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "serve", str(run), "--port", str(port), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    http = Http(port)
    assert process.stdout
    line = process.stdout.readline()
    assert f"serving {run.name} at http://localhost:{port}" in line, line
    return process, http
