"""The steps of `engine demo`; each runs a command of `engine` in a separate process."""

import shlex
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from engine.demo.page import Step
from engine.progress import clock

CLASSES = 8
STOP_WITHIN_S = 20.0
"""Seconds that an interrupted step may take to end."""


def run(out: Path, *, clips_per_class: int, epochs: int) -> Path:
    """Run all steps in `out` and return the page with the results.

    Raises:
        RefusedError: A step failed.
    """
    from engine.data import synthetic
    from engine.demo import page
    from trt.probe import this_gpu

    show = _Show(total=7)
    data, run, fast = out / "set", out / "run", out / "fast"
    show.step(
        f"Draw {CLASSES} motions that can't be told apart by a single frame",
        ["data", "synth", data, "--classes", CLASSES, "--clips-per-class", clips_per_class],
    )
    show.step(
        "Split the clips by source, so that train and test share no source",
        ["data", "split", data, "--scheme", "grouped"],
    )
    show.step(
        "Train a small TimeSformer from scratch",
        ["train", "--data", data, "--model", "timesformer", "--preset", "small", "--epochs",
         epochs, "--cache", out / "cache", "--out", run],
    )  # fmt: skip
    show.step("Evaluate it on clips from unseen sources", ["evaluate", run])
    precision = "int8" if this_gpu() is None else "bf16"
    compiled = show.step(
        f"Compile it in {precision}, and check that held-out clips get the same labels",
        ["compile", run, "--precision", precision, "--out", fast],
        may_end=(0, 3),
    )
    models = [run] if compiled == 3 else [run, fast]
    show.step(
        "Measure the speed from files to labels, against plain PyTorch and Hugging Face",
        ["bench", *models, "--against", "torch,hf", "--repeats", 3, "--seconds", 2,
         "--out", out / "bench"],
    )  # fmt: skip
    videos = out / "videos"
    film = synthetic.make_folder(videos, num_classes=CLASSES)
    show.step(
        "Label new videos, among them a long film and a broken file",
        ["label", videos, "--model", models[-1], "--window", 3, "--stride", 0.5, "--segments",
         out / "segments.csv", "--vtt", out / "subtitles", "--out", out / "labels.jsonl"],
        may_end=(0, 1),
    )  # fmt: skip
    return page.write(out, show.steps, models[-1], film)


class _Show:
    """Runs steps and prints the progress."""

    def __init__(self, total: int) -> None:
        self.steps: list[Step] = []
        self._total = total
        self._started = time.monotonic()

    def step(self, title: str, arguments: list[object], *, may_end: Collection[int] = (0,)) -> int:
        """Run a command and return its exit code; raises RefusedError if not in `may_end`."""
        from engine.errors import RefusedError

        words = list(map(str, arguments))
        command = shlex.join(["engine", *words])
        number = len(self.steps) + 1
        elapsed = clock(time.monotonic() - self._started)
        print(f"\n[{number} of {self._total}, {elapsed}] {title}\n$ {command}", flush=True)
        started = time.monotonic()
        status = _run([sys.executable, "-m", "engine", *words])
        seconds = time.monotonic() - started
        if status not in may_end:
            raise RefusedError(f"the demo failed: `{command}` ended with exit code {status}.")
        self.steps.append(Step(title=title, command=command, seconds=seconds, status=status))
        return status


def _run(command: list[str]) -> int:
    """Run a command; on Ctrl-C, wait until it has cleaned up."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except BaseException:
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
