"""Experiment files: settings for `engine train`, values to vary, and published results.

title, about
schemes = ["grouped"]          how the dataset is split; every trial runs with each scheme. With
                               "folds", a trial is a cross-validation on the dataset's own folds
views = "1x1"                  views for testing
[train]                        settings as in a recipe
[vary]                         lists of values; every combination is a trial
[search]                       instead of [vary]: ranges for Optuna
[[published]]                  published metrics for the trials with the settings in `when`

If a table, such as `options`, is varied, it is merged with the table in [train].
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
FOLDS = "folds"
"""The scheme of a trial that is a cross-validation."""
LONGEST_NAME = 80
"""In characters; file systems allow 255 bytes."""
FIGURES = {"top1": 100.0, "top5": 100.0, "f1": 1.0}
"""Published metrics and their scales: accuracy in percent, F1 from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run, and the test of its best checkpoint."""

    scheme: str
    varied: dict[str, Any]
    """The settings in which it differs from the experiment's other trials."""
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the trial's folder; a digest makes it unique if values were shortened."""
        whole = self._joined(str)
        short = re.sub(r"[^\w=.,-]+", "-", self._joined(_short))[:LONGEST_NAME]
        if short == whole:
            return short
        return f"{short}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def _joined(self, to_text: Callable[[Any], str]) -> str:
        parts = (f"{key}={to_text(value)}" for key, value in self.varied.items())
        return "_".join([self.scheme, *parts])

    def describe(self, *, whole: bool = False) -> str:
        """The varied settings as text; names with slashes are shortened unless `whole` is True."""
        to_text = str if whole else _short
        return ", ".join(f"{key} {to_text(value)}" for key, value in self.varied.items()) or "as is"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The content of an experiment file."""

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
        """Load an experiment file, or a shipped recipe by its name.

        Raises:
            UserError: The file is missing or invalid, or the name is unknown.
        """
        shipped = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
        path = Path(name)
        if not path.is_file():
            if path.suffix or "/" in name:
                raise UserError(f"there is no file {name}.")
            if name not in shipped:
                raise unknown_name("recipe", name, list(shipped))
            path = shipped[name]
        values = read_toml(path)
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UserError(f"{path}: {unknown_name('entry', unknown[0], sorted(known))}")
        for needed in ("title", "schemes"):
            if needed not in values:
                raise UserError(f"{path} has no {needed}.")
        if "vary" in values and "search" in values:
            raise UserError(f"{path} has both [vary] and [search]; remove one of them.")
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
        """Check the settings of all trials before the first one runs."""
        from engine.data.splits import SCHEMES

        for scheme in self.schemes:
            if scheme not in (names := [*SCHEMES, FOLDS]):
                raise unknown_name("scheme", scheme, names)
        for name, values in {"schemes": self.schemes, **self.vary}.items():
            if not values:
                raise UserError(
                    f"{name} is an empty list, so there is nothing to run; add a value."
                )
        for trial in self.trials():
            Recipe.resolve(trial.settings)

    def with_settings(self, changes: dict[str, Any]) -> Self:
        """Override settings, including varied and searched ones; tables are merged."""
        vary = {}
        for key, values in self.vary.items():
            if key not in changes:
                vary[key] = values
            elif isinstance(changes[key], dict) and all(isinstance(item, dict) for item in values):
                merged = [merge(table, changes[key]) for table in values]
                vary[key] = [table for i, table in enumerate(merged) if table not in merged[:i]]
        search = {key: values for key, values in self.search.items() if key not in changes}
        if search.keys() <= {"trials"}:
            search = {}
        return dataclasses.replace(self, train=merge(self.train, changes), vary=vary, search=search)

    def trials(self) -> list[Trial]:
        """All combinations of the varied values, each with every scheme."""
        combinations = itertools.product(*self.vary.values())
        return [
            Trial(scheme=scheme, varied=varied, settings=merge(self.train, varied))
            for varied in [dict(zip(self.vary, values, strict=True)) for values in combinations]
            for scheme in self.schemes
        ]

    def published_for(self, trial: Trial) -> dict[str, Any]:
        """The published metrics for the settings of `trial`; empty if there are none."""
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
    """True for a number, and for the two ends of a published range."""
    ends = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(type(end) in (int, float) and math.isfinite(end) for end in ends)


def _short(value: Any) -> str:
    """The value as text, without what is before the last slash."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.rpartition("/")[2]
