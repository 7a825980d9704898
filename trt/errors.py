"""Exceptions of this package."""


class CompileError(Exception):
    """An input, library or file can't be used. The message names it and the fix."""

    exit_code = 2


class RefusedError(CompileError):
    """A check failed: accuracy, a file's digest, or compatibility with this machine."""

    exit_code = 3
