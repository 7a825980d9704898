"""Runs the application by uvicorn."""

import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from engine.addresses import LOCAL, is_local, listen
from engine.serving.http.settings import ServeSettings

SWITCH_S = 0.0005
"""A thread that decodes lets others run after this time: Python's 5 ms keep the others waiting."""
CONNECTIONS_PER_PLACE = 16
"""Open connections, for each place in the queue; further ones get status 503."""


def run(settings: ServeSettings, *, host: str, port: int, log_requests: bool) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that were accepted are answered first.

    Raises:
        UserError: The address can't be used.
    """
    import uvicorn
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from engine.memory import keep_freed_memory
    from engine.serving.http.app import create_app

    keep_freed_memory()
    sys.setswitchinterval(SWITCH_S)
    listening = listen(host, port)  # a taken port is told before models are opened
    _raise_file_limit()
    app = create_app(settings)
    if is_local(host):  # a page of the web must not reach this server through the user's browser
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL))
    config = uvicorn.Config(
        app,
        access_log=log_requests,
        log_level="info" if log_requests else "warning",
        limit_concurrency=CONNECTIONS_PER_PLACE * settings.queue,
        timeout_graceful_shutdown=int(settings.timeout_s) + 1,
        server_header=False,
    )
    shown = f"[{host}]" if ":" in host else host

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Uvicorn's own raises the signal again in the end; here the exit code is 0."""
            numbers = (signal.SIGINT, signal.SIGTERM)
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                names = ", ".join(settings.models)
                print(f"serving {names} at http://{shown}:{port}; Ctrl-C ends it", flush=True)

    server = Server(config)
    server.run(sockets=[listening])
    if not server.started:
        raise SystemExit(3)


def _raise_file_limit() -> None:
    """Each connection is an open file, and many systems allow 1,024 at first."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
