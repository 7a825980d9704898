"""Runs the command line in forks of a process that has imported PyTorch already.

A fork is a process of its own, as `python -m engine` is, but starts in a hundredth of the time. The
server of the forks is this file, run as a program.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.models import timm_loading

IMPORTED = (
    "av", "engine.cli", "engine.models.registry", "engine.training.fold_runs", "lightning_fabric",
    "matplotlib.pyplot", "nvidia.dali.ops", "torch._dynamo", "torch.utils.tensorboard",
    "torchvision",
)  # fmt: skip
TIMEOUT_S = 900


class Forks:
    """Commands in forks of one server; several may run at a time."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server

    def run(
        self, arguments: Sequence[str], env: dict[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        """Run `engine` with these arguments, in the current folder; like `subprocess.run`."""
        request = {"arguments": arguments, "env": env, "folder": str(Path.cwd())}
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, ours:
            with theirs:
                files = [out.fileno(), err.fileno(), theirs.fileno()]
                socket.send_fds(self._server, [b"."], files)
            ours.settimeout(TIMEOUT_S)
            with ours.makefile("rw") as talk:
                print(json.dumps(request), file=talk, flush=True)
                process = int(talk.readline())
                try:
                    code = int(talk.readline())
                except TimeoutError:
                    os.kill(process, signal.SIGKILL)
                    raise
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode().replace("\r\n", "\n"))
        return subprocess.CompletedProcess(["engine", *arguments], code, *texts)


@contextmanager
def forks() -> Iterator[Forks]:
    """Start a server, and end it afterwards."""
    ours, theirs = socket.socketpair()
    with theirs:
        server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                 "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    with ours:
        yield Forks(ours)
    server.wait()


def _next_command(server: socket.socket) -> list[str]:
    """Serve requests; return in each fork, which is to run the command."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        _, files, _, _ = socket.recv_fds(server, 1, 3)
        if not files:
            os._exit(0)
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    server.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out, err, connection = files
    with (
        os.fdopen(connection, "rb", buffering=0) as asked,
        os.fdopen(os.dup(connection), "w") as answer,
    ):
        request = json.loads(asked.readline())
        process = os.fork()
        if process:
            print(process, file=answer, flush=True)
            _, status = os.waitpid(process, 0)
            print(os.waitstatus_to_exitcode(status), file=answer, flush=True)
            os._exit(0)
    for stream, number in ((out, 1), (err, 2)):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    return request["arguments"]


def _run_as_program() -> int:
    """`python -m engine`; returns its exit code, after what Python does at the end of a program."""
    try:
        runpy.run_module("engine", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):
            stream.flush()
    return code


if __name__ == "__main__":
    for name in IMPORTED:
        with suppress(ImportError):
            importlib.import_module(name)
    timm_loading.load_timm()
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: a fork would lack them"
    gc.freeze()  # a fork needn't copy what it never changes
    arguments = _next_command(socket.socket(fileno=int(sys.argv[1])))
    sys.argv = ["engine", *arguments]
    sys.path[0] = str(Path.cwd())  # as `python -m` does
    os._exit(_run_as_program())  # deleting every module first takes a second
