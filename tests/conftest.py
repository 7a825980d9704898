"""Fixtures that several test files share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from engine.data import synthetic

# Tests run side by side, one process a core; more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
def run_engine() -> RunEngine:
    """Runs the command line in a process of its own."""

    def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "engine", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, "COLUMNS": "200", **(env or {})},
        )

    return run


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
