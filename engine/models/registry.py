"""The model families and their presets by name, and building a model from a spec.

`base` is the published size; `small` is for training from scratch on a laptop's CPU.
"""

import dataclasses
import inspect
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self

from torch import nn

from dali_pipelines.spec import ClipSpec
from engine.errors import UserError, unknown_name
from engine.models import (
    cnn_birnn,
    cnn_lstm,
    hf,
    timesformer,
    torchvision_video,
    vit_lstm,
    vivit,
    x3d,
)
from engine.models.recurrent import Recurrence, RecurrentClassifier

FAMILIES: dict[str, ModuleType] = {
    "vit-lstm": vit_lstm,
    "cnn-lstm": cnn_lstm,
    "cnn-birnn": cnn_birnn,
    "timesformer": timesformer,
    "vivit": vivit,
    hf.FAMILY: hf,
    "torchvision": torchvision_video,
    "x3d": x3d,
}

_HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_KINETICS: dict[str, Any] = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}
_KINETICS_RESNET: dict[str, Any] = {
    "mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989),
}  # fmt: skip
_SMALL_CLIP = ClipSpec(num_frames=12, resize=64, crop=64, **_HALF)
_TIMESFORMER = {
    "optimizer": "sgd", "lr": 0.0035, "momentum": 0.9, "weight_decay": 0.003, "epochs": 15,
    "schedule": "step", "warmup": 0.0, "batch_size": 8,
}  # fmt: skip
"""The TimeSformer study's recipe on HMDB51."""
_SMALL: dict[str, Any] = {
    "batch_size": 32, "lr": 2e-3, "epochs": 10, "label_smoothing": 0.1,
    "brightness": 0.3, "contrast": 0.3, "saturation": 0.3,
}  # fmt: skip
_SMALL_CNN = {"backbone": "mobilenetv2_035", "reduction": 8, "centered": True}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Defaults of one size of a family."""

    clip: ClipSpec
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = "none"
    """Initial weights: a name on the Hugging Face Hub, `backbone` for the weights that the
    backbone's library publishes, or `none`."""
    training: dict[str, Any] = field(default_factory=dict)
    """Recipe settings that differ from the general defaults."""


_FINE_TUNING: dict[str, Any] = {
    "lr": 1e-4, "weight_decay": 0.05, "epochs": 15, "batch_size": 8,
}  # fmt: skip
_VIDEOMAE = Preset(
    clip=ClipSpec(num_frames=16, sampling="uniform", stride=4),
    options={"config": {"model_type": "videomae"}},
    weights="MCG-NJU/videomae-base-finetuned-kinetics",
    training=_FINE_TUNING,
)


def _published(name: str, clip: ClipSpec, **options: Any) -> Preset:
    """A video model of torchvision and the clips that its weights were trained on."""
    return Preset(clip=clip, options={"name": name, **options}, weights="backbone")


_RESNET_CLIP = ClipSpec(
    num_frames=16, sampling="uniform", stride=1, fps=15, resize=128, crop=112, **_KINETICS_RESNET
)
_S3D_CLIP = dataclasses.replace(_RESNET_CLIP, num_frames=128, resize=256, crop=224)
_MVIT_CLIP = ClipSpec(num_frames=16, sampling="uniform", stride=1, fps=7.5, **_KINETICS)
_SWIN_CLIP = ClipSpec(num_frames=32, sampling="uniform", stride=1, fps=15)
_X3D_M = Preset(
    clip=ClipSpec(num_frames=16, sampling="uniform", stride=5, **_KINETICS), weights="backbone"
)

