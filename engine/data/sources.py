"""Parses the source of a clip, the film or upload that it was cut from, from the file name.

Each dataset has its own grammar of names; a clip whose name fits none is its own source. Names are
split from the right at known fields and never matched by a pattern, because names in HMDB51 contain
( ) & ! # ; [ ] + ~ @.
"""

from collections import Counter
from collections.abc import Callable

HMDB51_FIELDS = 6
"""The fields after source and class: visible, camera motion, persons, view, quality, number."""


def hmdb51_source(stem: str, label: str) -> str | None:
    """Parse `<source>_<class>_<f|u|h|l>_<cm|nm>_np<n>_<fr|ba|le|ri>_<bad|med|goo>_<number>`.

    Both source and class may contain underscores, so the class must be known.
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
    """Parse `v_<Class>_g<group>_c<clip>`; groups are numbered within a class, one per upload."""
    parts = stem.rsplit("_", 2)
    if len(parts) != 3 or not parts[0].startswith("v_"):
        return None
    name, group, clip = parts
    fits = group[:1] == "g" and group[1:].isdecimal() and clip[:1] == "c" and clip[1:].isdecimal()
    return f"{name[2:]}_{group}" if fits else None


def kinetics_source(stem: str, label: str) -> str | None:
    """Parse `<YouTube id, 11 characters>_<start, 6 digits>_<end, 6 digits>`."""
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
    """The source of a clip, and the grammar that its name matched."""
    for grammar, parse in GRAMMARS.items():
        if source := parse(stem, label):
            return source, grammar
    return f"{label}/{stem}", OWN_SOURCE


def describe(grammars: Counter[str]) -> str:
    """One line with the number of clips for each grammar."""
    return ", ".join(f"{count:,} by {grammar}" for grammar, count in grammars.most_common())
