"""`engine label`, for real: processes that are killed, files that are broken, shards, lists."""

import contextlib
import csv
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import videos
from waiting import wait_for

from dali_pipelines.errors import VideoError
from dali_pipelines.loaders import windows
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.loaders.windows import plan_windows
from dali_pipelines.spec import ClipSpec
from engine import cli

KILLS = 8


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_folder_is_labelled_and_bad_files_are_named(undisturbed: Any, films: Path) -> None:
    out, result = undisturbed
    assert result.returncode == 1, result.stderr
    rows = {row["path"]: row for row in read(out)}
    assert len(rows) == 21
    assert list(rows) == sorted(rows)
    assert {row["label"] for row in rows.values()} > {"wave"} or len(rows) > 1
    assert rows["long.mp4"]["windows"] == "50"
    assert rows["long.mp4"]["duration_s"] == "50.000"
    failures = {row["path"]: row["reason"] for row in read(out.with_name("failures-labels.csv"))}
    assert set(failures) == {"broken.mp4", "cut.mp4", "empty.avi"}
    assert "empty" in failures["empty.avi"]
    assert "21 files labelled" in result.stdout
    assert "3 failed: see" in result.stdout
    spans = [row for row in read(out.with_name("segments.csv")) if row["path"] == "long.mp4"]
    assert (float(spans[0]["start_s"]), float(spans[-1]["end_s"])) == (0, 50)
    assert (out.with_name("vtt") / "long.vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 -->")


@pytest.mark.slow
def test_again_nothing_is_done_twice_and_what_changed_is_redone(
    undisturbed: Any, run: Path, films: Path, run_engine: Any
) -> None:
    out, _ = undisturbed
    before = out.read_bytes()
    words = ("label", films, "--model", run, "--out", out, "--window", 1, "--batch-size", 2)
    again = run_engine(*words)
    assert "0 files labelled" in again.stdout
    assert "24 were labelled before" in again.stdout
    assert out.read_bytes() == before
    os.utime(films / "long.mp4", (1, 1))
    redone = run_engine(*words)
    assert "1 files labelled (50 windows)" in redone.stdout
    assert out.read_bytes() == before
    other = run_engine(*words, "--window", 2)
    assert other.returncode == 2
    assert "made with window 1.0, not 2.0: pass --fresh" in other.stderr


