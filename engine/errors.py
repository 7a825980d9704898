"""Errors of the public API; the command line prints their message, which is one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from dali_pipelines.errors import EngineError, unknown_words

__all__ = ["EngineError", "RefusedError", "UserError", "from_compiler", "unknown_name"]


class UserError(EngineError):
    """A wrong setting or file; the message names it and the fix."""


class RefusedError(UserError):
    """The input is valid, but this machine can't do it or a check of the result failed."""

    exit_code = 3


def unknown_name(kind: str, name: str, choices: list[str]) -> UserError:
    """Return the error for an unknown name, with all choices and the closest one."""
    return UserError(f"{unknown_words(kind, name, choices)}.")


@contextmanager
def from_compiler() -> Iterator[None]:
    """Convert errors of the `trt` package to UserError and RefusedError."""
    from trt import errors

    try:
        yield
    except errors.RefusedError as error:
        raise RefusedError(str(error)) from error
    except errors.CompileError as error:
        raise UserError(str(error)) from error
