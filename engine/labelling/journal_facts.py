"""Compares the facts of journals: which videos were labelled, with which model and settings."""

from typing import Any

MIXABLE = ("model", "root", "include", "exclude", "decoder")
"""Facts that may differ with `mix`."""


def differing(known: dict[str, Any], facts: dict[str, Any], *, mix: bool) -> list[str]:
    """Keys of facts that both journals have with different values, except what may be mixed."""
    return [
        key
        for key, value in facts.items()
        if key in known and known[key] != value and not (mix and key in MIXABLE)
    ]


def difference(key: str, known: Any, value: Any) -> str:
    """Describe a difference, as a phrase that follows the word `labels`."""
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
    return "with " + " ".join(f"--{key} {pattern!r}" for pattern in patterns)
