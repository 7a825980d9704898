"""What a command may end with. cli.py alone catches these, and prints one sentence."""


class UserError(Exception):
    """Something that the user can mend; the message names the thing and the mend."""

    exit_code = 2


class RefusedError(UserError):
    """A gate or the environment said no, though the input was right."""

    exit_code = 3


def unknown_name(kind: str, name: str, choices: list[str]) -> UserError:
    """The error for a misspelt name: all choices, and the nearest one."""
    import difflib

    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint} Choose from: {', '.join(choices)}.")
