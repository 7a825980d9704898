"""A recipe: every setting of a run but its data, flat, checked, and savable as TOML.

Settings come from the preset, then from a recipe file, then from the command line; what was decided
in the end is saved in the run's folder, as a recipe that repeats it.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from dali_pipelines.augment import Augment
from dali_pipelines.errors import SpecError
from dali_pipelines.spec import ClipSpec
from engine.errors import UserError, unknown_name
from engine.models.registry import PRESETS, ModelSpec
from engine.training.losses import LossConfig
from engine.training.optim import OptimConfig

Metric = Literal["top1", "top5", "f1", "loss"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    epochs: int = 20
    batch_size: int = 16
    """Clips of one step, over all devices."""
    accumulate: int = 1
    """Parts in which a batch goes through the model, to save memory."""
    precision: Precision = "auto"
    """auto: bf16 on a GPU that has it, else fp32."""
    metric: Metric = "top1"
    """Of the validation part; it chooses the best checkpoint."""
    patience: int = 0
    """Epochs without a gain after which the run ends; 0 goes on to the last epoch."""
    freeze_epochs: int = 0
    """Epochs in which only the head learns, and what lies between it and the backbone."""
    ema: float = 0.0
    """Share of the old in a running average of the weights, 0.999 say; it is what is then
    validated and saved. 0 keeps none."""
    compile: bool = False
    """Train through torch.compile."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, literal in {"metric": Metric, "precision": Precision}.items():
            if getattr(self, name) not in get_args(literal):
                raise unknown_name(name, getattr(self, name), list(get_args(literal)))
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("patience", "freeze_epochs", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} can't be negative, as {getattr(self, name)} is.")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema is from 0 to below 1, not {self.ema}.")


SECTIONS: dict[str, Any] = {
    "clip": ClipSpec,
    "augment": Augment,
    "optim": OptimConfig,
    "loss": LossConfig,
    "loop": LoopConfig,
}
MODEL_SETTINGS = ("model", "preset", "weights", "options")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    model: str
    preset: str
    weights: str
    """A name on the Hugging Face hub, a file or a folder; `none` begins at random."""
    options: dict[str, Any]
    """What differs from the preset's model; see each family's Options."""
    clip: ClipSpec
    augment: Augment = field(default_factory=Augment)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    @classmethod
    def resolve(cls, given: dict[str, Any]) -> Self:
        """From flat settings, over those of the preset that they name."""
        unknown = sorted(set(given) - set(setting_names()))
        if unknown:
            raise unknown_name("setting", unknown[0], setting_names())
        if "model" not in given:
            raise UserError("no model is named: pass --model, vit-lstm say.")
        family, name = given["model"], given.get("preset", "base")
        ModelSpec.of_preset(family, name, num_classes=1, **given.get("options", {}))  # checks them
        preset = PRESETS[family][name]
        values = {**preset.clip.to_dict(), "weights": preset.weights, **preset.training, **given}
        try:
            sections = {key: _section(kind, values) for key, kind in SECTIONS.items()}
        except SpecError as error:
            raise UserError(f"{error}.") from error
        return cls(
            model=family,
            preset=name,
            weights=values["weights"],
            options=values.get("options", {}),
            **sections,
        )

    def flat(self) -> dict[str, Any]:
        values: dict[str, Any] = {name: getattr(self, name) for name in MODEL_SETTINGS}
        for section in SECTIONS:
            values |= dataclasses.asdict(getattr(self, section))
        return {name: value for name, value in values.items() if value is not None}

    def model_spec(self, num_classes: int) -> ModelSpec:
        spec, _ = ModelSpec.of_preset(self.model, self.preset, num_classes, **self.options)
        return spec


def setting_names() -> list[str]:
    names = list(MODEL_SETTINGS)
    for kind in SECTIONS.values():
        names += [each.name for each in dataclasses.fields(kind)]
    return names


def read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no recipe in TOML ({error}).") from error


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` win; tables, as the model's options are, are merged and not replaced."""
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        is_table = isinstance(old, dict) and isinstance(value, dict)
        merged[name] = merge(old or {}, value) if is_table else value
    return merged


def to_toml(values: dict[str, Any]) -> str:
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def _toml(value: Any) -> str:
    import json

    match value:
        case dict():
            return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return json.dumps(
                value, ensure_ascii=False
            )  # strings, numbers and truth are written alike


def _section(kind: Any, values: dict[str, Any]) -> Any:
    own = {}
    for each in dataclasses.fields(kind):
        if each.name in values:
            value = values[each.name]
            if each.type in (int, float, bool, str) and not _is_a(value, each.type):
                raise UserError(f"{each.name} must be of kind {each.type.__name__}, not {value!r}.")
            own[each.name] = tuple(value) if isinstance(value, list) else value
    return kind(**own)


def _is_a(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
