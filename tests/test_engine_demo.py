"""`engine demo`, small: everything it promises is run for real; only how much is learned isn't."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipelines.decode import clip_file
from engine.data import synthetic
from engine.data.synthetic_video import FILM_PART_S


@pytest.mark.slow
def test_the_demo_goes_all_the_way_and_leaves_one_page(run_engine: Any, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = run_engine("demo", "--out", out, "--clips-per-class", 10, "--epochs", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[7 of 7" in done.stdout
    assert str(out / "index.html") in done.stdout
    assert "engine data index my_videos" in done.stdout.split("Next, your own videos")[1]

    page = (out / "index.html").read_text()
    for command in ("data synth", "data split", "train", "evaluate", "compile", "bench", "label"):
        assert f"engine {command}" in page
    for picture in ("confusion matrix", "clips/s against accuracy", "frames"):
        assert re.search(rf'<img alt="{picture}" src="data:image/', page)
    assert "broken.avi" in page  # with the reason
    for link in re.findall(r'href="([^"]*)"', page):
        assert (out / link).is_file()

    (measured,) = (out / "bench").glob("*.json")
    rows = {row["name"]: row for row in json.loads(measured.read_text())["rows"]}
    assert {"run", "torch", "hf"} <= rows.keys()
    assert not [row for row in rows.values() if "error" in row]
    labelled = [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]
    assert len(labelled) == 9
    again = run_engine("demo", "--out", out)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_ctrl_c_ends_the_demo_and_its_step(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with subprocess.Popen(
        [sys.executable, "-m", "engine", "demo", "--out", out],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        while "[1 of 7" not in process.stdout.readline():
            assert process.poll() is None
        process.stdout.readline()  # the command; now it starts
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=900)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not (out / "set").exists()


def test_new_videos_hold_a_film_and_a_broken_file(tmp_path: Path) -> None:
    film = synthetic.make_folder(tmp_path / "new", num_classes=3)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {
        "move_left.avi",
        "move_right.avi",
        "turn_clockwise.avi",
        "broken.avi",
        film.name,
    }
    facts = clip_file.probe(tmp_path / "new" / film.name)
    assert np.isclose(facts.frames / facts.fps, 3 * FILM_PART_S)
    with pytest.raises(Exception, match="broken"):
        clip_file.probe(tmp_path / "new" / "broken.avi")