@pytest.mark.slow
def test_killed_at_random_moments_it_loses_and_repeats_nothing(
    undisturbed: Any, run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    """At most the batch in flight is done again, and the end is the same to the byte."""
    expected, _ = undisturbed
    out = tmp_path / "labels.csv"
    words = [
        "label", films, "--model", run, "--out", out, "--window", 1, "--batch-size", 2,
        "--segments", tmp_path / "segments.csv",
    ]  # fmt: skip
    rng = random.Random(0)
    counted = [0]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    for _ in range(KILLS):
        process = context.Process(target=run_main, args=(words,))
        process.start()
        goal = counted[-1] + rng.randint(1, 2)
        while process.is_alive() and windows_in(out) < goal:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.join()
        counted.append(windows_in(out))
        if process.exitcode != -signal.SIGKILL:
            break  # it was done before the kill
    print(counted)
    assert counted == sorted(counted)
    result = run_engine(*words)
    assert result.returncode == 1, result.stderr
    assert out.read_bytes() == expected.read_bytes()
    for name in ("segments.csv", "failures-labels.csv"):
        assert (tmp_path / name).read_bytes() == expected.with_name(name).read_bytes()


PRELOADED = [
    "torch", "timm", "transformers", "engine.cli", "engine.labelling.job",
    "engine.predictor", "engine.labelling.label", "engine.training.checkpoint",
]  # fmt: skip
"""Loaded once and not for each process that is killed."""


def run_main(words: list[Any]) -> None:
    sys.argv = ["engine", *map(str, words)]
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        cli.main()


def windows_in(out: Path) -> int:
    """What the journal holds; it is read from a copy, since one process alone may open it."""
    journal = out.with_name(f"{out.name}.journal")
    try:
        copies = {}
        for end in ("", "-wal"):
            path = Path(f"{journal}{end}")
            copies[end] = path.read_bytes() if path.exists() else None
        folder = out.parent / "look"
        folder.mkdir(exist_ok=True)
        for end, data in copies.items():
            target = folder / f"j{end}"
            target.unlink(missing_ok=True)
            if data is not None:
                target.write_bytes(data)
        (folder / "j-shm").unlink(missing_ok=True)
        base = sqlite3.connect(folder / "j")
        try:
            return int(base.execute("SELECT count(*) FROM windows").fetchone()[0])
        finally:
            base.close()
    except (sqlite3.DatabaseError, OSError):
        return 0


@pytest.mark.slow
def test_shards_join_to_the_bytes_of_one_run(
    undisturbed: Any, run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    expected, _ = undisturbed
    for number in (1, 2):
        result = run_engine(
            "label", films, "--model", run, "--out", tmp_path / f"labels-{number}.csv",
            "--window", 1, "--batch-size", 2, "--shard", f"{number}/2",
        )  # fmt: skip
        assert result.returncode in (0, 1), result.stderr
    joined = tmp_path / "labels.csv"
    result = run_engine(
        "label", "--merge", tmp_path / "labels-1.csv", tmp_path / "labels-2.csv", "--out", joined
    )
    assert result.returncode == 1, result.stderr
    assert joined.read_bytes() == expected.read_bytes()
    name = "failures-labels.csv"
    assert (tmp_path / name).read_bytes() == expected.with_name(name).read_bytes()


@pytest.mark.slow
def test_a_list_on_standard_input_and_a_dry_run(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    names = [str(films / "long.mp4"), "nowhere.mp4"]
    command = [
        sys.executable, "-m", "engine", "label", "-", "--list", "--model", str(run),
        "--out", str(tmp_path / "labels.jsonl"),
    ]  # fmt: skip
    result = subprocess.run(command, input="\n".join(names), text=True, capture_output=True)
    assert result.returncode == 1, result.stderr
    assert "there is no such file" in (tmp_path / "failures-labels.jsonl.csv").read_text()
    dry = run_engine("label", films, "--model", run, "--dry-run", "--include", "day0/*")
    assert dry.returncode == 0
    assert "7 to label; 0 of 7 are done" in dry.stdout


@pytest.mark.slow
def test_a_folder_is_watched_until_ctrl_c(run: Path, tmp_path: Path, films: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "labels.csv"
    root.mkdir()
    (root / "a.mp4").write_bytes((films / "long.mp4").read_bytes())
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "import sys; from engine.cli import main; sys.argv[0] = 'engine'; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "label", str(root), "--model", str(run), "--out", str(out),
         "--watch"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: out.exists())
        arrived = root / "b.mp4"
        arrived.write_bytes((films / "long.mp4").read_bytes())
        os.utime(arrived, (1, 1))  # long ago: it has settled
        wait_for(lambda: len(read(out)) == 2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert [row["path"] for row in read(out)] == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{films}",), "a run or an artifact with --model"),
        (("{films}/long.mp4", "--model", "{run}"), "is a file: name a folder"),
        (("{films}/none", "--model", "{run}"), "is not a folder"),
        (("{films}", "--model", "{run}", "--out", "labels.txt"), "name a --format"),
        (("{films}", "--model", "{run}", "--shard", "3/2"), "--shard takes i/n"),
        (("{films}", "--model", "{run}", "--stride", "1"), "--stride needs --window"),
        (("{films}", "--window", "0"), "--window takes seconds above 0, as in --window 2, not 0"),
        (("{films}", "--window", "-1"), "--window takes seconds above 0"),
        (("{films}", "--window", "nan"), "not nan"),
        (("{films}", "--window", "inf"), "not inf"),
        (("{films}", "--window", "2", "--stride", "0"), "--stride takes seconds above 0"),
        (("{films}", "--smooth", "-1"), "--smooth takes seconds from 0 up, not -1"),
        (("{films}", "--smooth", "nan"), "--smooth takes seconds from 0 up"),
        (
            ("{films}", "--min-confidence", "2"),
            "--min-confidence takes a fraction from 0 to 1, not 2",
        ),
        (("{films}", "--min-confidence", "nan"), "--min-confidence takes a fraction"),
        (("{films}", "--timeout", "nan"), "--timeout takes seconds from 1 up, not nan"),
        (("--merge", "{films}/a.csv"), "name results of `engine label`"),
        (
            ("{films}", "--model", "{run}", "--out", "a.csv", "--segments", "./a.csv"),
            "overwritten",
        ),
        (("{films}", "--model", "{run}", "--segments", "labels.csv.journal"), "overwritten"),
        (("{films}", "--model", "{run}", "--out", "x.mp4", "--format", "csv"), "name of a video"),
    ],
)
@pytest.mark.slow
def test_what_label_says_to_wrong_words(
    words: tuple[str, ...],
    message: str,
    run: Path,
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_engine: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_engine("label", *(each.format(run=run, films=films) for each in words))
    assert result.returncode == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_picture_of_absurd_size_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "huge.y4m"
    path.write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1 Ip C420jpeg\nFRAME\n" + b"x" * 1000)
    with pytest.raises(VideoError, match=r"claims a frame size of|can't be opened"):
        plan_windows(path, window_s=1)


def test_a_video_that_claims_to_last_for_years_is_refused(tmp_path: Path) -> None:
    path = videos.write_video(
        tmp_path / "years.mkv", codec="h264", frames=3, pts=[0, 1000, 2_000_000_000]
    )
    with pytest.raises(VideoError, match="claims to last"):
        plan_windows(path, window_s=1)


@pytest.mark.slow
def test_a_reader_that_hangs_is_given_up_and_the_rest_goes_on(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hang inside a decoder can't be made at will: here planning the windows hangs."""
    import torch  # noqa: F401  not within the time limit

    sound = films / "long.mp4"
    hangs = Path(shutil.copy(sound, tmp_path / "hangs.mp4"))
    plan = windows.plan_windows

    def hang(path: Path, **more: Any) -> Any:
        if path == hangs:
            time.sleep(30)
        return plan(path, **more)

    monkeypatch.setattr(windows, "plan_windows", hang)
    spec = ClipSpec(num_frames=4, resize=72, crop=64)
    loader = WindowLoader([hangs, sound], spec, window_s=10, timeout_s=0.5, num_threads=2)
    assert sum(len(batch.windows) for batch in loader) == 5
    assert loader.report.failures == {hangs: "it gave no frame for 0.5 s"}
