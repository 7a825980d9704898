"""`engine demo`: the whole way on videos that it draws, and one page that shows what came of it.

Every step is a command that users have, run in a process of its own, as they would type it.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

CLASSES = 8
LEAVE_S = 20.0
"""For how long a step that was told to stop is waited for."""
NEXT = """
Everything that was made, on one page:

  {page}

Now with your own videos, in one folder a class:

  engine data index my_videos
  engine data split my_videos --scheme grouped
  engine train --data my_videos --model timesformer --preset small --cache cache --out run
  engine label FOLDER --model run --out labels.csv
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    title: str
    command: str
    seconds: float
    status: int


def demo(
    out: Annotated[Path, typer.Option(help="New folder for all that the demo makes.")] = Path(
        "demo"
    ),
    clips_per_class: Annotated[
        int, typer.Option(min=10, help=f"Clips to draw for each of {CLASSES} classes.")
    ] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="How often training sees each clip.")] = 12,
) -> None:
    """Draw videos, train on them, compile, bench, label a folder; a few minutes without a GPU.

    What each step is for is said before it runs. The page at the end shows the accuracy, what
    was confused, clips/s beside what people use today, and the labels of new videos.

    Example: [bold]engine demo --out demo[/bold]
    """
    from engine.commands import demo_page
    from engine.data import synthetic
    from engine.errors import UserError
    from trt.probe import this_gpu

    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out} is there already: remove it, or name another folder with --out.")
    show = _Show(total=7)
    data, run, fast = out / "set", out / "run", out / "fast"
    show.step(
        f"Draw {CLASSES} kinds of motion; a single frame doesn't tell them apart",
        ["data", "synth", data, "--classes", CLASSES, "--clips-per-class", clips_per_class],
    )
    show.step(
        "Keep all clips of one source on one side, so that the test is honest",
        ["data", "split", data, "--scheme", "grouped"],
    )
    show.step(
        "Train a small TimeSformer from nothing",
        ["train", "--data", data, "--model", "timesformer", "--preset", "small", "--epochs",
         epochs, "--cache", out / "cache", "--out", run],
    )  # fmt: skip
    show.step("Test it on clips whose sources it has never seen", ["evaluate", run])
    precision = "int8" if this_gpu() is None else "bf16"
    compiled = show.step(
        f"Compile it in {precision}; kept only if held-out clips get the same labels",
        ["compile", run, "--precision", precision, "--out", fast],
        may_end=(0, 3),
    )
    models = [run] if compiled == 3 else [run, fast]
    show.step(
        "Measure files to labels, beside plain PyTorch and Hugging Face's pipeline",
        ["bench", *models, "--against", "torch,hf", "--repeats", 3, "--seconds", 2,
         "--out", out / "bench"],
    )  # fmt: skip
    videos = out / "videos"
    film = synthetic.make_folder(videos, num_classes=CLASSES)
    show.step(
        "Label new videos: a long film is among them, and a broken file",
        ["label", videos, "--model", models[-1], "--window", 3, "--stride", 0.5, "--segments",
         out / "segments.csv", "--vtt", out / "subtitles", "--out", out / "labels.jsonl"],
        may_end=(0, 1),
    )  # fmt: skip
    page = demo_page.write(out, show.steps, models[-1], film)
    print(NEXT.format(page=page.absolute()))


class _Show:
    """Runs the steps, and says where it is."""

    def __init__(self, total: int) -> None:
        self.steps: list[Step] = []
        self._total = total
        self._started = time.monotonic()

    def step(self, title: str, arguments: list[object], *, may_end: Collection[int] = (0,)) -> int:
        """The exit code, one of `may_end`."""
        from engine.errors import RefusedError

        words = list(map(str, arguments))
        command = shlex.join(["engine", *words])
        number = len(self.steps) + 1
        print(f"\n[{number} of {self._total}, {self._clock()}] {title}\n$ {command}", flush=True)
        started = time.monotonic()
        status = _run([sys.executable, "-m", "engine", *words])
        seconds = time.monotonic() - started
        if status not in may_end:
            raise RefusedError(f"the demo ends here: `{command}` ended with exit code {status}.")
        self.steps.append(Step(title=title, command=command, seconds=seconds, status=status))
        return status

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes}:{seconds:02}"


def _run(command: list[str]) -> int:
    """On Ctrl-C the step is told as well; it tidies up before this ends."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except BaseException:
            try:
                process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
