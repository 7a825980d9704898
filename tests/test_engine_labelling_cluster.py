"""Labelling on a Ray cluster: here one of two local workers, of which one is killed midway."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing(
    undisturbed: Any, run: Path, films: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install -e '.[cluster]'")
    expected, _ = undisturbed
    out = tmp_path / "labels.csv"
    command = [
        sys.executable, "-m", "engine", "label", films, "--model", run, "--out", out,
        "--window", 1, "--batch-size", 2, "--cluster", "--workers", 2, "--device", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    killed = kill_a_worker(process)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 1, errors
    assert killed, output
    assert out.read_bytes() == expected.read_bytes()
    name = "failures-labels.csv"
    assert out.with_name(name).read_bytes() == expected.with_name(name).read_bytes()


def kill_a_worker(process: "subprocess.Popen[str]") -> bool:
    """As soon as one is at work; Ray names its processes after what they run."""
    while process.poll() is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if words.startswith(b"ray::") and b"Labeller" in words and b"submit" in words:
                os.kill(int(path.parent.name), signal.SIGKILL)
                return True
        time.sleep(0.05)
    return False
