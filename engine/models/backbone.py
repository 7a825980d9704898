"""Image backbones from timm, torchvision or transformers for the recurrent models.

Names are timm's by default; the prefixes `torchvision:` and `hf:` select the other libraries.
"""

from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UserError, unknown_name
from engine.models import hub
from engine.models.timm_loading import load_timm


class Backbone(nn.Module):
    """Maps frames (B, C, H, W) to features (B, `width`).

    Most networks end with global average pooling, which discards positions. With `reduction=8`,
    the features are the flattened feature map of stride 8, which keeps positions; so motion in
    small frames can be learned without pretraining.

    Args:
        name: timm name, or a name with the prefix `torchvision:` or `hf:`.
        size: Width and height of the frames.
        pretrained: Load the library's published weights.
        reduction: Stride of the feature map to use; 0 for the pooled features. Only for timm.
        config: Config of a `hf:` backbone; with it, nothing is fetched from the hub.

    Raises:
        UserError: The name is unknown, the weights can't be fetched, or the network doesn't
            support `size` or `reduction`.
    """

    def __init__(
        self,
        name: str,
        *,
        size: int,
        pretrained: bool = False,
        reduction: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        source, _, model = name.rpartition(":")
        if source not in ("", "torchvision", "hf"):
            raise UserError(
                f"unknown source of backbones {source!r}; put torchvision: or hf: before the name, "
                "or no prefix for timm."
            )
        if reduction and source:
            raise UserError(f"reduction needs a timm backbone, not {name}; set it to 0.")
        self._level: int | None = None
        self.num_places = 1
        """Positions that the features keep; each has the same channels."""
        try:
            if source == "torchvision":
                self.network: nn.Module = _from_torchvision(model, pretrained)
            elif source == "hf":
                self.network = _from_transformers(model, pretrained, config)
            else:
                self.network, self._level = _from_timm(model, size, pretrained, reduction)
        except (OSError, ValueError, RuntimeError) as error:  # depends on the library
            raise offline(name, error) from error
        try:
            self.width = self._probe(size)
        except RuntimeError as error:
            raise UserError(
                f"{name} can't process frames of {size}² pixels ({str(error).splitlines()[0]}): "
                "choose another `size`."
            ) from error

    def forward(self, frames_BCHW: Tensor) -> Tensor:
        if self._level is not None:
            maps = self.network.forward_intermediates(
                frames_BCHW, indices=[self._level], intermediates_only=True
            )
            self.num_places = maps[0].shape[2] * maps[0].shape[3]
            return maps[0].flatten(1)
        output = self.network(frames_BCHW)
        return output if isinstance(output, Tensor) else output.last_hidden_state[:, 0]

    def _probe(self, size: int) -> int:
        self.eval()
        with torch.no_grad():
            width = self(torch.zeros(1, 3, size, size)).shape[1]
        self.train()
        return int(width)


def _from_timm(
    name: str, size: int, pretrained: bool, reduction: int
) -> tuple[nn.Module, int | None]:
    """The network, and the index of the feature level that has the given reduction, if any."""
    timm = load_timm()
    if not timm.is_model(name):
        similar = timm.list_models(f"{name[:4]}*")[:20]
        raise unknown_name("timm model", name, similar or timm.list_models("vit_*")[:20])
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if timm.models.is_model_in_modules(name, ["vision_transformer", "deit"]):
        # Position embeddings are created for this size, so the forward pass needs no resampling.
        options |= {"img_size": size, "dynamic_img_size": False}
    network = timm.create_model(name, **options)
    if not reduction:
        return network, None
    levels = [level["reduction"] for level in network.feature_info]
    if reduction not in levels:
        raise UserError(
            f"{name} has no feature map of reduction {reduction}; choose one of {levels}."
        )
    level = len(levels) - 1 - levels[::-1].index(reduction)  # the last: ViT levels are all equal
    network.prune_intermediate_layers([level], prune_norm=True, prune_head=True)
    return network, level


def _from_torchvision(name: str, pretrained: bool) -> nn.Module:
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise unknown_name("torchvision model", name, names)
    network = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
    for head in ("classifier", "fc", "heads", "head"):
        if hasattr(network, head):
            setattr(network, head, nn.Identity())
            return network
    raise UserError(f"torchvision's {name} has no head that can be removed; choose another.")


def _from_transformers(name: str, pretrained: bool, config: dict[str, Any] | None) -> nn.Module:
    """Create the network from its name, or from `config` alone, without the hub."""
    from transformers import AutoConfig, AutoModel

    if config is not None:
        network = AutoModel.from_config(AutoConfig.for_model(**config))
    elif pretrained:
        network = AutoModel.from_pretrained(name)
    else:
        network = AutoModel.from_config(AutoConfig.from_pretrained(name))
    if getattr(network, "pooler", None) is not None:
        network.pooler.requires_grad_(False)  # its output is not used
    return network


def offline(name: str, error: Exception) -> UserError:
    """The error for weights that are not on this machine and can't be fetched."""
    fix = "pass `weights='none'` for random weights, or `weights` with a folder that contains a"
    if name.startswith("hf:"):
        fix = "name a folder, as in `option='backbone=hf:FOLDER'`, that contains a"
    return UserError(
        f"the weights {name!r} are not on this machine and can't be fetched "
        f"({hub.reason(error)}): {fix} copy."
    )
