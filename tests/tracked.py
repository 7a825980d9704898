"""Reads what trackers received, and starts MLflow's own server."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32 * 1024, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
WAITING_S = 300.0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[Any]:
    """MLflow's server on this port, with its database and artifacts in the folder.

    What it gives is called to kill the server.
    """
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--workers", "1",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)

    def kill() -> None:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # it is a process of processes
            process.wait()

    try:
        end = time.monotonic() + WAITING_S
        while not _is_healthy(port):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < end, "the server doesn't answer"
            time.sleep(0.5)
        yield kill
    finally:
        kill()


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def tensorboard_scalars(run: Path) -> dict[str, dict[int, float]]:
    """By name and step, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    found: dict[str, dict[int, float]] = {}
    for name in events.Tags()["scalars"]:
        scalars = events.Scalars(name)
        found[name] = {event.step: event.value for event in scalars}
        assert len(found[name]) == len(scalars), "a step is shown twice"
    return found


def wandb_records(run: Path) -> list[Any]:
    """All records of the offline files of a run; W&B's service may still write their ends."""
    end = time.monotonic() + WAITING_S
    found: list[Any] = []
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        records = _records_in(path)
        while not any(record.HasField("exit") for record in records):
            assert time.monotonic() < end, f"{path} has no end"
            time.sleep(0.1)
            records = _records_in(path)
        found += records
    return found


def _records_in(path: Path) -> list[Any]:
    """The records of a file in the format of LevelDB's log."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    try:
        return [Record.FromString(data) for data in _log_records(path.read_bytes())]
    except DecodeError:  # its last record is being written
        return []


def _log_records(data: bytes) -> Iterator[bytes]:
    position, whole = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        part = data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        whole = part if kind in (FULL, FIRST) else whole + part
        if kind in (FULL, LAST):
            yield whole
