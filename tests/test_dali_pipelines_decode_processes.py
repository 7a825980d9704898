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
from typing import Any

import numpy as np
import pytest
import torch
import videos
from rows import SMALL, rows_of
from waiting import wait_for

from dali_pipelines.decode.pixels import decode_resized
from dali_pipelines.errors import Stopped, VideoError
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.decode_processes import MAX_THREADS, DecodeProcesses
from dali_pipelines.loaders.loader_config import LoaderConfig
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.loaders.windows import WindowRange

MANY = MAX_THREADS + 1
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    kinds = [("h264", "mp4"), ("mpeg4", "avi"), ("vp9", "webm")]
    written = [
        videos.write_video(folder / f"{codec}.{suffix}", codec=codec, frames=40 + number)
        for number, (codec, suffix) in enumerate(kinds)
    ]
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    return [*written, broken]


class Refusal(Exception):
    """Can be sent but not received."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def process_of(path: Path) -> int:
    return os.getpid()


def text_of(path: Path) -> str:
    return path.read_text()


def crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(600)


def count(path: Path) -> Iterator[Any]:
    """Arrays, whose number is kept in a file."""
    for number in range(1000):
        path.write_text(f"{number + 1}")
        yield np.full(1000, number)


def fail(path: Path, kind: str) -> None:
    if kind == "refusal":
        raise Refusal("one", "other")
    raise {"video": VideoError(path, "as expected"), "end": EOFError("of the file")}[kind]


def wait_until_dead(process: int) -> None:
    wait_for(lambda: _state(process) in ("", "Z"))


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""


def num_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


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
            [WindowRange(path, 1, 4) for path in (*paths, *paths)], SMALL,
            window_s=0.6, stride_s=0.4, batch_size=2, num_threads=number,
        )
        for number in (1, MANY)
    ]  # fmt: skip
    for one, other in zip(*loaders, strict=True):
        assert one.windows == other.windows
        assert torch.equal(one.clips, other.clips)
    few, many = (loader.report for loader in loaders)
    assert many.failures == few.failures
    assert list(many.failures) == [paths[-1]]


def test_a_worker_is_no_more_than_an_item_ahead(tmp_path: Path) -> None:
    produced = tmp_path / "produced"
    items = DecodeProcesses(1).iterate(count, produced, stop=Event())
    num_open = num_descriptors()
    kept = [next(items) for _ in range(100)]
    time.sleep(0.3)
    assert int(produced.read_text()) <= 102
    assert [int(item[0]) for item in kept] == list(range(100))  # later items overwrite none
    assert num_descriptors() <= num_open + 8  # those of the worker


def test_errors_are_those_of_the_function(tmp_path: Path) -> None:
    processes, stop = DecodeProcesses(1), Event()
    worker = processes.call(process_of, tmp_path, stop=stop)
    with pytest.raises(VideoError, match="as expected") as error:
        processes.call(fail, tmp_path / "clip.avi", "video", stop=stop)
    assert error.value.path == tmp_path / "clip.avi"
    with pytest.raises(EOFError, match="of the file"):
        processes.call(fail, tmp_path, "end", stop=stop)
    with pytest.raises(RuntimeError, match="Refusal: one and other"):
        processes.call(fail, tmp_path, "refusal", stop=stop)
    assert processes.call(process_of, tmp_path, stop=stop) == worker


@pytest.mark.slow
def test_a_crash_is_an_error_of_the_file_and_others_go_on(
    tmp_path: Path, paths: list[Path]
) -> None:
    processes = DecodeProcesses(1)
    for _ in range(2):  # by a new worker, and by one that was used
        with pytest.raises(VideoError, match=r"clip\.avi: it crashed the decoder"):
            processes.call(crash, tmp_path / "clip.avi", stop=Event())
        frames, _ = processes.call(decode_resized, paths[0], np.arange(2), 64, stop=Event())
        assert len(frames) == 2


@pytest.mark.slow
def test_a_worker_that_ended_while_idle_is_replaced(tmp_path: Path) -> None:
    processes = DecodeProcesses(1)
    idle = processes.call(process_of, tmp_path, stop=Event())
    os.kill(idle, signal.SIGKILL)
    wait_until_dead(idle)
    assert processes.call(process_of, tmp_path, stop=Event()) != idle


def test_signals_that_end_a_job_leave_it_to_the_one_that_decides(tmp_path: Path) -> None:
    processes = DecodeProcesses(1)
    worker = processes.call(process_of, tmp_path, stop=Event())
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker, number)
    assert processes.call(process_of, tmp_path, stop=Event()) == worker


def test_a_relative_path_is_that_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = DecodeProcesses(1)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clip.txt").write_text(name)
        monkeypatch.chdir(tmp_path / name)
        assert processes.call(text_of, Path("clip.txt"), stop=Event()) == name


@pytest.mark.slow
def test_what_hangs_is_killed_when_it_is_stopped(tmp_path: Path) -> None:
    processes, stop, started = DecodeProcesses(1), Event(), tmp_path / "started"
    processes.call(process_of, tmp_path, stop=stop)  # so that it has started
    Timer(1, stop.set).start()
    with pytest.raises(Stopped):
        processes.call(hang, started, stop=stop)
    wait_until_dead(int(started.read_text()))


def test_idle_processes_end_with_their_loader(tmp_path: Path) -> None:
    processes = DecodeProcesses(2)
    process = processes.call(process_of, tmp_path, stop=Event())
    assert Path(f"/proc/{process}").exists()
    del processes
    gc.collect()
    wait_until_dead(process)


@pytest.mark.slow
def test_a_fork_leaves_the_processes_of_its_parent_alone(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from threading import Event\n"
        "from dali_pipelines.loaders.decode_processes import DecodeProcesses\n"
        "from test_dali_pipelines_decode_processes import process_of\n"
        "processes = DecodeProcesses(1)\n"
        "before = processes.call(process_of, Path(), stop=Event())\n"
        "if os.fork() == 0:\n"
        "    assert processes.call(process_of, Path(), stop=Event()) != before\n"
        "    sys.exit()\n"
        "assert os.wait()[1] == 0\n"
        "assert processes.call(process_of, Path(), stop=Event()) == before\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("end", ["exit", "SIGKILL"])
def test_a_hanging_process_ends_with_its_parent(end: str, tmp_path: Path) -> None:
    """The parent's folder holds a module that must not be imported."""
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong module')")
    script = tmp_path / "scripts" / "parent.py"
    script.parent.mkdir()
    script.write_text(
        "import sys, time; from pathlib import Path; from threading import Event, Thread\n"
        "from dali_pipelines.loaders.decode_processes import DecodeProcesses\n"
        "from test_dali_pipelines_decode_processes import hang\n"
        "processes, started = DecodeProcesses(1), Path('started')\n"
        "call = lambda: processes.call(hang, started, stop=Event())\n"
        "Thread(target=call, daemon=True).start()\n"
        "while not started.exists() or not started.read_text(): time.sleep(0.05)\n"
        "print('hangs', flush=True)\n"
        "if sys.argv[1] != 'exit': time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script), end], stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env=_environment(),
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stdout.readline() == "hangs\n"
    if end != "exit":
        parent.send_signal(signal.Signals[end])
    assert parent.stdout.read() == ""  # no process holds it open
    parent.wait()
    wait_until_dead(int((tmp_path / "started").read_text()))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
