"""Video classifiers of `transformers`: TimeSformer, VideoMAE, ViViT, V-JEPA 2, VideoPrism.

The config of a checkpoint is kept in the options, so that a run can be opened without the
checkpoint. Position embeddings are interpolated where the frames or their size differ.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dali_pipelines.settings import check
from engine.errors import UserError
from engine.models import hub
from engine.models.backbone import offline

FAMILY = "hf"
NOT_KEPT = (
    "id2label", "label2id", "num_labels", "architectures", "transformers_version", "dtype",
    "torch_dtype", "_name_or_path", "problem_type",
)  # fmt: skip
"""Entries of a config that don't describe the network, or that the dataset decides."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """How a type of model names its settings."""

    size: str = "image_size"
    frames: str = "num_frames"
    input: str = "pixel_values"


TYPES: dict[str, Fields] = {
    "timesformer": Fields(),
    "videomae": Fields(),
    "vivit": Fields(),
    "vjepa2": Fields(size="crop_size", frames="frames_per_clip", input="pixel_values_videos"),
    "videoprism_vision_model": Fields(input="pixel_values_videos"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    config: dict[str, Any] = field(default_factory=lambda: {"model_type": "videomae"})
    """Config of `transformers`: `model_type`, and what differs from its defaults."""

    def __post_init__(self) -> None:
        check(self)
        kind = self.config.get("model_type")
        if kind not in TYPES:
            raise UserError(
                f"hf has no model type {kind!r}; it has {', '.join(TYPES)}: name one as "
                "model_type in the option config."
            )


class HfClassifier(nn.Module):
    """Wraps a classifier of `transformers`; maps clips (B, T, C, H, W) to logits."""

    def __init__(self, options: Options, *, num_frames: int, size: int, num_classes: int) -> None:
        from transformers import AutoModelForVideoClassification

        super().__init__()
        published = _config(options.config)
        changes = {"num_labels": num_classes}
        names = TYPES[published.model_type]
        changes |= {names.size: size, names.frames: num_frames}
        config = _config({**options.config, **changes})
        _check_grid(config)
        self.network: nn.Module = AutoModelForVideoClassification.from_config(config)
        self._input = names.input
        if config.model_type == "vjepa2":
            self.network.vjepa2.predictor = nn.Identity()  # only for pretraining
        if config.model_type == "videomae":  # a fixed table, which no file contains
            embeddings = self.network.videomae.embeddings
            table = embeddings.position_embeddings
            if _grid(config) != _grid(published):
                table = resample(_sinusoids(published), _grid(published), _grid(config))
            del embeddings.position_embeddings
            embeddings.register_buffer("position_embeddings", table, persistent=False)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        return self.network(**{self._input: clips_BTCHW}).logits.flatten(1)


def build(options: Options, *, num_frames: int, size: int, num_classes: int) -> nn.Module:
    try:
        return HfClassifier(options, num_frames=num_frames, size=size, num_classes=num_classes)
    except (ValueError, TypeError) as error:  # of transformers, for values that don't fit
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"hf can't build this {options.config['model_type']}: {reason}.") from error


def read_checkpoint(source: str) -> dict[str, Any]:
    """The settings of a checkpoint: `options` with its config, and its clips as its processor says.

    Which frames of a video it takes, no file of a checkpoint says.

    Args:
        source: A folder, or a name on the Hugging Face Hub.

    Raises:
        UserError: It can't be fetched, or it is no video classifier that this family knows.
    """
    from transformers import AutoConfig

    folder = fetch(source, "*.json")
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{source} has no config that transformers reads ({reason}).") from error
    kept = {
        key: value for key, value in config.to_diff_dict().items()
        if key not in NOT_KEPT and value is not None
    }  # fmt: skip
    options = Options(config={**kept, "model_type": config.model_type})
    names = TYPES[config.model_type]
    size = getattr(config, names.size)
    settings = {"num_frames": getattr(config, names.frames), **_processing(folder, source)}
    settings.setdefault("crop", size if isinstance(size, int) else size[0])
    return {"options": {"config": options.config}, **settings}


def fetch(source: str, *patterns: str) -> Path:
    """The folder of a checkpoint; from the hub, only files that match a pattern are fetched."""
    if Path(source).is_dir():
        return Path(source)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(
            f"there is no checkpoint {source!r}: name a folder, or a model on the Hugging Face "
            "Hub, for example MCG-NJU/videomae-base-finetuned-kinetics."
        )
    hub.stay_offline_if_unreachable()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except (OSError, ValueError, RuntimeError) as error:
        raise offline(source, error) from error


def read_weights(source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a checkpoint, named as in `HfClassifier`, and its config.

    Weights that `transformers` had to make up, such as a new head, are left out.
    """
    from transformers import AutoModelForVideoClassification

    folder = fetch(source, "*.json", "*.safetensors", "pytorch_model*.bin")
    try:
        network, report = AutoModelForVideoClassification.from_pretrained(
            folder, output_loading_info=True
        )
    except Exception as error:  # many types, for damaged files too
        reason = (str(error) or repr(error)).strip().splitlines()[0]
        raise UserError(f"{source} can't be read as weights ({reason}).") from error
    made_up = set(report["missing_keys"])
    weights = {
        f"network.{name}": weight
        for name, weight in network.state_dict().items()
        if name not in made_up and not name.startswith("vjepa2.predictor.")
    }
    return weights, network.config.to_dict()


def resize_positions(
    name: str, weight: Tensor, published: dict[str, Any], model: HfClassifier
) -> Tensor | None:
    """Interpolate a position embedding to the model's frames and size; None for other weights."""
    old, new = _grid(_config(published)), _grid(model.network.config)
    if name.endswith("time_embeddings") or ".temporal_" in name:
        return resample(weight, (old[0], 1, 1), (new[0], 1, 1))
    if not name.endswith("position_embeddings"):
        return None
    kind = model.network.config.model_type
    if kind == "vivit":
        return torch.cat([weight[:, :1], resample(weight[:, 1:], old, new)], dim=1)
    places = (1, *old[1:]), (1, *new[1:])
    if kind == "timesformer":
        return torch.cat([weight[:, :1], resample(weight[:, 1:], *places)], dim=1)
    return resample(weight, *places)


Grid = tuple[int, int, int]
"""Number of tokens over time, height and width."""


def _config(values: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    rest = {key: value for key, value in values.items() if key != "model_type"}
    return AutoConfig.for_model(values["model_type"], **rest)


def _grid(config: Any) -> Grid:
    names = TYPES[config.model_type]
    size, frames = getattr(config, names.size), getattr(config, names.frames)
    tubelet = getattr(config, "tubelet_size", 1)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if isinstance(tubelet, int):
        patch = config.patch_size
        patches = (patch, patch) if isinstance(patch, int) else tuple(patch)
        tubelet = (tubelet, *patches)
    return frames // tubelet[0], sides[0] // tubelet[1], sides[1] // tubelet[2]


def num_tokens(config: Any) -> int:
    """Number of tokens of a clip, without a class token."""
    return math.prod(_grid(config))


def _check_grid(config: Any) -> None:
    names = TYPES[config.model_type]
    if 0 in _grid(config):
        raise UserError(
            f"{getattr(config, names.frames)} frames of {getattr(config, names.size)}² pixels are "
            f"less than one token of this {config.model_type}: raise `frames` or `size`."
        )


def _sinusoids(config: Any) -> Tensor:
    from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

    return get_sinusoid_encoding_table(math.prod(_grid(config)), config.hidden_size)


def resample(table_1ND: Tensor, old: Grid, new: Grid) -> Tensor:
    """Interpolate an embedding of all tokens to another grid."""
    grid = table_1ND.transpose(1, 2).unflatten(2, old)
    return interpolate(grid, new, mode="trilinear").flatten(2).transpose(1, 2)


def _processing(folder: Path, source: str) -> dict[str, Any]:
    """Size and normalization as the checkpoint's processor does them."""
    from transformers import AutoImageProcessor, AutoVideoProcessor

    processor: Any = None
    for kind in (AutoVideoProcessor, AutoImageProcessor):
        try:
            processor = kind.from_pretrained(folder)
            break
        except (OSError, ValueError, ImportError):
            continue
    if processor is None:
        raise UserError(
            f"{source} has no preprocessor_config.json, which says how frames are normalized: "
            "download it beside config.json."
        )
    settings: dict[str, Any] = {}
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
        settings |= {"mean": tuple(mean), "std": tuple(std)}
    else:
        settings |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    size, crop = dict(processor.size), dict(getattr(processor, "crop_size", None) or {})
    if processor.do_resize:
        settings["resize"] = size.get("shortest_edge") or size["height"]
    if getattr(processor, "do_center_crop", False) and crop:
        settings["crop"] = crop["height"]
    elif "height" in size:
        settings["crop"] = size["height"]
    return settings
