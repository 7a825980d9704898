"""Loads pretrained weights: published ones by name, files, and checkpoints of this package.

Position and time embeddings are interpolated if the number of frames or the size differs, and the
head keeps its random weights if the classes differ. The report lists which weights were loaded,
interpolated or skipped.
"""

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.models import hf, timesformer
from engine.models.backbone import offline
from engine.models.freezing import is_new
from engine.models.timm_loading import load_timm
from engine.models.vivit import JointViViT

ALONG_ONE_AXIS = re.compile(r"\.(temporal_pos|rel_pos_[thw])$")
"""Embeddings of MViT with one row for each time step, or for each distance."""
FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(kw_only=True)
class WeightsReport:
    """Which weights were loaded, interpolated, missing or not used."""

    source: str
    num_loaded: int = 0
    interpolated: list[str] = field(default_factory=list)
    new_head: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Weights of the model that the file doesn't contain; they stay random."""
    unused: list[str] = field(default_factory=list)
    """Weights of the file that the model doesn't have."""

    def describe(self) -> str:
        """One line for the log."""
        parts = [f"{self.source}: {self.num_loaded} weights loaded"]
        for outcome, names in (
            ("interpolated to this number of frames or size", self.interpolated),
            ("new, for these classes", self.new_head),
            ("not in the file, initialized at random", self.missing),
            ("in the file, not used by this model", self.unused),
        ):
            if names:
                parts.append(f"{len(names)} {outcome} ({_first_names(names)})")
        return "; ".join(parts)


def load(model: nn.Module, source: str) -> WeightsReport:
    """Load pretrained weights into `model`.

    Args:
        model: The model to change.
        source: A folder, a file, or a name on the Hugging Face Hub.

    Returns:
        Which weights were loaded, interpolated, missing or not used.

    Raises:
        UserError: The weights can't be found, fetched or read, or don't fit the model.
    """
    if isinstance(model, hf.HfClassifier) and not Path(source).is_file():
        weights, published = hf.read_weights(source)
        return fit(model, weights, source, published=published)
    path = _find(source)
    grids = _token_grids(model, path)
    weights = _read_vivit(path.parent) if grids else _read(path)
    return fit(model, weights, source, grids)


def fit(
    model: nn.Module,
    weights: dict[str, Tensor],
    source: str,
    grids: tuple[hf.Grid, hf.Grid] | None = None,
    published: dict[str, Any] | None = None,
) -> WeightsReport:
    """Load weights that are in memory; `source` is their name in the report and in errors.

    Args:
        model: The model to change.
        weights: Weights by name, in any naming convention that is known here or to the model.
        source: Where they come from.
        grids: Token grids of the weights and of the model; only for a joint ViViT.
        published: Config of the checkpoint; only for `hf`.

    Raises:
        UserError: The weights don't fit the model.
    """
    weights = _best_naming(model, weights)
    report = WeightsReport(source=source)
    own = model.state_dict()
    fitting: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name not in own:
            report.unused.append(name)
        elif weight.shape == own[name].shape:
            fitting[name] = weight
        elif _is_head(name):
            report.new_head.append(name)
        elif (resized := _resized(model, name, weight, own[name], grids, published)) is not None:
            fitting[name] = resized
            report.interpolated.append(name)
        else:
            raise UserError(
                f"{source} doesn't fit the model: {name} is {_shape(weight)} in the file and "
                f"{_shape(own[name])} in the model; choose another `preset`, or `weights='none'`."
            )
    pretrained = [name for name in own if not is_new(name)]
    num_found = sum(name in fitting for name in pretrained)
    if num_found < len(pretrained) / 2:
        raise UserError(
            f"{source} holds {num_found} of this model's {len(pretrained)} weights (new layers not "
            "counted); choose another `model` or `preset`, or `weights='none'`."
        )
    model.load_state_dict(fitting, strict=False)
    report.num_loaded = len(fitting)
    report.missing = [name for name in own if name not in fitting and name not in report.new_head]
    return report


def _resized(
    model: nn.Module,
    name: str,
    weight: Tensor,
    target: Tensor,
    grids: tuple[hf.Grid, hf.Grid] | None,
    published: dict[str, Any] | None,
) -> Tensor | None:
    """A position embedding in the model's size; None if it doesn't fit, or for other weights."""
    if published is None:
        return _interpolate(name, weight, target, grids)
    assert isinstance(model, hf.HfClassifier)
    resized = hf.resize_positions(name, weight, published, model)
    return resized if resized is not None and resized.shape == target.shape else None


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
            "Face Hub, for example facebook/timesformer-base-finetuned-k400."
        )
    return _fetch(source)


