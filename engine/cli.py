"""The `engine` command: its subcommands, and how errors are reported."""

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from engine.commands.app import app as app_page
from engine.commands.bench import bench
from engine.commands.compile import compile_
from engine.commands.data_audit import audit
from engine.commands.data_check import check
from engine.commands.data_hmdb51 import hmdb51
from engine.commands.data_index import index
from engine.commands.data_split import split
from engine.commands.data_synth import synth
from engine.commands.demo import demo
from engine.commands.evaluate import evaluate
from engine.commands.export import triton
from engine.commands.info import info
from engine.commands.label import label
from engine.commands.serve import serve
from engine.commands.study import reproduce, study
from engine.commands.train import train
from engine.commands.watch import watch
from engine.interrupt import INTERRUPTED, Interrupted, raise_interrupted

COMMANDS: dict[str, Callable[..., None]] = {
    "info": info,
    "demo": demo,
    "train": train,
    "evaluate": evaluate,
    "compile": compile_,
    "study": study,
    "reproduce": reproduce,
    "bench": bench,
    "label": label,
    "serve": serve,
    "watch": watch,
    "app": app_page,
}
DATA_COMMANDS: dict[str, Callable[..., None]] = {
    "synth": synth,
    "hmdb51": hmdb51,
    "index": index,
    "split": split,
    "check": check,
    "audit": audit,
}
EXPORT_COMMANDS: dict[str, Callable[..., None]] = {"triton": triton}
STOPPED = {
    "train": "checkpoints and features are kept, and `engine train --out RUN --resume` continues",
    "label": "finished labels are kept, and the same command continues",
    "serve": "the server had not started",
}
"""What Ctrl-C leaves behind, by command; REMOVED for the others."""
REMOVED = "what was being written is removed"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True)
app.add_typer(data_app, name="data", help="Create, index, split, check and audit datasets.")
export_app = typer.Typer(no_args_is_help=True)
app.add_typer(export_app, name="export", help="Write compiled models for other servers.")
for name, command in COMMANDS.items():
    app.command(name)(command)
for name, command in DATA_COMMANDS.items():
    data_app.command(name)(command)
for name, command in EXPORT_COMMANDS.items():
    export_app.command(name)(command)


@app.callback()
def engine(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works in any position.")
    ] = False,
) -> None:
    """Train, compile and run video action recognition as fast as this machine allows.

    Start with [bold]engine demo[/bold], or with your own videos, one folder per class:
    [bold]engine data index FOLDER[/bold].
    """


def _run(arguments: list[str]) -> None:
    try:
        app(arguments, prog_name="engine")
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, Interrupted):  # it may have broken a lock, whose error hides it
                raise cause from error
            cause = cause.__context__
        raise


def main() -> None:
    """Run the command line. Errors are printed in one sentence; each has an exit code."""
    from engine import progress
    from engine.commands.messages import with_flags
    from engine.errors import EngineError
    from trt.errors import CompileError

    signal.signal(signal.SIGINT, raise_interrupted)
    progress.enable_progress_bars()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may not be UTF-8
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        _run(arguments)
    except (EngineError, CompileError) as error:
        if debug:
            raise
        print(f"engine: {with_flags(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted:
        if debug:
            raise
        command = next((word for word in arguments if not word.startswith("-")), "")
        print(f"engine: stopped; {STOPPED.get(command, REMOVED)}.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os._exit(1)  # the reader of a pipe has closed it
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"engine: {place}{error.strerror or error}.", file=sys.stderr)
        sys.exit(2)
