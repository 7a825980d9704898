"""A recipe: every setting of a run except its data, as a flat, validated table for TOML.

Settings of a recipe file override those of the preset, and the command line overrides both. The
resolved recipe is saved in the run's folder, so that the run can be repeated.
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
from engine.models import hf
from engine.models.recurrent import RecurrentOptions
from engine.models.registry import FAMILIES, PRESETS, ModelSpec
from engine.training.losses import LossConfig
from engine.training.optim import OptimConfig

Metric = Literal["top1", "top5", "f1", "loss"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of the training loop."""

    epochs: Count = 20
    batch_size: Count = 16
    """Clips of one step, over all devices."""
    accumulate: Count = 1
    """Number of parts into which a batch is split, to save memory (gradient accumulation)."""
    precision: Precision = "auto"
    """auto: bf16 on a GPU that supports it, otherwise fp32. tf32 is faster than fp32 on a GPU, and
    rounds the inputs of products to 10 bits."""
    metric: Metric = "top1"
    """Metric on the validation split that selects the best checkpoint."""
    patience: Natural = 0
    """Stop after this many epochs without improvement; 0 trains all epochs."""
    freeze_epochs: Natural = 0
    """Number of first epochs in which only the layers after the backbone are trained."""
    freeze_share: ShareBelowOne = 0.0
    """Share of the pretrained layers, counted from the input, that is never trained. Steps are
    faster, and early layers need little training."""
    ema: ShareBelowOne = 0.0
    """Decay of an exponential moving average of the weights, for example 0.999, which is validated
    and saved in place of the weights. 0 disables it."""
    compile: bool = False
    """Train with torch.compile."""
    seed: Annotated[int, Range(least=0, below=2**63)] = 0
    """Seed of all randomness, in the range that torch accepts."""

    def __post_init__(self) -> None:
        check(self)

    def part_size(self, world_size: int) -> int:
        """Number of clips that go through the model at a time, in one of `world_size` processes."""
        parts = world_size * self.accumulate
        if self.batch_size % parts:
            raise UserError(
                f"a batch of {self.batch_size} clips can't be split evenly over {world_size} "
                f"processes and {self.accumulate} parts; choose a multiple of {parts}."
            )
        return self.batch_size // parts


ProbeKind = Literal["none", "attentive", "recurrent", "linear"]


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of a probe, which trains only the last layers, on features computed once."""

    probe: ProbeKind = "none"
    """The layers that are trained: see `head` in the options of recurrent families; `linear` is for
    any family. none: the whole model is trained."""
    probe_views: Count = 4
    """Views of each training clip: the one of testing, and augmented ones."""

    @property
    def is_on(self) -> bool:
        return self.probe != "none"

    def __post_init__(self) -> None:
        check(self)


PROBE_TRAINING: dict[str, Any] = {
    "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup": 0.1,
    "batch_size": 32, "epochs": 10, "label_smoothing": 0.1, "metric": "loss",
}  # fmt: skip
"""Defaults of a probe, in place of those of the preset."""
PROBE_DROPOUT = 0.3
NOT_OF_A_PROBE = ("mixup", "cutmix", "teacher", "freeze_epochs", "freeze_share")
"""Settings that need clips, or a backbone that is trained."""
SECTIONS: dict[str, Any] = {
    "probe": ProbeConfig,
    "clip": ClipSpec,
    "augment": Augment,
    "optim": OptimConfig,
    "loss": LossConfig,
    "loop": LoopConfig,
}
NOT_FOR_TRAINING = ("fast_decode",)
"""Fields of the clip spec that only an artifact can have."""
OLD_NAMES = {"optimiser": "optimizer"}
"""Renamed settings: the name in older recipes, and the current name."""
MODEL_SETTINGS = ("model", "preset", "weights", "options")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a run except its data."""

    model: str
    preset: str
    weights: str
    """Initial weights: a name on the Hugging Face Hub, a file, a folder, `backbone`, or `none`."""
    options: dict[str, Any]
    """Model options that override the preset; see each family's Options."""
    clip: ClipSpec
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    augment: Augment = field(default_factory=Augment)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    @classmethod
    def resolve(cls, given: dict[str, Any]) -> Self:
        """Make a recipe from flat settings, which override those of the preset they name.

        Raises:
            UserError: A setting is unknown or has an invalid value, or no model is named.
        """
        given = {OLD_NAMES.get(name, name): value for name, value in given.items()}
        if given.get("layout") == "TCHW":  # in old recipes; the only value there was
            del given["layout"]
        unknown = sorted(set(given) - set(setting_names()))
        if unknown:
            raise unknown_name("setting", unknown[0], setting_names())
        if "model" not in given:
            raise UserError("no model is named: pass `model`, for example vit-lstm.")
        try:
            for setting in MODEL_SETTINGS:
                if setting in given:
                    check_value(cls, setting, given[setting])
            given = _of_checkpoint(given)
            family, name = given["model"], given.get("preset", "base")
            ModelSpec.of_preset(family, name, 1, **given.get("options", {}))  # checks the options
            preset = PRESETS[family][name]
            values = {**preset.clip.to_dict(), "weights": preset.weights, **preset.training}
            if given.get("probe", "none") != "none":
                values |= PROBE_TRAINING
            values |= given
            if issubclass(FAMILIES[family].Options, RecurrentOptions):
                values["options"] = _probe_options(values)
            sections = {key: from_plain(config, values) for key, config in SECTIONS.items()}
        except SpecError as error:
            raise UserError(f"{error}.") from error
        if sections["probe"].is_on:
            _check_probe(values)
        return cls(
            model=family,
            preset=name,
            weights=values["weights"],
            options=values.get("options", {}),
            **sections,
        )

    def flat(self) -> dict[str, Any]:
        """The settings as one flat dict, as `resolve` takes it."""
        values: dict[str, Any] = {name: getattr(self, name) for name in MODEL_SETTINGS}
        for section in SECTIONS:
            values |= dataclasses.asdict(getattr(self, section))
        return {name: values[name] for name in setting_names() if values.get(name) is not None}

    def model_spec(self, num_classes: int) -> ModelSpec:
        """The spec of the model for `num_classes` classes."""
        spec, _ = ModelSpec.of_preset(self.model, self.preset, num_classes, **self.options)
        return spec


