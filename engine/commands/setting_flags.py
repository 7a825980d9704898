"""Settings on the command line: KEY=VALUE, as in `--set lr=0.001`."""

from typing import Any


def setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE as TOML reads it; a bare word is a text."""
    import tomllib

    from engine.errors import UserError

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text!r} is no setting; write KEY=VALUE, lr=0.001 say.")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
    except (ValueError, RecursionError) as error:  # too many digits, or too many brackets
        raise UserError(f"the value of {key} can't be read ({error}).") from error


def nested(settings: list[tuple[str, Any]]) -> dict[str, Any]:
    """options.recurrence.hidden = 5 belongs into a table in a table; none lies deeper."""
    from engine.training.recipe import merge

    nested: dict[str, Any] = {}
    for key, value in settings:
        for name in reversed(key.split(".", 2)):
            value = {name: value}
        nested = merge(nested, value)
    return nested
