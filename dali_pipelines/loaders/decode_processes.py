"""Decoding in worker processes, for machines with many cores.

PyAV takes Python's global lock several times for each packet, so the threads of one process decode
no faster than three cores. Here each thread of a loader lets a process of its own do the work, and
only receives the frames, through shared memory. A file that crashes the decoder ends its process
only.

Workers are forks of one server process, which has imported what they need and runs no threads:

    python -m dali_pipelines.loaders.decode_processes DESCRIPTOR
"""

import atexit
import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.errors import LoaderError, Stopped, VideoError

Value = TypeVar("Value")

MAX_THREADS = 4
"""With more decoding threads than this, processes are faster."""
POLL_S = 0.1
MAX_PICTURES = 500_000
"""Largest number of pictures in the indices that a process remembers: those of a film, about 20 MB,
of which it may read several parts. It seldom meets other files twice."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class DecodeProcesses:
    """Worker processes, each started when it is first needed; up to `size` are kept for later use.

    They end when this object is deleted, and when its process ends for any reason.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._idle: list[_Process] = []
        self._owner = os.getpid()
        weakref.finalize(self, _end_all, self._idle, self._owner)

    def call(
        self, function: Callable[..., Value], path: Path, *arguments: Any, stop: Event
    ) -> Value:
        """Return `function(path, *arguments)`, computed in a process; otherwise like `iterate`."""
        (value,) = self.iterate(_as_iterator, path, function, *arguments, stop=stop)
        return value

    def iterate(
        self, function: Callable[..., Iterator[Value]], path: Path, *arguments: Any, stop: Event
    ) -> Iterator[Value]:
        """Iterate over `function(path, *arguments)`, which runs in a process, one item ahead of us.

        Args:
            function: A generator function that can be imported by name.
            path: The file that it reads.
            arguments: Its other arguments.
            stop: Set it to end the process.

        Raises:
            VideoError: The process ended; other exceptions are those of the function.
            Stopped: `stop` was set.
        """
        folder = None if path.is_absolute() else Path.cwd()
        job = pickle.dumps((folder, function, path, arguments))
        process = self._take()
        messages = process.run(job, stop)
        is_idle = False
        try:
            try:
                message = next(messages)
            except (EOFError, ConnectionError):
                if not process.was_used:
                    raise
                ended, process = process, _start()  # perhaps it was killed while it was idle
                ended.end()
                messages = process.run(job, stop)
                message = next(messages)
            while message[0]:
                yield message[1]
                message = next(messages)
            is_idle = True
        except (EOFError, ConnectionError) as error:
            raise VideoError(path, "it crashed the decoder") from error
        finally:
            messages.close()
            self._give_back(process, is_idle)
        if message[1] is not None:
            try:
                raise message[1]
            finally:
                del message  # the exception refers to this frame, which refers to this object

    def _take(self) -> "_Process":
        if os.getpid() != self._owner:  # a fork has its own
            self._idle, self._owner = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return _start()

    def _give_back(self, process: "_Process", is_idle: bool) -> None:
        if is_idle and len(self._idle) < self._size:
            self._idle.append(process._replace(was_used=True))
        else:
            process.end()


def decode_processes(num_threads: int) -> DecodeProcesses | None:
    """Processes for this number of decoding threads; None if threads are as fast."""
    return DecodeProcesses(num_threads) if num_threads > MAX_THREADS else None


_Message = tuple[bool, Any]
"""(True, item), and at the end (False, None) or (False, exception). Plain types, since the worker's
own would belong to its main module."""


class _Process(NamedTuple):
    connection: Connection
    memory: int
    """Descriptor of memory that it shares with this process."""
    id: int
    was_used: bool = False

    def run(self, job: bytes, stop: Event) -> Generator[_Message, None, None]:
        """Give it a job, and yield the messages that it answers with."""
        self.connection.send_bytes(job)
        while True:
            while not self.connection.poll(POLL_S):
                if stop.is_set():
                    raise Stopped
            data, lengths = self.connection.recv()
            arrays = [np.empty(length, np.uint8) for length in lengths]
            offset = 0
            for array in arrays:
                offset += _read(self.memory, array, offset)
            message: _Message = pickle.loads(data, buffers=arrays)
            if message[0]:
                self.connection.send_bytes(b"next")
            yield message

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.id, signal.SIGKILL)
        self.connection.close()
        os.close(self.memory)


