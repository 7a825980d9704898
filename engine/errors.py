"""What a command may end with. cli.py alone catches these, and prints one sentence."""

from dali_pipelines.errors import unknown_words


class UserError(Exception):
    """Something that the user can mend; the message names the thing and the mend."""

    exit_code = 2


class RefusedError(UserError):
    """A gate or the environment said no, though the input was right."""

    exit_code = 3


def unknown_name(kind: str, name: str, choices: list[str]) -> UserError:
    """The error for a misspelt name: all choices, and the nearest one."""
    return UserError(f"{unknown_words(kind, name, choices)}.")
