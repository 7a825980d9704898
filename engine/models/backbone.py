"""A picture network of another library as the eye of a recurrent model.

Names are timm's; `torchvision:` and `hf:` before a name take it from there.
"""

from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UserError, unknown_name
from engine.models import hub


class Backbone(nn.Module):
    """Pictures (B, C, H, W) to features (B, `width`).

    Most networks average over the picture at their end, and forget where things are. With
    `reduction` 8, say, features are taken where the picture has become 8 times smaller, and each
    place keeps its own: motion across small pictures is learned so, without any pretraining.
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
                f"unknown source of backbones {source!r}; write torchvision:, hf: or nothing "
                "before the name, for timm."
            )
        if reduction and source:
            raise UserError(f"a reduction needs one of timm's backbones, not {name}.")
        self._level: int | None = None
        try:
            if source == "torchvision":
                self.network: nn.Module = _from_torchvision(model, pretrained)
            elif source == "hf":
                self.network = _from_transformers(model, pretrained, config)
            else:
                self.network, self._level = _from_timm(model, size, pretrained, reduction)
        except (OSError, ValueError, RuntimeError) as error:  # each library has its own
            raise offline(name, error) from error
        try:
            self.width = self._probe(size)
        except RuntimeError as error:
            raise UserError(
                f"{name} can't read pictures of {size}² pixels ({str(error).splitlines()[0]}): "
                "take another --size."
            ) from error

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        if self._level is not None:
            maps = self.network.forward_intermediates(
                pictures_BCHW, indices=[self._level], intermediates_only=True
            )
            return maps[0].flatten(1)
        found = self.network(pictures_BCHW)
        return found if isinstance(found, Tensor) else found.last_hidden_state[:, 0]

    def _probe(self, size: int) -> int:
        self.eval()
        with torch.no_grad():
            width = self(torch.zeros(1, 3, size, size)).shape[1]
        self.train()
        return int(width)


def _from_timm(
    name: str, size: int, pretrained: bool, reduction: int
) -> tuple[nn.Module, int | None]:
    """The network, and which of its levels to read where a reduction is asked for."""
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"{name[:4]}*")[:20]
        raise unknown_name("timm model", name, near or timm.list_models("vit_*")[:20])
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if timm.models.is_model_in_modules(name, ["vision_transformer", "deit"]):
        # Position embeddings are made for one size, and need no resampling then.
        options |= {"img_size": size, "dynamic_img_size": False}
    network = timm.create_model(name, **options)
    if not reduction:
        return network, None
    levels = [level["reduction"] for level in network.feature_info]
    if reduction not in levels:
        raise UserError(f"{name} reduces a picture by {levels}, not by {reduction}.")
    level = len(levels) - 1 - levels[::-1].index(reduction)  # in a ViT all levels are alike
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
    raise UserError(f"torchvision's {name} has no head that could be taken off; choose another.")


def _from_transformers(name: str, pretrained: bool, config: dict[str, Any] | None) -> nn.Module:
    """`config` makes the network anew where its name can't be looked up any more."""
    from transformers import AutoConfig, AutoModel

    if config is not None:
        network = AutoModel.from_config(AutoConfig.for_model(**config))
    elif pretrained:
        network = AutoModel.from_pretrained(name)
    else:
        network = AutoModel.from_config(AutoConfig.from_pretrained(name))
    if getattr(network, "pooler", None) is not None:
        network.pooler.requires_grad_(False)  # what it says is not used
    return network


def offline(name: str, error: Exception) -> UserError:
    """The error for weights that aren't on this machine and can't be fetched."""
    fix = "pass --weights none to begin from random ones, or --weights with a folder that holds a"
    if name.startswith("hf:"):
        fix = "name a folder, as in --option backbone=hf:FOLDER, that holds a"
    return UserError(
        f"the weights {name!r} are not on this machine and can't be fetched "
        f"({hub.reason(error)}): {fix} copy."
    )
