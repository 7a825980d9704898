"""Freezes pretrained layers while new layers are trained."""

from torch import nn

NEW_PARTS = ("embed", "recurrent", "transition", "pooling", "dropout", "head")
"""Layers, in any family, that are not pretrained; all others come with published weights."""
NEW_IN_NETWORK = ("network.pooler.", "network.head.", "network.head_layernorm.")
"""The same in classifiers of `transformers`: their poolers. An image backbone may have parts of
these names, too, which are pretrained."""


def set_frozen(model: nn.Module, frozen: bool, share: float = 0.0) -> None:
    """Freeze or unfreeze the pretrained layers; frozen ones keep their normalization statistics.

    A model that was built with a frozen backbone is left unchanged.

    Args:
        model: Changed in place; in training mode.
        frozen: Freeze all pretrained layers.
        share: Otherwise, freeze this share of them, counted from the input.
    """
    if getattr(model, "frozen", False):
        return
    layers: dict[str, list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        weight.requires_grad_(True)
        if not is_new(name):
            layers.setdefault(name.rpartition(".")[0], []).append(weight)
    num_frozen = len(layers) if frozen else round(share * len(layers))
    for layer in list(layers)[:num_frozen]:
        for weight in layers[layer]:
            weight.requires_grad_(False)
    for name, child in model.named_children():
        if frozen and name not in NEW_PARTS:
            child.eval()
    for module in model.modules() if share else ():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            module.eval()


def is_new(name: str) -> bool:
    """True if the parameter `name` belongs to a layer that is not pretrained."""
    return (
        name.partition(".")[0] in NEW_PARTS
        or ".classifier." in name
        or name.startswith(NEW_IN_NETWORK)
    )
