"""Of what the labels of a journal are, and by what they were made: which facts go together."""

from typing import Any

MIXABLE = ("model", "root", "include", "exclude")
"""Facts that may differ from before with `mix`."""


def differing(known: dict[str, Any], facts: dict[str, Any], *, mix: bool) -> list[str]:
    """Which facts two journals both know and don't share, but for what may be mixed."""
    return [
        key
        for key, value in facts.items()
        if key in known and known[key] != value and not (mix and key in MIXABLE)
    ]


def difference(key: str, known: Any, value: Any) -> str:
    """To stand behind the word `labels`."""
    if key == "model":
        return "made with another model"
    if key == "root":
        return f"of {known}, not of {value}"
    if key in ("include", "exclude"):
        return f"made {_with_flags(key, known)}, not {_with_flags(key, value)}"
    return f"made with {key} {known}, not {value}"


def _with_flags(key: str, patterns: list[str]) -> str:
    if not patterns:
        return f"without --{key}"
    return "with " + " ".join(f"--{key} {each!r}" for each in patterns)
