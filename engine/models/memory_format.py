"""The memory format of a model's weights."""

import torch
from torch import nn


def channels_last(model: nn.Module) -> nn.Module:
    """Convert 2D convolutions to channels_last, which is faster on CPUs and GPUs."""
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return model
