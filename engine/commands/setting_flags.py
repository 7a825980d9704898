"""Settings on the command line as KEY=VALUE, for example `--set lr=0.001`."""

from typing import Any


def setting(text: str) -> tuple[str, Any]:
    """Parse KEY=VALUE; the value is TOML, and a bare word is a string."""
    import tomllib

    from engine.errors import UserError

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text!r} is not a setting: write KEY=VALUE, for example lr=0.001.")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
    except (ValueError, RecursionError) as error:  # too many digits, or too many brackets
        raise UserError(f"the value of {key} can't be read ({error}).") from error


def nested(settings: list[tuple[str, Any]]) -> dict[str, Any]:
    """Turn dotted keys into nested tables: options.recurrence.hidden=5."""
    from engine.training.recipe import merge

    nested: dict[str, Any] = {}
    for key, value in settings:
        for name in reversed(key.split(".", 2)):
            value = {name: value}
        nested = merge(nested, value)
    return nested
