"""A recipe: every setting of a run but its data, flat, checked, and savable as TOML.

Settings come from the preset, then from a recipe file, then from the command line; what was decided
in the end is saved in the run's folder, as a recipe that repeats it.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dali_pipelines.augment import Augment
from dali_pipelines.errors import SpecError
from dali_pipelines.settings import (
    Count,
    Natural,
    Range,
    ShareBelowOne,
    check,
    check_value,
    from_plain,
)
from dali_pipelines.spec import ClipSpec
from engine.errors import UserError, unknown_name
from engine.models.registry import PRESETS, ModelSpec
from engine.training.losses import LossConfig
from engine.training.optim import OptimConfig

Metric = Literal["top1", "top5", "f1", "loss"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    epochs: Count = 20
    batch_size: Count = 16
    """Clips of one step, over all devices."""
    accumulate: Count = 1
    """Parts in which a batch goes through the model, to save memory."""
    precision: Precision = "auto"
    """auto: bf16 on a GPU that has it, else fp32."""
    metric: Metric = "top1"
    """Of the validation part; it chooses the best checkpoint."""
    patience: Natural = 0
    """Epochs without a gain after which the run ends; 0 goes on to the last epoch."""
    freeze_epochs: Natural = 0
    """Epochs in which only the head learns, and what lies between it and the backbone."""
    ema: ShareBelowOne = 0.0
    """Share of the old in a running average of the weights, 0.999 say; it is what is then
    validated and saved. 0 keeps none."""
    compile: bool = False
    """Train through torch.compile."""
    seed: Annotated[int, Range(least=0, below=2**63)] = 0
    """torch takes no larger ones."""

    def __post_init__(self) -> None:
        check(self)


SECTIONS: dict[str, Any] = {
    "clip": ClipSpec,
    "augment": Augment,
    "optim": OptimConfig,
    "loss": LossConfig,
    "loop": LoopConfig,
}
OLD_NAMES = {"optimiser": "optimizer"}
"""Of settings in recipes that were saved before these were renamed."""
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
        given = {OLD_NAMES.get(name, name): value for name, value in given.items()}
        if given.get("layout") == "TCHW":  # always was, while it could be set
            del given["layout"]
        unknown = sorted(set(given) - set(setting_names()))
        if unknown:
            raise unknown_name("setting", unknown[0], setting_names())
        if "model" not in given:
            raise UserError("no model is named: pass --model, vit-lstm say.")
        try:
            for setting in MODEL_SETTINGS:
                if setting in given:
                    check_value(cls, setting, given[setting])
            family, name = given["model"], given.get("preset", "base")
            ModelSpec.of_preset(family, name, 1, **given.get("options", {}))  # checks them
            preset = PRESETS[family][name]
            values = {**preset.clip.to_dict(), "weights": preset.weights, **preset.training}
            values |= given
            sections = {key: from_plain(kind, values) for key, kind in SECTIONS.items()}
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
    except (ValueError, RecursionError) as error:
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
    import tomli_w

    return tomli_w.dumps(values)
