"""Settings that are checked by what their dataclass says: the type of each field, and its range.

A range stands with the field, as in `lr: Annotated[float, Range(above=0)]`. A dataclass of settings
calls `check(self)` in its __post_init__; `from_plain` makes one of what TOML or JSON held.
"""

import dataclasses
import sys
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dali_pipelines.errors import SpecError, unknown_words

Kind = TypeVar("Kind")
SHOWN = 60
"""Characters of a wrong value that a message repeats."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Which numbers a field takes. That a float is finite goes without saying."""

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

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a table",
    list: "a list",
}


def check(settings: Any) -> None:
    """Raise SpecError for the first field whose value is not of its type or not in its range."""
    kind = type(settings)
    for name in _hints(kind):
        check_value(kind, name, getattr(settings, name))


def check_value(kind: type, name: str, value: Any) -> None:
    """The same for one value, before there is an object that has it."""
    hint = _hints(kind)[name]
    if _fits(value, hint):
        return
    if get_origin(hint) is Literal and isinstance(value, str):
        raise SpecError(unknown_words(name, value, list(get_args(hint))))
    raise SpecError(f"{name} must be {_describe(hint)}, not {_shown(value)}")


def from_plain(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """A `kind` of those values that it has fields for; a list becomes a tuple where that is due."""
    own = {}
    for name, hint in _hints(kind).items():
        if name in values:
            value = values[name]
            is_tuple = get_origin(hint) is tuple and isinstance(value, list)
            own[name] = tuple(value) if is_tuple else value
    return kind(**own)


def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return _fits(value, parts[0]) and parts[1].holds(value)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(parts)
            and all(_fits(each, part) for each, part in zip(value, parts, strict=True))
        )
    if origin is list:
        return isinstance(value, list) and all(_fits(each, parts[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, parts[0]) and _fits(each, parts[1]) for key, each in value.items()
        )
    if isinstance(value, bool):
        return hint is bool
    if hint is float:  # a whole number may be larger than any float
        largest = sys.float_info.max
        return isinstance(value, int | float) and -largest <= value <= largest
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_describe(parts[0])} {parts[1]}"
    if origin in (Union, UnionType):
        return " or ".join(_describe(each) for each in parts if each is not type(None))
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin is tuple:
        return f"a list of {len(parts)}, each {_describe(parts[0])}"
    if origin in (list, dict) and parts[-1] is not Any:
        return f"{WORDS[origin]}, each value {_describe(parts[-1])}"
    return WORDS.get(origin or hint, "a table of settings")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python doesn't print numbers of more than some thousand digits
        return "a number too long to print"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
