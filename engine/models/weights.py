"""Weights from elsewhere into a model: published ones by name, files, and checkpoints of our own.

What fits is loaded, positions and times are interpolated where frames or sizes differ, the head
stays new where the classes differ; the report says which weight met which fate.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.models import timesformer
from engine.models.backbone import offline
from engine.models.freezing import is_new
from engine.models.vivit import JointViViT

FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(kw_only=True)
class WeightsReport:
    source: str
    num_loaded: int = 0
    interpolated: list[str] = field(default_factory=list)
    new_head: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Of the model, begun at random."""
    unused: list[str] = field(default_factory=list)
    """Of the file."""

    def describe(self) -> str:
        parts = [f"{self.source}: {self.num_loaded} weights loaded"]
        for what, names in (
            ("interpolated to this number of frames or size", self.interpolated),
            ("new, for these classes", self.new_head),
            ("not in the file, begun at random", self.missing),
            ("in the file, of no use here", self.unused),
        ):
            if names:
                parts.append(f"{len(names)} {what} ({_some(names)})")
        return "; ".join(parts)


def load(model: nn.Module, source: str) -> WeightsReport:
    """`source` is a folder, a file, or a name on the Hugging Face hub."""
    path = _find(source)
    tubes = _tubes(model, path)
    found = _best_naming(model, _read_vivit(path.parent) if tubes else _read(path))
    report = WeightsReport(source=source)
    own = model.state_dict()
    fitting: dict[str, Tensor] = {}
    for name, weight in found.items():
        if name not in own:
            report.unused.append(name)
        elif weight.shape == own[name].shape:
            fitting[name] = weight
        elif _is_head(name):
            report.new_head.append(name)
        elif (resized := _interpolate(name, weight, own[name], tubes)) is not None:
            fitting[name] = resized
            report.interpolated.append(name)
        else:
            raise UserError(
                f"{source} doesn't fit the model: {name} is {_shape(weight)} there and "
                f"{_shape(own[name])} here; choose another --preset, or --weights none."
            )
    old = [name for name in own if not is_new(name)]
    num_found = sum(name in fitting for name in old)
    if num_found < len(old) / 2:
        raise UserError(
            f"{source} holds {num_found} of this model's {len(old)} weights (its new parts not "
            "counted); choose another --model or --preset, or --weights none."
        )
    model.load_state_dict(fitting, strict=False)
    report.num_loaded = len(fitting)
    report.missing = [name for name in own if name not in fitting and name not in report.new_head]
    return report


def _find(source: str) -> Path:
    path = Path(source)
    if path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path} holds neither {FILES[0]} nor {FILES[1]}.")
    if path.is_file():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(
            f"there are no weights {source!r}: name a folder, a file, or a model on the Hugging "
            "Face hub, as in facebook/timesformer-base-finetuned-k400."
        )
    return _fetch(source)


def _fetch(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    missing: Exception | None = None
    for file in FILES:
        try:
            found = Path(hf_hub_download(name, file))
            with suppress(EntryNotFoundError):
                hf_hub_download(name, "config.json")  # beside it
            return found
        except EntryNotFoundError as error:
            missing = error
        except (OSError, ValueError, RuntimeError) as error:
            raise offline(name, error) from error
    if isinstance(missing, LocalEntryNotFoundError):
        raise offline(name, missing) from missing
    raise UserError(f"{name} on the Hugging Face hub holds neither {FILES[0]} nor {FILES[1]}.")


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has a dozen for a damaged file
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"{path} can't be read as weights ({reason}).") from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise UserError(f"{path} can't be read as weights (it holds no names).")
    return {
        name: value
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _read_vivit(folder: Path) -> dict[str, Tensor]:
    """By `transformers` itself, whose names on disk are not those of its module."""
    from transformers import VivitForVideoClassification

    try:
        return VivitForVideoClassification.from_pretrained(folder).state_dict()
    except Exception as error:  # as above
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"{folder} can't be read as weights ({reason}).") from error


def _best_naming(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's weights under the model's names: of all conventions that of most matches."""
    kind: Any = getattr(model, "kind", "divided")
    namings = [
        weights,
        {f"backbone.network.{name}": weight for name, weight in weights.items()},
        {f"network.{name}": weight for name, weight in weights.items()},
        timesformer.from_transformers(weights, kind),
    ]
    own = set(model.state_dict())
    return max(namings, key=lambda naming: len(own & set(naming)))


def _is_head(name: str) -> bool:
    return name.startswith("head.") or ".classifier." in name


Tubes = tuple[int, int, int]
"""Of a joint ViViT: how many tokens there are over time, height and width."""


def _tubes(model: nn.Module, path: Path) -> tuple[Tubes, Tubes] | None:
    """The published file's and the model's; the configuration beside the file tells its own."""
    import json

    config = path.with_name("config.json")
    if not isinstance(model, JointViViT) or path.name not in FILES or not config.is_file():
        return None
    theirs = json.loads(config.read_text())
    own: Any = model.network.config
    try:
        return (
            _tubes_of(theirs["num_frames"], theirs["image_size"], theirs["tubelet_size"]),
            _tubes_of(own.num_frames, own.image_size, own.tubelet_size),
        )
    except KeyError:
        return None


def _tubes_of(num_frames: int, size: int, tubelet: list[int]) -> Tubes:
    return num_frames // tubelet[0], size // tubelet[1], size // tubelet[2]


def _interpolate(
    name: str, weight: Tensor, target: Tensor, tubes: tuple[Tubes, Tubes] | None
) -> Tensor | None:
    """An embedding of places or times, resized; None for any other weight."""
    from timm.layers import resample_abs_pos_embed
    from torch.nn.functional import interpolate

    if weight.ndim != 3 or weight.shape[0] != 1 or weight.shape[2] != target.shape[2]:
        return None
    count = target.shape[1]
    if name == "times":
        return interpolate(weight.transpose(1, 2), count, mode="linear").transpose(1, 2)
    if tubes is not None and name.endswith("embeddings.position_embeddings"):
        old, new = tubes
        grid = weight[:, 1:].transpose(1, 2).unflatten(2, old)
        resized = interpolate(grid, new, mode="trilinear").flatten(2).transpose(1, 2)
        return torch.cat([weight[:, :1], resized], dim=1)
    if name.endswith(("positions", "pos_embed")):
        side = math.isqrt(count)
        extra = count - side * side  # tokens that stand for no place
        return resample_abs_pos_embed(weight, [side, side], num_prefix_tokens=extra)
    return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


def _shape(weight: Tensor) -> str:
    return "×".join(map(str, weight.shape))
