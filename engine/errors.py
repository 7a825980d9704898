"""Errors of the public API. On the command line cli.py prints their message, one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from dali_pipelines.errors import EngineError, unknown_words

__all__ = ["EngineError", "RefusedError", "UserError", "from_compiler", "unknown_name"]


class UserError(EngineError):
    """A wrong setting or file; the message names it and says what to do."""


class RefusedError(UserError):
    """The input is right, but this machine or a check of the result doesn't allow it."""

    exit_code = 3


def unknown_name(kind: str, name: str, choices: list[str]) -> UserError:
    """The error for a misspelled name: all choices, and the nearest one."""
    return UserError(f"{unknown_words(kind, name, choices)}.")


@contextmanager
def from_compiler() -> Iterator[None]:
    """Raise the errors of the compilers (trt) as ours."""
    from trt import errors

    try:
        yield
    except errors.RefusedError as error:
        raise RefusedError(str(error)) from error
    except errors.CompileError as error:
        raise UserError(str(error)) from error