def _read(descriptor: int, array: NDArray[np.uint8], offset: int) -> int:
    """Fill an array from a file; a single call reads up to 2 GB."""
    done = 0
    while done < len(array):
        count = os.preadv(descriptor, [array[done:].data], offset + done)
        if not count:
            raise EOFError
        done += count
    return done


class _Server(NamedTuple):
    socket: socket.socket
    popen: subprocess.Popen[bytes]
    """Kept, since Python warns of a process that still runs when its object is deleted."""


_lock = threading.Lock()


@functools.cache
def _server(owner: int) -> _Server:
    """Start the server of this process, with which it ends."""
    ours, theirs = socket.socketpair()
    with theirs:
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={
                **os.environ,
                **ONE_THREAD,
                "PYTHONPATH": os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path),
            },
        )

    def stop() -> None:
        if os.getpid() == owner:
            ours.shutdown(socket.SHUT_RDWR)  # forks of this process may hold it open

    atexit.register(stop)
    return _Server(ours, popen)


def _start() -> _Process:
    """Start a worker, with a new server if the old one has ended."""
    with _lock:
        for _ in range(2):
            with suppress(EOFError, ConnectionError):
                return _fork_of(_server(os.getpid()))
            _server.cache_clear()
    raise LoaderError("no process for decoding can be started; is there enough memory?")


def _fork_of(server: _Server) -> _Process:
    ours, theirs = socket.socketpair()
    connection = Connection(ours.detach())
    try:
        with theirs:
            socket.send_fds(server.socket, [b"."], [theirs.fileno()])
        process = connection.recv()
        return _Process(connection, reduction.recv_handle(connection), process)
    except BaseException:
        connection.close()
        raise


def _end_all(idle: list[_Process], owner: int) -> None:
    while idle and os.getpid() == owner:
        idle.pop().end()


def _as_iterator(path: Path, function: Callable[..., Value], *arguments: Any) -> Iterator[Value]:
    yield function(path, *arguments)


def _serve(server: socket.socket) -> None:
    """Fork a worker for each connection that arrives; end with all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # both are sent to all processes of a job;
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the one that uses us decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers leave no zombies
    import torch  # noqa: F401  resizes frames

    import dali_pipelines.loaders.windows  # noqa: F401
    from dali_pipelines.decode import indexed_video

    indexed_video.MAX_REMEMBERED = MAX_PICTURES
    while True:
        _, descriptors, _, _ = socket.recv_fds(server, 1, 1)
        if not descriptors:
            os.killpg(0, signal.SIGKILL)
        with suppress(OSError):  # out of processes: whoever waits sees the connection end
            if os.fork() == 0:
                try:
                    server.close()
                    _work(Connection(descriptors[0]))
                finally:
                    os._exit(0)
        os.close(descriptors[0])


def _work(connection: Connection) -> None:
    """Do what is asked for until the other end is closed."""
    memory = os.memfd_create("frames")
    connection.send(os.getpid())
    reduction.send_handle(connection, memory, None)
    with suppress(EOFError, ConnectionError):
        while True:
            messages = _answers(connection.recv_bytes())
            for message in messages:
                arrays: list[pickle.PickleBuffer] = []
                data = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
                connection.send((data, _write(memory, [array.raw() for array in arrays])))
                if message[0]:
                    connection.recv_bytes()


def _write(memory: int, arrays: list[memoryview]) -> list[int]:
    with os.fdopen(os.dup(memory), "wb") as file:
        file.seek(0)
        for array in arrays:
            file.write(array)
    return [len(array) for array in arrays]


def _answers(job: bytes) -> Iterator[_Message]:
    try:
        folder, function, path, arguments = pickle.loads(job)
        if folder is not None:
            os.chdir(folder)
        for item in function(path, *arguments):
            yield True, item
        yield False, None
    except Exception as error:
        yield False, _sendable(error)


def _sendable(error: Exception) -> Exception:
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return copy


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
