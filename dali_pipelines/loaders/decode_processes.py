"""Decoding in worker processes, for machines with many cores.

PyAV takes Python's global lock several times for each packet, so the threads of one process decode
no faster than three cores. Here each thread of a loader lets a process of its own do the work, and
only receives the frames, in shared memory. A file that crashes the decoder ends its process only.

Workers are forks of one server process, which has imported what they need and runs no threads:

    python -m dali_pipelines.loaders.decode_processes DESCRIPTOR
"""

import atexit
import functools
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, LifoQueue
from threading import Event
from typing import Any, NamedTuple, TypeVar

from dali_pipelines.errors import LoaderError, Stopped, VideoError

Value = TypeVar("Value")

MAX_THREADS = 4
"""With more decoding threads than this, processes are faster."""
POLL_S = 0.1
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class _Process(NamedTuple):
    connection: Connection
    id: int

    def end(self) -> None:
        self.connection.close()
        with suppress(ProcessLookupError):
            os.kill(self.id, signal.SIGKILL)


class DecodeProcesses:
    """Up to `size` worker processes, each started when it is first needed.

    They end when this object is deleted, and when its process ends for any reason.
    """

    def __init__(self, size: int) -> None:
        self._idle: LifoQueue[_Process | None] = LifoQueue()
        for _ in range(size):
            self._idle.put(None)
        _server()
        weakref.finalize(self, _end, self._idle)

    def call(
        self, function: Callable[..., Value], path: Path, *arguments: Any, stop: Event
    ) -> Value:
        """Return `function(path, *arguments)`, computed in a process; otherwise like `iterate`."""
        (value,) = self.iterate(_as_iterator, path, function, *arguments, stop=stop)
        return value

    def iterate(
        self, function: Callable[..., Iterator[Value]], path: Path, *arguments: Any, stop: Event
    ) -> Iterator[Value]:
        """Iterate over `function(path, *arguments)`, which runs in a process.

        Args:
            function: A generator function that can be imported by name.
            path: The file that it reads.
            arguments: Its other arguments.
            stop: Set it to end the process.

        Raises:
            VideoError: The process ended; other exceptions are those of the function.
            Stopped: `stop` was set.
        """
        process = self._idle.get()
        has_finished = False
        try:
            process = process or _start()
            process.connection.send((function, path, arguments))
            while True:
                while not process.connection.poll(POLL_S):
                    if stop.is_set():
                        raise Stopped
                items, error = _receive(process.connection)
                if not items:
                    has_finished = True
                    if error is None:
                        return
                    try:
                        raise error
                    finally:
                        del error  # it refers to this frame, which refers to this object
                yield items[0]
        except (EOFError, ConnectionError) as error:
            raise VideoError(path, "it crashed the decoder") from error
        finally:
            if process is not None and not has_finished:
                process.end()
                process = None
            self._idle.put(process)


def decode_processes(num_threads: int) -> DecodeProcesses | None:
    """Processes for this number of decoding threads; None if threads are as fast."""
    return DecodeProcesses(num_threads) if num_threads > MAX_THREADS else None


_lock = threading.Lock()


class _Server(NamedTuple):
    socket: socket.socket
    popen: subprocess.Popen[bytes]


@functools.cache
def _server() -> _Server:
    """Start the server, which ends with this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        popen = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                **ONE_THREAD,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
        )
    atexit.register(ours.shutdown, socket.SHUT_RDWR)  # forks of this process may hold it open
    return _Server(ours, popen)


def _start() -> _Process:
    ours, theirs = socket.socketpair()
    connection = Connection(ours.detach())
    try:
        with theirs, _lock:
            socket.send_fds(_server().socket, [b"."], [theirs.fileno()])
        return _Process(connection, connection.recv())
    except (EOFError, ConnectionError) as error:
        raise LoaderError("the process that starts decoding processes has ended") from error


def _end(idle: "LifoQueue[_Process | None]") -> None:
    """End the processes; one that works is ended by whoever waits for it."""
    with suppress(Empty):
        while True:
            process = idle.get_nowait()
            if process is not None:
                process.end()


def _as_iterator(path: Path, function: Callable[..., Value], *arguments: Any) -> Iterator[Value]:
    yield function(path, *arguments)


def _send(connection: Connection, items: tuple[Any, ...], error: Exception | None) -> None:
    """Send an item or the end; arrays go through shared memory that is theirs alone."""
    arrays: list[pickle.PickleBuffer] = []
    data = pickle.dumps((items, error), protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    connection.send((data, [len(view) for view in views]))
    if views:
        with os.fdopen(os.memfd_create("frames"), "wb") as file:
            for view in views:
                file.write(view)
            file.flush()
            reduction.send_handle(connection, file.fileno(), None)


def _receive(connection: Connection) -> Any:
    data, lengths = connection.recv()
    views = []
    if lengths:
        descriptor = reduction.recv_handle(connection)
        memory = memoryview(mmap.mmap(descriptor, sum(lengths)))
        os.close(descriptor)
        for length in lengths:
            views.append(memory[:length])
            memory = memory[length:]
    return pickle.loads(data, buffers=views)


def _serve(server: socket.socket) -> None:
    """Fork a worker for each connection that arrives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers leave no zombies
    import torch  # noqa: F401  resizes frames

    import dali_pipelines.loaders.clip_reader
    import dali_pipelines.loaders.windows  # noqa: F401

    while True:
        _, descriptors, _, _ = socket.recv_fds(server, 1, 1)
        if not descriptors:
            return
        if os.fork() == 0:
            server.close()
            with suppress(EOFError, ConnectionError):
                _work(Connection(descriptors[0]))
            os._exit(0)
        os.close(descriptors[0])


def _work(connection: Connection) -> None:
    """Do what is asked for until the other end is closed."""
    connection.send(os.getpid())
    while True:
        function, path, arguments = connection.recv()
        error: Exception | None = None
        try:
            for item in function(path, *arguments):
                _send(connection, (item,), None)
        except ConnectionError:
            raise
        except Exception as raised:
            error = raised
        _send(connection, (), error)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
