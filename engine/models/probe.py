"""A probe: the last layers of a model, trained on features that its other layers computed once.

A model can be probed if it has `encode`, which maps clips to features, and after it either
`classify` and `first_new_layer`, or only a linear `head`. Shape letters: B batch, F features.
"""

from typing import Any

from torch import Tensor, nn

from engine.errors import UserError
from engine.models.freezing import NEW_PARTS

SMALLEST_STD = 1e-3
"""Features that hardly vary in training would otherwise be amplified a lot."""


class Encoder(nn.Module):
    """The layers of a model that a probe doesn't train; maps clips (B, T, C, H, W) to features.

    Raises:
        UserError: The model can't be divided into an encoder and a head.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not hasattr(model, "encode"):
            raise UserError(
                f"{type(model).__name__} has no part that computes features: train it whole, "
                "without `probe`."
            )
        self.model: Any = model

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        return self.model.encode(clips_BTCHW)


class Probe(nn.Module):
    """The head of `model`, which takes standardized features; the rest of the model is frozen.

    Standardizing helps training, but is no layer of the model: `folded_weights` moves it into the
    head's first layer.

    Args:
        model: The model; its encoder has its final weights.
        features_BF: Features of the training clips, of any shape (B, …, F).
    """

    frozen = True
    """For engine.models.freezing: nothing is left to freeze."""

    def __init__(self, model: Any, features_BF: Tensor) -> None:
        super().__init__()
        self.model: Any = model
        model.requires_grad_(False)
        for layer in _new_layers(model):
            layer.requires_grad_(True)
        if getattr(model, "centered", False):
            features_BF = features_BF - features_BF.mean(dim=1, keepdim=True)
        self._num_places = features_BF.shape[-1] // _num_inputs(model)
        by_place = features_BF.unflatten(-1, (-1, self._num_places)).transpose(-1, -2)
        flat = by_place.flatten(0, -2)
        self.register_buffer("mean", flat.mean(dim=0))
        self.register_buffer("std", flat.std(dim=0).clamp_min(SMALLEST_STD))

    def forward(self, features_BF: Tensor) -> Tensor:
        mean, std = (value.repeat_interleave(self._num_places) for value in (self.mean, self.std))
        standardized_BF = (features_BF - mean) / std
        return getattr(self.model, "classify", self.model.head)(standardized_BF)

    def train(self, mode: bool = True) -> "Probe":
        """Set the mode of the head; the encoder stays in eval mode."""
        super().train(False)
        for layer in _new_layers(self.model):
            layer.train(mode)
        return self

    def folded_weights(self) -> dict[str, Tensor]:
        """State dict of a whole model that gives the same logits for plain features."""
        weights = self.model.state_dict()
        first = _first_new_layer(self.model)
        prefix = next(name for name, layer in self.model.named_modules() if layer is first)
        for name, bias_name in _input_weights(first):
            weight, bias = weights[f"{prefix}.{name}"], weights[f"{prefix}.{bias_name}"]
            folded = weight / self.std
            weights[f"{prefix}.{name}"] = folded
            weights[f"{prefix}.{bias_name}"] = bias - folded @ self.mean
        return weights


def _new_layers(model: Any) -> list[nn.Module]:
    layers = [layer for name, layer in model.named_children() if name in NEW_PARTS]
    return layers or [model.head]


def _first_new_layer(model: Any) -> nn.Module:
    layer: nn.Module = getattr(model, "first_new_layer", model.head)
    return layer


def _num_inputs(model: nn.Module) -> int:
    """Inputs of the first layer: all features, or those of one place in a frame."""
    layer = _first_new_layer(model)
    name, _ = _input_weights(layer)[0]
    return int(getattr(layer, name).shape[1])


def _input_weights(layer: nn.Module) -> list[tuple[str, str]]:
    """Names of the weights that the layer's input is multiplied with, and of their biases."""
    if not isinstance(layer, nn.RNNBase):
        return [("weight", "bias")]
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    return [(f"weight_ih_l0{direction}", f"bias_ih_l0{direction}") for direction in directions]