def _of_checkpoint(given: dict[str, Any]) -> dict[str, Any]:
    """Add the settings of the checkpoint of `hf` that is named, below those that are given."""
    source = given.get("weights", "none")
    if given["model"] != hf.FAMILY or source == "none" or Path(source).is_file():
        return given
    preset = given.get("preset", "base")
    is_own = preset in PRESETS[hf.FAMILY] and source == PRESETS[hf.FAMILY][preset].weights
    if is_own or "config" in given.get("options", {}):
        return given  # it is known
    published = {
        each.options["config"]["model_type"]: (name, each.clip.stride)
        for name, each in PRESETS[hf.FAMILY].items()
        if each.weights != "none"
    }
    settings = hf.read_checkpoint(source)
    name, stride = published[settings["options"]["config"]["model_type"]]
    settings |= {"sampling": "uniform", "stride": stride}
    given = {**given, "preset": name if preset in ("base", "small") else preset}
    return merge(settings, given)


def _probe_options(values: dict[str, Any]) -> dict[str, Any]:
    """Options of a recurrent family, with those of a probe, if it is one."""
    options: dict[str, Any] = values.get("options", {})
    if values.get("probe", "none") == "none":
        return options
    kind = values["probe"]
    defaults = {"centered": kind != "linear", "recurrence": {"dropout": PROBE_DROPOUT}}
    return merge(defaults, options) | {"head": kind, "freeze_backbone": True}


def _check_probe(values: dict[str, Any]) -> None:
    for name in NOT_OF_A_PROBE:
        if values.get(name):
            raise UserError(
                f"a probe has no `{name}`, because only its last layers are trained, on features: "
                f"leave out `{name}`, or `probe`."
            )
    family = values["model"]
    if values["probe"] != "linear" and not issubclass(FAMILIES[family].Options, RecurrentOptions):
        raise UserError(f"{family} has only a linear layer to train: pass `probe='linear'`.")
    if values["weights"] == "none":
        raise UserError(
            "a probe keeps its backbone as it is, and random weights see nothing: pass `weights`, "
            "for example a file or a folder."
        )


def setting_names() -> list[str]:
    """The names of all settings of a recipe."""
    names = list(MODEL_SETTINGS)
    for config in SECTIONS.values():
        names += [field.name for field in dataclasses.fields(config)]
    return [name for name in names if name not in NOT_FOR_TRAINING]


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file; raise UserError if it can't be read or parsed."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a recipe in TOML ({error}).") from error


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Update `base` with `changes`; nested tables, such as `options`, are merged, not replaced."""
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        is_table = isinstance(old, dict) and isinstance(value, dict)
        merged[name] = merge(old or {}, value) if is_table else value
    return merged


def to_toml(values: dict[str, Any]) -> str:
    """Settings as the text of a TOML file."""
    import tomli_w

    return tomli_w.dumps(values)
