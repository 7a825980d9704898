"""What this package raises when the user, not the code, can mend it."""


class CompileError(Exception):
    """An input, a library or a file that won't do; the message names it and the mend."""

    exit_code = 2


class RefusedError(CompileError):
    """A gate, a digest or the machine said no."""

    exit_code = 3
