"""`engine watch` on the command line: its lines, its messages, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import videos
from streams import HttpServer, whole

KEYS = ["source", "start", "end", "time", "label", "confidence", "top", "delay", "dropped"]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    path = videos.write_video(
        folder / "film.mp4", codec="h264", frames=100, fps=25, size=(96, 72), draw=videos.noise(1)
    )
    return videos.remux(path, folder / "film.ts")


def start(*words: object, **more: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "engine", "watch", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **more,
    )  # fmt: skip


@pytest.mark.slow
def test_a_file_gives_a_line_per_window(run: Path, film: Path, run_engine) -> None:
    os.utime(film, (0, 0))
    done = run_engine("watch", film, "--model", run, "--window", 2, "--top-k", 2)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["start"], line["end"]) for line in lines] == [(n, n + 2) for n in range(3)]
    for line in lines:
        assert list(line) == KEYS
        assert line["source"] == str(film)
        assert next(iter(line["top"].items())) == (line["label"], line["confidence"])
        assert len(line["top"]) == 2
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert done.stderr.splitlines()[-1] == "engine: 3 windows labelled, 0 dropped"


@pytest.mark.slow
def test_events_are_the_changes_of_the_label(run: Path, film: Path, run_engine) -> None:
    os.utime(film, (0, 0))
    words = ("watch", film, "--model", run, "--window", 1, "--stride", 0.5)
    lines = [json.loads(line) for line in run_engine(*words).stdout.splitlines()]
    events = [json.loads(line) for line in run_engine(*words, "--events").stdout.splitlines()]
    changes = [
        line
        for number, line in enumerate(lines)
        if number == 0 or line["label"] != lines[number - 1]["label"]
    ]
    assert [(event["start"], event["label"]) for event in events] == [
        (line["start"], line["label"]) for line in changes
    ]
    assert len(changes) < len(lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/none.ts"], "none.ts: No such file or directory"),
        (["ftp://bob:secret@host/a"], "ftp://***@host/a: use a URL that starts with rtsp"),
        (["-", "-"], "a source is named twice"),
        (["-", "--hold", "2"], "--min-confidence and --hold need --events"),
        (["-", "--window", "0"], "the window must be above 0 seconds"),
    ],
)
def test_a_mistake_gets_one_sentence(
    words: list[str], message: str, run: Path, tmp_path: Path, run_engine
) -> None:
    words = [word.format(tmp=tmp_path) for word in words]
    done = run_engine("watch", *words, "--model", run)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_pipe_without_video_is_a_failure(run: Path) -> None:
    process = start("-", "--model", run, stdin=subprocess.PIPE)
    output, errors = process.communicate("no video at all", timeout=900)
    assert process.returncode == 1
    assert output == ""
    assert errors.splitlines()[-2].startswith("engine: -: ")
    assert "Traceback" not in errors


@pytest.mark.slow
def test_ctrl_c_ends_with_a_summary(run: Path, film: Path) -> None:
    with HttpServer(whole(film.read_bytes())) as server:
        url = server.url.replace("//", "//bob:secret@")
        process = start(url, "--model", run, "--window", 1)
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=900)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("engine: stopped; ")
    assert "windows labelled" in errors.splitlines()[-1]
    assert line["source"] == server.url.replace("//", "//***@")
    assert "secret" not in output + errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(run: Path, film: Path) -> None:
    with HttpServer(whole(film.read_bytes())) as server:
        process = start(server.url, "--model", run, "--window", 1)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(timeout=900)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
