"""`engine serve --replicas`: the same answers from a Ray cluster, of which a replica is killed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import videos
from app_server import free_port
from waiting import wait_for

import engine
from engine.client import Client, ServerError


def replicas() -> set[int]:
    """Processes of replicas of this test, by Ray's names for them."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return {int(each) for each in re.findall(r"(\d+) ray::ServeReplica:engine", listed.stdout)}


@pytest.mark.slow
def test_replicas_answer_alike_and_a_killed_one_is_replaced(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="needs Ray Serve: pip install -e '.[cluster]'")
    clip = tmp_path / "clip.mp4"
    videos.write_video(clip, codec="h264", size=(96, 72), frames=20, draw=videos.noise(1))
    expected = engine.load(run).predict(clip)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "serve", str(run), "--replicas", "2", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # as users start it: the line must come through a pipe without this setting
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip
    try:
        assert process.stdout
        lines = []
        while "serving" not in (line := process.stdout.readline()):
            lines.append(line)
            assert line, lines
        client = Client(f"http://127.0.0.1:{port}", retries=30)
        assert client.predict(clip)["label"] == expected.label
        first = replicas()
        assert len(first) == 2
        os.kill(min(first), signal.SIGKILL)
        failures = []
        for _ in range(20):
            try:
                answer = client.predict(clip)
            except ServerError as error:  # the request that was in the killed replica
                failures.append(error.status)
                continue
            assert answer["label"] == expected.label
            assert answer["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
        assert set(failures) <= {500}
        wait_for(lambda: len(replicas() - first) == 1)
        assert client.predict(clip)["label"] == expected.label
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    finally:
        process.kill()
