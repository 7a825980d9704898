"""Servers of files on this machine: S3 by moto behind a proxy that can fail, and plain HTTP."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Fault = Callable[[str, str], str]
"""Method and path of a request → "" if it is answered, "503", or "cut" amid the answer."""


class Proxy:
    """Passes all requests on to a server, but for those that `fault` chooses."""

    def __init__(self, port: int) -> None:
        self.fault: Fault = no_fault
        self.requests: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                proxy.requests.append((self.command, self.path))
                fault = proxy.fault(self.command, self.path)
                if fault == "503":
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                size = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                if fault == "cut":
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(data)
                connection.close()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def no_fault(method: str, path: str) -> str:
    return ""


class Guarded(SimpleHTTPRequestHandler):
    """Answers GET only, as signed URLs do, and only with the right signature or password."""

    signature, password = "7d41c0ffee", "cGVyc29uOnBhNTV3b3Jk"  # person:pa55word

    def send_head(self) -> Any:
        query = self.path.partition("?")[2]
        may = (
            f"signature={self.signature}" in query
            or self.headers.get("Authorization") == f"Basic {self.password}"
        )
        if not may or self.command == "HEAD":
            self.send_error(403)
            return None
        return super().send_head()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def http_server(folder: Path, handler: type[SimpleHTTPRequestHandler]) -> Iterator[str]:
    """Serve a folder; yields host and port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
