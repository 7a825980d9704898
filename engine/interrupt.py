"""Handles Ctrl-C: a separate exception, and stopping a training run between two steps."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.training.loop import Trainer

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""


class Interrupted(BaseException):
    """Raised on Ctrl-C, because typer turns KeyboardInterrupt into a silent exit."""


def raise_interrupted(signum: int, frame: FrameType | None) -> None:
    raise Interrupted


def stop_kindly(trainer: "Trainer") -> None:
    """Install handlers for Ctrl-C and SIGTERM that end the training.

    The first signal stops it after the current step, the second one immediately.
    """
    owner = os.getpid()

    def request_stop(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a worker of the loader, which the trainer ends
        if trainer.stop_asked:
            raise Interrupted
        trainer.stop()
        message = "stopping after this step; press Ctrl-C again to stop now"
        with suppress(OSError):  # the output was closed
            try:
                trainer.display.log(message)
            except RuntimeError:  # the signal arrived while a line was being written
                os.write(sys.stderr.fileno(), f"{message}\n".encode())

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)
