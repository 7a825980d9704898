"""An experiment file: settings for `engine train`, what is varied, and what others published.

title, about
schemes = ["grouped"]          how the dataset is split; each combination runs under each
views = "1x1"                  of testing
[train]                        settings as in a recipe
[vary]                         lists of values, of which every combination is run
[search]                       instead: ranges that Optuna searches
[[published]]                  figures, for the runs whose settings are as in `when`

A table that is varied, as `options` may be, is merged with that of [train].
"""

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dali_pipelines.errors import SpecError, unknown_words
from dali_pipelines.settings import check
from engine.errors import UserError, unknown_name
from engine.training.recipe import Recipe, merge, setting_names
from engine.training.recipe import read as read_toml

FOLDER = Path(__file__).parents[1] / "recipes"
LONGEST_NAME = 80
"""Characters; a file system takes 255 bytes."""
FIGURES = {"top1": 100.0, "top5": 100.0, "f1": 1.0}
"""As they are published: in percent, but for F1."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training, and the test of its best checkpoint."""

    scheme: str
    varied: dict[str, Any]
    """What sets it apart from the experiment's other trials."""
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its folder. Where the words leave something out, a digest keeps it from another's."""
        whole = self._joined(str)
        short = re.sub(r"[^\w=.,-]+", "-", self._joined(_short))[:LONGEST_NAME]
        if short == whole:
            return short
        return f"{short}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def _joined(self, words: Callable[[Any], str]) -> str:
        parts = (f"{key}={words(value)}" for key, value in self.varied.items())
        return "_".join([self.scheme, *parts])

    def describe(self, *, whole: bool = False) -> str:
        """Long names by their end, unless the `whole` is needed to tell trials apart."""
        words = str if whole else _short
        return ", ".join(f"{key} {words(value)}" for key, value in self.varied.items()) or "as is"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    title: str
    about: str = ""
    schemes: list[str]
    views: str = "1x1"
    train: dict[str, Any] = field(default_factory=dict)
    vary: dict[str, list[Any]] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    published: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def load(cls, name: str) -> Self:
        """A shipped one by its name, or a file."""
        shipped = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
        path = Path(name)
        if not path.is_file():
            if path.suffix or "/" in name:
                raise UserError(f"there is no file {name}.")
            if name not in shipped:
                raise unknown_name("recipe", name, list(shipped))
            path = shipped[name]
        values = read_toml(path)
        known = {each.name for each in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UserError(f"{path}: {unknown_name('entry', unknown[0], sorted(known))}")
        for needed in ("title", "schemes"):
            if needed not in values:
                raise UserError(f"{path} has no {needed}.")
        if "vary" in values and "search" in values:
            raise UserError(f"{path} has both [vary] and [search]; an experiment has one.")
        try:
            experiment = cls(**values)
        except SpecError as error:
            raise UserError(f"{path}: {error}.") from error
        experiment.check()
        return experiment

    def __post_init__(self) -> None:
        check(self)
        for number, entry in enumerate(self.published, 1):
            try:
                _check_published(entry)
            except SpecError as error:
                raise SpecError(f"[[published]] number {number}: {error}") from error

    def check(self) -> None:
        """Find a wrong setting before the first trial runs, and not in the night after."""
        from engine.data.splits import SCHEMES

        for scheme in self.schemes:
            if scheme not in SCHEMES:
                raise unknown_name("scheme", scheme, list(SCHEMES))
        for name, values in {"schemes": self.schemes, **self.vary}.items():
            if not values:
                raise UserError(f"{name} is an empty list, so that there is nothing to run.")
        for trial in self.trials():
            Recipe.resolve(trial.settings)

    def with_settings(self, changes: dict[str, Any]) -> Self:
        """`changes` win over what is varied or searched, too; of tables, in what both name."""
        vary = {}
        for key, values in self.vary.items():
            if key not in changes:
                vary[key] = values
            elif isinstance(changes[key], dict) and all(isinstance(each, dict) for each in values):
                merged = [merge(each, changes[key]) for each in values]
                vary[key] = [each for i, each in enumerate(merged) if each not in merged[:i]]
        search = {key: values for key, values in self.search.items() if key not in changes}
        if search.keys() <= {"trials"}:
            search = {}
        return dataclasses.replace(self, train=merge(self.train, changes), vary=vary, search=search)

    def trials(self) -> list[Trial]:
        combinations = itertools.product(*self.vary.values())
        return [
            Trial(scheme=scheme, varied=varied, settings=merge(self.train, varied))
            for varied in [dict(zip(self.vary, each, strict=True)) for each in combinations]
            for scheme in self.schemes
        ]

    def published_for(self, trial: Trial) -> dict[str, Any]:
        """What others report for the same settings."""
        facts = {**trial.settings, "scheme": trial.scheme}
        for entry in self.published:
            when = entry.get("when", {})
            if all(facts.get(key) == value for key, value in when.items()):
                return {key: value for key, value in entry.items() if key != "when"}
        return {}


def _check_published(entry: dict[str, Any]) -> None:
    for key, value in entry.items():
        if key == "when":
            if not isinstance(value, dict):
                raise SpecError(f"when must be a table of settings, not {value!r}")
            for name in value:
                if name not in (names := ["scheme", *setting_names()]):
                    raise SpecError(f"when: {unknown_words('setting', name, names)}")
        elif key not in FIGURES:
            raise SpecError(unknown_words("figure", key, ["when", *FIGURES]))
        elif not _is_figure(value):
            raise SpecError(f"{key} must be a number, or a list of two, not {value!r}")


def _is_figure(value: Any) -> bool:
    """One number, or the two ends of what was reported."""
    ends = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(type(each) in (int, float) and math.isfinite(each) for each in ends)


def _short(value: Any) -> str:
    """The end of a long name, since its beginning is mostly alike."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.rpartition("/")[2]
