"""Ctrl-C: an exception of its own, and how a training is stopped between two steps."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.training.loop import Trainer

INTERRUPTED = 130
"""The exit code, as shells have it."""


class Interrupted(BaseException):
    """Ctrl-C; typer would turn a KeyboardInterrupt into a silent exit."""


def raise_interrupted(signum: int, frame: FrameType | None) -> None:
    raise Interrupted


def stop_kindly(trainer: "Trainer") -> None:
    """The first Ctrl-C, or a cluster's SIGTERM, ends the run after a step; the second at once."""
    owner = os.getpid()

    def ask(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a loader's worker; the run ends it
        if trainer.stop_asked:
            raise Interrupted
        trainer.stop()
        words = "stopping after this step; once more to stop at once"
        with suppress(OSError):  # nobody reads it
            try:
                trainer.display.log(words)
            except RuntimeError:  # the signal came while a line was being written
                os.write(sys.stderr.fileno(), f"{words}\n".encode())

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
