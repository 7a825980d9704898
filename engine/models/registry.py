"""The families by name, their presets, and how a model is made from a spec that can be saved.

`base` is the published size; `small` is made for a laptop's CPU and learns from nothing.
"""

import dataclasses
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self

from torch import nn

from dali_pipelines.spec import ClipSpec
from engine.errors import UserError, unknown_name
from engine.models import cnn_birnn, cnn_lstm, timesformer, vit_lstm, vivit
from engine.models.recurrent import Recurrence

FAMILIES: dict[str, ModuleType] = {
    "vit-lstm": vit_lstm,
    "cnn-lstm": cnn_lstm,
    "cnn-birnn": cnn_birnn,
    "timesformer": timesformer,
    "vivit": vivit,
}

_HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_KINETICS: dict[str, Any] = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}
_SMALL_CLIP = ClipSpec(num_frames=12, sampling="uniform", stride=4, resize=64, crop=64, **_HALF)
_SMALL_CNN = {"backbone": "mobilenetv2_035", "pretrained": False, "reduction": 8}


@dataclass(frozen=True, kw_only=True)
class Preset:
    clip: ClipSpec
    options: dict[str, Any] = field(default_factory=dict)


PRESETS: dict[str, dict[str, Preset]] = {
    "vit-lstm": {
        "base": Preset(clip=ClipSpec(num_frames=16, **_HALF)),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={
                "backbone": "test_vit",
                "pretrained": False,
                "recurrence": Recurrence(hidden=128),
            },
        ),
    },
    "cnn-lstm": {
        "base": Preset(clip=ClipSpec(num_frames=16)),
        "small": Preset(
            clip=_SMALL_CLIP, options={**_SMALL_CNN, "recurrence": Recurrence(hidden=128)}
        ),
    },
    "cnn-birnn": {
        "base": Preset(clip=ClipSpec(num_frames=16)),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={
                **_SMALL_CNN,
                "backbone": "mnasnet_050",
                "recurrence": Recurrence(cell="gru", hidden=128),
            },
        ),
    },
    "timesformer": {
        "base": Preset(clip=ClipSpec(num_frames=8, sampling="uniform", stride=32, **_KINETICS)),
        "hr": Preset(
            clip=ClipSpec(num_frames=16, sampling="uniform", stride=16, resize=448, crop=448,
                          **_KINETICS)
        ),
        "l": Preset(clip=ClipSpec(num_frames=96, sampling="uniform", stride=4, **_KINETICS)),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={
                "dim": 96, "depth": 3, "heads": 4, "mlp_ratio": 2.0, "patch": 8,
                "convolutional_stem": True,
            },
        ),
    },
    "vivit": {
        "base": Preset(
            clip=ClipSpec(num_frames=32, sampling="uniform", stride=2, **_HALF)
        ),
        "small": Preset(
            clip=_SMALL_CLIP,
            options={
                "kind": "factorised", "dim": 96, "depth": 3, "time_depth": 2, "heads": 4,
                "mlp_ratio": 2.0, "patch": 8, "convolutional_stem": True,
            },
        ),
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All that makes a model anew, but for its weights."""

    family: str
    options: Any
    """The family's Options."""
    num_classes: int

    @classmethod
    def of_preset(
        cls, family: str, preset: str, num_classes: int, **overrides: Any
    ) -> tuple[Self, ClipSpec]:
        if family not in FAMILIES:
            raise unknown_name("model", family, list(FAMILIES))
        if preset not in PRESETS[family]:
            raise unknown_name(f"preset of {family}", preset, list(PRESETS[family]))
        chosen = PRESETS[family][preset]
        options = _options(family, {**chosen.options, **overrides})
        return cls(family=family, options=options, num_classes=num_classes), chosen.clip

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        family = values["family"]
        if family not in FAMILIES:
            raise unknown_name("model", family, list(FAMILIES))
        options = dict(values["options"])
        if "recurrence" in options:
            options["recurrence"] = Recurrence(**options["recurrence"])
        return cls(
            family=family,
            options=_options(family, options),
            num_classes=values["num_classes"],
        )


def build(spec: ModelSpec, clip: ClipSpec) -> nn.Module:
    """A module from (B, T, C, H, W) to logits, its weights drawn at random unless pretrained."""
    return FAMILIES[spec.family].build(
        spec.options, num_frames=clip.num_frames, size=clip.crop, num_classes=spec.num_classes
    )


def _options(family: str, values: dict[str, Any]) -> Any:
    kind = FAMILIES[family].Options
    known = {each.name for each in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - known):
        raise UserError(f"{family} has no {unknown[0]!r}; it has {', '.join(sorted(known))}.")
    return kind(**values)
