"""Which film or upload a clip was cut from, read off its name.

Each data set has its own grammar of names; a name that fits none is a source of its own. Names are
taken apart from known ends, never searched by pattern: HMDB51's hold ( ) & ! # ; [ ] + ~ @.
"""

from collections import Counter
from collections.abc import Callable

HMDB51_FIELDS = 6
"""After source and class: visible, camera motion, persons, view, quality, number."""


def hmdb51_source(stem: str, label: str) -> str | None:
    """`<source>_<class>_<f|u|h|l>_<cm|nm>_np<n>_<fr|ba|le|ri>_<bad|med|goo>_<number>`.

    Both source and class may hold underscores, so the class must be known.
    """
    head, *fields = stem.rsplit("_", HMDB51_FIELDS)
    source = head.removesuffix(f"_{label}")
    if source == head or not source or len(fields) != HMDB51_FIELDS:
        return None
    visible, motion, persons, view, quality, number = fields
    fits = (
        visible in ("f", "u", "h", "l")
        and motion in ("cm", "nm")
        and persons.startswith("np")
        and view in ("fr", "ba", "le", "ri")
        and quality in ("bad", "med", "goo")
        and number.isdecimal()
    )
    return source if fits else None


def ucf101_source(stem: str, label: str) -> str | None:
    """`v_<Class>_g<group>_c<clip>`: a group is one upload, and the class is part of its name."""
    parts = stem.rsplit("_", 2)
    if len(parts) != 3 or not parts[0].startswith("v_"):
        return None
    name, group, clip = parts
    fits = group[:1] == "g" and group[1:].isdecimal() and clip[:1] == "c" and clip[1:].isdecimal()
    return f"{name[2:]}_{group}" if fits else None


def kinetics_source(stem: str, label: str) -> str | None:
    """`<11 characters of YouTube id>_<start, 6 digits>_<end, 6 digits>`."""
    parts = stem.rsplit("_", 2)
    if len(parts) != 3 or len(parts[0]) != 11:
        return None
    fits = all(len(part) == 6 and part.isdecimal() for part in parts[1:])
    return parts[0] if fits else None


GRAMMARS: dict[str, Callable[[str, str], str | None]] = {
    "HMDB51": hmdb51_source,
    "UCF101": ucf101_source,
    "Kinetics": kinetics_source,
}
OWN_SOURCE = "no known grammar, each a source of its own"


def find_source(stem: str, label: str) -> tuple[str, str]:
    """The source of a clip, and which grammar told it."""
    for grammar, parse in GRAMMARS.items():
        if source := parse(stem, label):
            return source, grammar
    return f"{label}/{stem}", OWN_SOURCE


def describe(grammars: Counter[str]) -> str:
    return ", ".join(f"{count:,} by {grammar}" for grammar, count in grammars.most_common())
