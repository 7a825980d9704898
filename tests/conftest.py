"""Fixtures that several test files share."""

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import videos
from engine_forks import forks
from hypothesis import settings

from engine import cli
from engine.data import synthetic

# Tests run side by side, one process a core; more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest.register_assert_rewrite("rows")  # so that its asserts tell values as the tests' own do

settings.register_profile("engine", deadline=None)  # tests never judge times
settings.load_profile("engine")

RunEngine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def synth_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic dataset; read only."""
    out = tmp_path_factory.mktemp("synth") / "set"
    synthetic.make_dataset(out, num_classes=3, clips_per_class=10, seed=0)
    return out


@pytest.fixture
def synth(synth_master: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(synth_master, tmp_path / "set"))


@pytest.fixture(scope="session")
def run_engine() -> Iterator[RunEngine]:
    """Runs the command line in a process of its own."""
    start = dict(os.environ)

    def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        words, variables = list(map(str, arguments)), {**os.environ, "COLUMNS": "200"}
        changed = {name for name in variables if variables[name] != start.get(name)}
        if not env and changed <= {"COLUMNS", "PYTEST_CURRENT_TEST"}:
            return server.run(words, variables)
        return subprocess.run(
            [sys.executable, "-m", "engine", *words],
            capture_output=True,
            text=True,
            timeout=900,
            env={**variables, **(env or {})},
        )

    with forks() as server:
        yield run


@pytest.fixture
def run_engine_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line in this process, where everything is loaded already."""

    def run(*words: object, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        monkeypatch.setattr(sys, "argv", ["engine", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        before = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            signal.signal(signal.SIGINT, before)
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(words, ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def grouped_set(tmp_path_factory: pytest.TempPathFactory, run_engine: RunEngine) -> Path:
    """A synthetic dataset with 20 clips in each of 3 classes, split by source; read only."""
    root = tmp_path_factory.mktemp("grouped") / "set"
    made = run_engine("data", "synth", root, "--classes", 3, "--clips-per-class", 20)
    assert made.returncode == 0, made.stderr
    assert run_engine("data", "split", root, "--scheme", "grouped").returncode == 0
    return root


@pytest.fixture(scope="session")
def on_small_disk() -> Callable[[Path, str], list[str]]:
    """Words before a command, for which a folder is a file system of so many bytes."""

    def words(folder: Path, size: str) -> list[str]:
        mount = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mount, str(folder)]

    if not shutil.which("unshare"):
        pytest.skip("there is no unshare here")
    tried = subprocess.run([*words(Path("/dev/shm"), "1m"), "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this user may not mount: {tried.stderr.strip()}")
    return words


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to label with."""
    from runs import random_run

    return random_run(tmp_path_factory.mktemp("run") / "run", ["fall", "run", "wave"])


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short ones in several codecs, a long one, and some that are none."""
    root = tmp_path_factory.mktemp("films") / "films"
    codecs = ("mpeg4", "h264", "vp9", "mjpeg", "mpeg2video")
    for number in range(20):
        path = root / f"day{number % 3}" / f"clip{number:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        videos.write_video(path, codec=codecs[number % 5], frames=16, size=(96, 72),
                           draw=videos.noise(number))  # fmt: skip
    videos.write_video(
        root / "long.mp4", codec="h264", frames=1000, fps=20, size=(96, 72), draw=videos.noise(99)
    )
    (root / "broken.mp4").write_bytes(b"no video at all")
    (root / "empty.avi").touch()
    whole = next(root.glob("day1/*.mp4")).read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    return root


@pytest.fixture(scope="module")
def undisturbed(run: Path, films: Path, tmp_path_factory: pytest.TempPathFactory, run_engine: Any):
    """What one run that nobody disturbs writes."""
    out = tmp_path_factory.mktemp("out") / "labels.csv"
    result = run_engine(
        "label", films, "--model", run, "--out", out, "--window", 1, "--batch-size", 2,
        "--segments", out.with_name("segments.csv"), "--vtt", out.with_name("vtt"),
    )  # fmt: skip
    return out, result


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Is there once something was run that mustn't be."""
    return tmp_path / "harmed"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            if os.environ.get("REQUIRE_GPU") == "1":
                pytest.fail("REQUIRE_GPU=1, but torch sees no GPU")
            pytest.skip("no NVIDIA GPU here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-skipped", type=Path, help="a file for the names of skipped tests")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    path = config.getoption("--write-skipped")
    if path is not None:
        skipped = {report.nodeid for report in terminalreporter.stats.get("skipped", [])}
        path.write_text("".join(f"{name}\n" for name in sorted(skipped)))
