"""Decoding in processes gives what threads give, and a process ends with whoever uses it."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Timer

import numpy as np
import pytest
import torch
import videos
from rows import SMALL, rows_of

from dali_pipelines.errors import Stopped, VideoError
from dali_pipelines.loaders.clip_reader import decode_resized
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.decode_processes import MAX_THREADS, DecodeProcesses
from dali_pipelines.loaders.loader_config import LoaderConfig
from dali_pipelines.loaders.window_loader import WindowLoader

MANY = MAX_THREADS + 1
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    written = [
        videos.write_video(folder / f"{codec}.{suffix}", codec=codec, frames=40 + number)
        for number, (codec, suffix) in enumerate(
            [("h264", "mp4"), ("mpeg4", "avi"), ("vp9", "webm")]
        )
    ]
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    return [*written, broken]


def crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(path: Path, started: str) -> None:
    Path(started).write_text(str(os.getpid()))
    time.sleep(600)


def count_forever(path: Path) -> Iterator[int]:
    while True:
        yield os.getpid()


def fail(path: Path) -> None:
    raise VideoError(path, "as expected")


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_dead(process: int) -> None:
    deadline = time.monotonic() + 30
    while is_alive(process):
        assert time.monotonic() < deadline, f"process {process} still runs"
        time.sleep(0.02)


def test_a_clip_has_the_same_frames(paths: list[Path]) -> None:
    processes, numbers = DecodeProcesses(1), np.arange(3, 30, 9)
    for path in paths[:3]:
        expected, _ = decode_resized(path, numbers, 64)
        found, num_damaged = processes.call(decode_resized, path, numbers, 64, stop=Event())
        assert num_damaged == 0
        np.testing.assert_array_equal(np.stack(found), np.stack(expected))


def test_a_loader_gives_the_same_batches(paths: list[Path]) -> None:
    rows = rows_of(paths[:3]) * 4
    config = LoaderConfig(spec=SMALL, batch_size=5, values="uint8")
    few, many = DaliLoader(rows, config, num_threads=1), DaliLoader(rows, config, num_threads=MANY)
    for _ in range(2):
        for one, other in zip(few, many, strict=True):
            assert torch.equal(one.clips, other.clips)
            assert torch.equal(one.ids, other.ids)
    assert many.report.read_by == few.report.read_by


def test_windows_are_the_same_and_a_broken_file_is_named(paths: list[Path]) -> None:
    loaders = [
        WindowLoader(
            [*paths, *paths], SMALL, window_s=0.6, stride_s=0.4, batch_size=2, num_threads=number,
            known=lambda path: 1,
        )
        for number in (1, MANY)
    ]  # fmt: skip
    for one, other in zip(*loaders, strict=True):
        assert one.windows == other.windows
        assert torch.equal(one.clips, other.clips)
    few, many = (loader.report for loader in loaders)
    assert many.failures == few.failures
    assert list(many.failures) == [paths[-1]]


def test_errors_name_the_file_and_the_process_goes_on(tmp_path: Path) -> None:
    processes = DecodeProcesses(1)
    before = next(iter(processes.iterate(count_forever, tmp_path, stop=Event())))
    with pytest.raises(VideoError, match="as expected") as error:
        processes.call(fail, tmp_path / "clip.avi", stop=Event())
    assert error.value.path == tmp_path / "clip.avi"
    wait_until_dead(before)  # an iteration that wasn't finished ends its process


def test_a_crash_is_an_error_of_the_file_and_others_go_on(
    tmp_path: Path, paths: list[Path]
) -> None:
    processes = DecodeProcesses(1)
    with pytest.raises(VideoError, match=r"clip\.avi: it crashed the decoder"):
        processes.call(crash, tmp_path / "clip.avi", stop=Event())
    frames, _ = processes.call(decode_resized, paths[0], np.arange(2), 64, stop=Event())
    assert len(frames) == 2


def test_what_hangs_is_killed_when_it_is_stopped(tmp_path: Path) -> None:
    processes, stop, started = DecodeProcesses(1), Event(), tmp_path / "started"
    Timer(0.5, stop.set).start()
    with pytest.raises(Stopped):
        processes.call(hang, tmp_path, str(started), stop=stop)
    if started.exists():  # it is stopped early on a busy machine
        wait_until_dead(int(started.read_text()))


def test_idle_processes_end_with_their_loader(tmp_path: Path) -> None:
    processes = DecodeProcesses(2)
    process = processes.call(_process_of, tmp_path, stop=Event())
    assert is_alive(process)
    del processes
    gc.collect()
    wait_until_dead(process)


def _process_of(path: Path) -> int:
    return os.getpid()


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from threading import Event\n"
        "from dali_pipelines.loaders.decode_processes import DecodeProcesses\n"
        "from test_dali_pipelines_decode_processes import _process_of\n"
        "processes = DecodeProcesses(2)\n"
        "print(processes.call(_process_of, Path(), stop=Event()), flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )  # fmt: skip
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert is_alive(worker)
    parent.kill()
    parent.wait()
    wait_until_dead(worker)
