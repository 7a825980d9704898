"""Holding still what was learned elsewhere, while what is new learns."""

from torch import nn

NEW_PARTS = ("embed", "recurrent", "transition", "dropout", "head")
"""Of all families; whatever else a model has came with its published weights."""


def set_frozen(model: nn.Module, frozen: bool) -> None:
    """Weights of the old parts learn or not; frozen, their normalization keeps its statistics.

    A model that was built with a frozen backbone keeps it so.
    """
    if getattr(model, "frozen", False):
        return
    for name, weight in model.named_parameters():
        weight.requires_grad_(not frozen or is_new(name))
    for name, child in model.named_children():
        if frozen and name not in NEW_PARTS:
            child.eval()


def is_new(name: str) -> bool:
    return name.partition(".")[0] in NEW_PARTS or ".classifier." in name
