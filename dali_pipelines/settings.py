"""Validation of settings dataclasses by the types and ranges of their fields.

The range is part of a field's type, as in `lr: Annotated[float, Range(above=0)]`. A settings
dataclass calls `check(self)` in `__post_init__`; `from_plain` creates one from TOML or JSON values.
"""

import dataclasses
import sys
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dali_pipelines.errors import SpecError, unknown_words

Kind = TypeVar("Kind")
MAX_VALUE_CHARS = 60
"""Longest value that an error message quotes in full."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Range of valid numbers for a field. Floats must always be finite."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        words = {
            "of at least": self.least, "above": self.above,
            "of at most": self.most, "below": self.below,
        }  # fmt: skip
        return " and ".join(f"{word} {end:g}" for word, end in words.items() if end is not None)


Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
ShareBelowOne = Annotated[float, Range(least=0, below=1)]

TYPE_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    dict: "a table",
    list: "a list",
}


def check(settings: Any) -> None:
    """Raise SpecError for the first field whose value has a wrong type or is out of range."""
    cls = type(settings)
    for name in _hints(cls):
        check_value(cls, name, getattr(settings, name))


def check_value(cls: type, name: str, value: Any) -> None:
    """Check the value of one field, before an object of the dataclass `cls` exists."""
    hint = _hints(cls)[name]
    if _fits(value, hint):
        return
    if get_origin(hint) is Literal and isinstance(value, str):
        raise SpecError(unknown_words(name, value, list(get_args(hint))))
    raise SpecError(f"{name} must be {_describe(hint)}, not {_quoted(value)}")


def from_plain(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """Create a `kind` from plain values.

    Keys without a field are ignored; lists are converted to tuples for tuple fields.
    """
    fields = {}
    for name, hint in _hints(kind).items():
        if name in values:
            value = values[name]
            is_tuple = get_origin(hint) is tuple and isinstance(value, list)
            fields[name] = tuple(value) if is_tuple else value
    return kind(**fields)


def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return _fits(value, parts[0]) and parts[1].holds(value)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple and parts[-1] is Ellipsis:
        return isinstance(value, tuple) and all(_fits(item, parts[0]) for item in value)
    if origin is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(parts)
            and all(_fits(item, part) for item, part in zip(value, parts, strict=True))
        )
    if origin is list:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, parts[0]) and _fits(item, parts[1]) for key, item in value.items()
        )
    if isinstance(value, bool):
        return hint is bool
    if hint is float:  # an int may be larger than any float
        largest = sys.float_info.max
        return isinstance(value, int | float) and -largest <= value <= largest
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_describe(parts[0])} {parts[1]}"
    if origin in (Union, UnionType):
        return " or ".join(_describe(part) for part in parts if part is not type(None))
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin is tuple and parts[-1] is Ellipsis:
        return f"a list, each {_describe(parts[0])}"
    if origin is tuple:
        return f"a list of {len(parts)}, each {_describe(parts[0])}"
    if origin in (list, dict) and parts[-1] is not Any:
        return f"{TYPE_NAMES[origin]}, each value {_describe(parts[-1])}"
    return TYPE_NAMES.get(origin or hint, "a table of settings")


def _quoted(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print ints of several thousand digits
        return "a number too long to print"
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}..."
