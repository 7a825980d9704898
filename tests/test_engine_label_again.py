"""`engine label` run a second time: what it keeps, refuses and replaces."""

import csv
import io
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import videos
from test_engine_label import noise, run, wait_for

from engine import cli

__all__ = ["run"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    folder = tmp_path_factory.mktemp("three") / "three"
    folder.mkdir()
    for number, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        videos.write_video(
            folder / name, codec="h264", frames=16, size=(96, 72), draw=noise(number)
        )
    return folder


@pytest.fixture
def films(three: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(three, tmp_path / "films"))


@pytest.fixture
def run_engine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
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


def paths_in(out: Path) -> list[str]:
    with out.open(newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_dry_run_changes_nothing(run: Path, films: Path, tmp_path: Path, run_engine: Any) -> None:
    out = tmp_path / "results" / "labels.csv"
    assert run_engine("label", films, "--model", run, "--out", out).returncode == 0
    before = bytes_in(out.parent)
    (films / "a.mp4").touch()
    (films / "b.mp4").unlink()
    dry = run_engine("label", films, "--model", run, "--out", out, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "a.mp4\n1 to label; 1 of 2 are done" in dry.stdout
    assert bytes_in(out.parent) == before


def test_files_that_are_away_for_a_moment_keep_their_labels(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    out, paths = tmp_path / "labels.csv", tmp_path / "paths.txt"
    paths.write_text("".join(f"{path}\n" for path in sorted(films.iterdir())))
    words = ("label", paths, "--list", "--model", run, "--out", out)
    assert run_engine(*words).returncode == 0
    before = out.read_bytes()
    (films / "b.mp4").rename(tmp_path / "b.mp4")
    away = run_engine(*words)
    assert away.returncode == 1
    assert "1 of these aren't there at the moment, and keep their labels" in away.stdout
    assert out.read_bytes() == before
    (tmp_path / "b.mp4").rename(films / "b.mp4")
    back = run_engine(*words)
    assert back.returncode == 0
    assert "0 files labelled (0 windows); 3 were done before" in back.stdout
    assert out.read_bytes() == before


def test_ctrl_c_says_that_labels_are_kept(run: Path, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "labels.csv"
    words = ["label", films, "--model", run, "--out", out, "--watch"]
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, words)], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(out.exists)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == (
        "engine: stopped; what was labelled is kept, and the same command goes on from there.\n"
    )
    assert paths_in(out) == ["a.mp4", "b.mp4", "c.mp4"]
