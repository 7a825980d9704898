"""Video action recognition: data, models, training, evaluation, labelling, and the commands."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.frames import read_frames

__all__ = ["read_frames"]

_HOMES = {"read_frames": "engine.frames"}
"""Where a public name is defined; it is imported when first used, so that this costs nothing."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