PRESETS: dict[str, dict[str, Preset]] = {
    "vit-lstm": {
        "base": Preset(clip=ClipSpec(num_frames=16, **_HALF), weights="backbone"),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={
                "backbone": "test_vit",
                "reduction": 16,
                "centered": True,
                "recurrence": Recurrence(hidden=128),
            },
            training=_SMALL,
        ),
    },
    "cnn-lstm": {
        "base": Preset(clip=ClipSpec(num_frames=16), weights="backbone"),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={**_SMALL_CNN, "recurrence": Recurrence(hidden=128)},
            training=_SMALL,
        ),
    },
    "cnn-birnn": {
        "base": Preset(clip=ClipSpec(num_frames=16), weights="backbone"),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={
                **_SMALL_CNN,
                "backbone": "mnasnet_050",
                "recurrence": Recurrence(cell="gru", hidden=128),
            },
            training=_SMALL,
        ),
    },
    "timesformer": {
        "base": Preset(
            clip=ClipSpec(num_frames=8, sampling="uniform", stride=32, **_KINETICS),
            weights="facebook/timesformer-base-finetuned-k400",
            training=_TIMESFORMER,
        ),
        "hr": Preset(
            clip=ClipSpec(num_frames=16, sampling="uniform", stride=16, resize=448, crop=448,
                          **_KINETICS),
            weights="facebook/timesformer-hr-finetuned-k400",
            training=_TIMESFORMER,
        ),
        "l": Preset(
            clip=ClipSpec(num_frames=96, sampling="uniform", stride=4, **_KINETICS),
            weights="facebook/timesformer-base-finetuned-k400",
            training=_TIMESFORMER,
        ),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={
                "dim": 96, "depth": 3, "heads": 4, "mlp_ratio": 2.0, "patch": 16,
                "convolutional_stem": True,
            },
            training=_SMALL | {"lr": 1e-3},
        ),
    },
    "vivit": {
        "base": Preset(
            clip=ClipSpec(num_frames=32, sampling="uniform", stride=2, **_HALF),
            weights="google/vivit-b-16x2-kinetics400",
            training=_TIMESFORMER,
        ),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={
                "kind": "factorised", "dim": 96, "depth": 3, "time_depth": 2, "heads": 4,
                "mlp_ratio": 2.0, "patch": 16, "convolutional_stem": True,
            },
            training=_SMALL | {"lr": 1e-3},
        ),
    },
    hf.FAMILY: {
        "base": _VIDEOMAE,
        "videomae": _VIDEOMAE,
        "timesformer": Preset(
            clip=ClipSpec(num_frames=8, sampling="uniform", stride=32, **_KINETICS),
            options={"config": {"model_type": "timesformer"}},
            weights="facebook/timesformer-base-finetuned-k400",
            training=_TIMESFORMER,
        ),
        "vivit": Preset(
            clip=ClipSpec(num_frames=32, sampling="uniform", stride=2, **_HALF),
            options={"config": {"model_type": "vivit"}},
            weights="google/vivit-b-16x2-kinetics400",
            training=_TIMESFORMER,
        ),
        "vjepa2": Preset(
            clip=ClipSpec(num_frames=16, sampling="uniform", stride=4, resize=292, crop=256),
            options={"config": {"model_type": "vjepa2"}},
            weights="facebook/vjepa2-vitl-fpc16-256-ssv2",
            training=_FINE_TUNING,
        ),
        "videoprism": Preset(
            clip=ClipSpec(num_frames=16, sampling="uniform", stride=4, resize=288, crop=288,
                          mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
            options={"config": {"model_type": "videoprism_vision_model"}},
            weights="google/videoprism-base-f16r288",
            training=_FINE_TUNING,
        ),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={
                "config": {
                    "model_type": "videomae", "hidden_size": 96, "num_hidden_layers": 3,
                    "num_attention_heads": 4, "intermediate_size": 192,
                },
            },
            training=_SMALL | {"lr": 1e-3},
        ),
    },
    "torchvision": {
        "base": _published("mvit_v2_s", _MVIT_CLIP, dropout=0.5),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={"name": "r2plus1d_18", "width": 0.25},
            training=_SMALL,
        ),
        "r3d_18": _published("r3d_18", _RESNET_CLIP),
        "mc3_18": _published("mc3_18", _RESNET_CLIP),
        "r2plus1d_18": _published("r2plus1d_18", _RESNET_CLIP),
        "s3d": _published("s3d", _S3D_CLIP, dropout=0.2),
        "mvit_v1_b": _published("mvit_v1_b", _MVIT_CLIP, dropout=0.5),
        "mvit_v2_s": _published("mvit_v2_s", _MVIT_CLIP, dropout=0.5),
        "swin3d_t": _published("swin3d_t", _SWIN_CLIP),
        "swin3d_s": _published("swin3d_s", _SWIN_CLIP),
        "swin3d_b": _published("swin3d_b", _SWIN_CLIP),
    },
    "x3d": {
        "base": _X3D_M,
        "small": Preset(
            clip=_SMALL_CLIP, options={"width": 1.0, "depth": 1.0, "dropout": 0.0},
            training=_SMALL,
        ),
        "s": Preset(
            clip=ClipSpec(
                num_frames=13, sampling="uniform", stride=6, resize=182, crop=160, **_KINETICS
            ),
            weights="backbone",
        ),
        "m": _X3D_M,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything needed to rebuild a model except its weights."""

    family: str
    options: Any
    """The family's Options."""
    num_classes: int

    @classmethod
    def of_preset(
        cls, family: str, preset: str, num_classes: int, /, **overrides: Any
    ) -> tuple[Self, ClipSpec]:
        """The spec of a preset with `overrides` of its options, and the preset's clip spec.

        Raises:
            UserError: The family, preset or an option is unknown.
        """
        if family not in FAMILIES:
            raise unknown_name("model", family, list(FAMILIES))
        if preset not in PRESETS[family]:
            raise unknown_name(f"preset of {family}", preset, list(PRESETS[family]))
        chosen = PRESETS[family][preset]
        options = _options(family, overrides, _options(family, chosen.options))
        return cls(family=family, options=options, num_classes=num_classes), chosen.clip

    @property
    def published(self) -> str:
        """Name of the network whose published weights `backbone` means."""
        name = getattr(self.options, "backbone", None) or getattr(self.options, "name", None)
        return name or self.family

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        family = values["family"]
        if family not in FAMILIES:
            raise unknown_name("model", family, list(FAMILIES))
        return cls(
            family=family,
            options=_options(family, values["options"]),
            num_classes=values["num_classes"],
        )


def build(spec: ModelSpec, clip: ClipSpec, *, pretrained: bool = False) -> nn.Module:
    """Build a module that maps clips (B, T, C, H, W) to logits, with random weights.

    Args:
        spec: The family, its options and the number of classes.
        clip: Frames and size of the clips.
        pretrained: Load the weights that the backbone's library publishes; only for families
            that have such weights.

    Raises:
        UserError: The options don't fit the family, or the weights can't be fetched.
    """
    family = FAMILIES[spec.family]
    extra: dict[str, Any] = {}
    if pretrained:
        if "pretrained" not in inspect.signature(family.build).parameters:
            raise UserError(f"{spec.family} has no backbone: pass `weights` with a name, or none.")
        extra["pretrained"] = True
    return family.build(
        spec.options,
        num_frames=clip.num_frames,
        size=clip.crop,
        num_classes=spec.num_classes,
        **extra,
    )


def portable(spec: ModelSpec, model: nn.Module) -> ModelSpec:
    """A spec that rebuilds `model` offline: it includes the config of a `hf:` backbone."""
    if not isinstance(model, RecurrentClassifier) or not spec.options.backbone.startswith("hf:"):
        return spec
    network: Any = model.backbone.network
    options = dataclasses.replace(spec.options, backbone_config=network.config.to_dict())
    return dataclasses.replace(spec, options=options)


OLD_NAMES = {"centred": "centered"}
"""Options of models that were saved before these were renamed."""


def _options(family: str, values: dict[str, Any], base: Any = None) -> Any:
    """The family's Options: `base`, or the defaults, updated with `values` (also `recurrence`)."""
    base = base or FAMILIES[family].Options()
    changed = {OLD_NAMES.get(name, name): value for name, value in values.items()}
    _refuse_unknown(family, base, changed)
    if isinstance(changed.get("recurrence"), dict):
        _refuse_unknown(f"recurrence of {family}", base.recurrence, changed["recurrence"])
        changed["recurrence"] = dataclasses.replace(base.recurrence, **changed["recurrence"])
    return dataclasses.replace(base, **changed)


def _refuse_unknown(owner: str, config: Any, values: dict[str, Any]) -> None:
    known = {field.name for field in dataclasses.fields(config)}
    if unknown := sorted(set(values) - known):
        raise UserError(f"{owner} has no {unknown[0]!r}; it has {', '.join(sorted(known))}.")
