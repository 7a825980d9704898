"""Runs one step, which ends with a value, a reason why it can't run here, or an error."""

import importlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LAST_LINES = 20
MIN_S = 0.5
"""Shortest duration of a timing."""


class Skipped(Exception):
    """A step can't run here; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Context:
    rehearse: bool = False
    """Run on the CPU, as small as possible."""
    clips: tuple[Path, ...] = ()
    """Folders of real videos."""

    @property
    def gpu(self) -> int | None:
        return None if self.rehearse else 0

    @property
    def device(self) -> str:
        """Value of `--device`."""
        return "cpu" if self.rehearse else "gpu"

    @property
    def min_s(self) -> float:
        return 0.0 if self.rehearse else MIN_S


Step = Callable[[Context], Any]


def run(step: Step, context: Context) -> dict[str, Any]:
    """Run a step and describe how it ended."""
    try:
        _require_gpu(context)
        return {"value": step(context), "machine": _machine()}
    except Skipped as reason:
        return {"skipped": str(reason)}
    except ModuleNotFoundError as error:
        return {"skipped": f"{error.name} is not installed"}
    except Exception:
        return {"error": traceback.format_exc()}


def _require_gpu(context: Context) -> None:
    if context.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    import torch

    if not torch.cuda.is_available():
        raise Skipped("torch finds no NVIDIA GPU here")


def _machine() -> dict[str, Any]:
    from benchmarks.machine import fingerprint

    return fingerprint()


def engine(*arguments: object) -> str:
    """Run a command of `engine` and return its output; an error holds the output, too."""
    command = [sys.executable, "-m", "engine", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if ended.returncode:
        raise failure(f"engine {arguments[0]}", ended.stdout + ended.stderr)
    return ended.stdout


def failure(command: str, output: str) -> Exception:
    """The error for a command that failed; a missing package is a reason to skip the step."""
    lines = output.splitlines()[-LAST_LINES:]
    missing = [line for line in lines if line.startswith("ModuleNotFoundError")]
    return (
        Skipped(missing[0]) if missing else RuntimeError("\n".join([f"{command} failed:", *lines]))
    )


def helper_of_tests(name: str) -> Any:
    """A module of the tests that writes videos."""
    sys.path.insert(0, str(ROOT / "tests"))
    return importlib.import_module(name)