def _fetch(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    missing: Exception | None = None
    for file in FILES:
        try:
            path = Path(hf_hub_download(name, file))
            with suppress(EntryNotFoundError):
                hf_hub_download(name, "config.json")  # _token_grids reads it beside the weights
            return path
        except EntryNotFoundError as error:
            missing = error
        except (OSError, ValueError, RuntimeError) as error:
            raise offline(name, error) from error
    if isinstance(missing, LocalEntryNotFoundError):
        raise offline(name, missing) from missing
    raise UserError(f"{name} on the Hugging Face Hub holds neither {FILES[0]} nor {FILES[1]}.")


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"{path} can't be read as weights ({reason}).") from error
    for key in ("state_dict", "model_state", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UserError(f"{path} can't be read as weights (it is no state dict).")
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _read_vivit(folder: Path) -> dict[str, Tensor]:
    """Read with `transformers`, since the names in its files are not those of its module."""
    from transformers import VivitForVideoClassification

    try:
        return VivitForVideoClassification.from_pretrained(folder).state_dict()
    except Exception as error:  # many types, as in _read
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"{folder} can't be read as weights ({reason}).") from error


def _best_naming(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, renamed by the naming convention that matches most of the model's names."""
    attention: Any = getattr(model, "kind", "divided")
    namings = [
        weights,
        {f"backbone.network.{name}": weight for name, weight in weights.items()},
        {f"network.{name}": weight for name, weight in weights.items()},
        timesformer.from_transformers(weights, attention),
    ]
    if hasattr(model, "from_published"):
        namings.append(model.from_published(weights))
    own = set(model.state_dict())
    return max(namings, key=lambda naming: len(own & set(naming)))


def _is_head(name: str) -> bool:
    return name.startswith("head.") or ".classifier." in name


def _token_grids(model: nn.Module, path: Path) -> tuple[hf.Grid, hf.Grid] | None:
    """Token grids of the file, from the config beside it, and of the model; None if not needed."""
    import json

    config = path.with_name("config.json")
    if not isinstance(model, JointViViT) or path.name not in FILES or not config.is_file():
        return None
    published = json.loads(config.read_text())
    own: Any = model.network.config
    try:
        return (
            _token_grid(
                published["num_frames"], published["image_size"], published["tubelet_size"]
            ),
            _token_grid(own.num_frames, own.image_size, own.tubelet_size),
        )
    except KeyError:
        return None


def _token_grid(num_frames: int, size: int, tubelet: list[int]) -> hf.Grid:
    return num_frames // tubelet[0], size // tubelet[1], size // tubelet[2]


def _interpolate(
    name: str, weight: Tensor, target: Tensor, grids: tuple[hf.Grid, hf.Grid] | None
) -> Tensor | None:
    """Resize a position or time embedding; None for any other weight."""
    load_timm()
    from timm.layers import resample_abs_pos_embed
    from torch.nn.functional import interpolate

    if ALONG_ONE_AXIS.search(name) and weight.shape[1:] == target.shape[1:]:
        return interpolate(weight.T[None], len(target), mode="linear")[0].T
    if name.endswith(".spatial_pos") and weight.shape[1:] == target.shape[1:]:
        side = math.isqrt(len(target))
        return resample_abs_pos_embed(weight[None], [side, side], num_prefix_tokens=0)[0]
    if weight.ndim != 3 or weight.shape[0] != 1 or weight.shape[2] != target.shape[2]:
        return None
    count = target.shape[1]
    if name == "times":
        return interpolate(weight.transpose(1, 2), count, mode="linear").transpose(1, 2)
    if grids is not None and name.endswith("embeddings.position_embeddings"):
        old, new = grids
        return torch.cat([weight[:, :1], hf.resample(weight[:, 1:], old, new)], dim=1)
    if name.endswith(("positions", "pos_embed")):
        side = math.isqrt(count)
        num_prefix = count - side * side  # tokens without a position, such as the class token
        return resample_abs_pos_embed(weight, [side, side], num_prefix_tokens=num_prefix)
    return None


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


def _shape(weight: Tensor) -> str:
    return "×".join(map(str, weight.shape))
