"""Optimizers, parameter groups and learning rate schedules."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dali_pipelines.settings import Count, NotNegative, Positive, ShareBelowOne, check

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["cosine", "step", "plateau", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Settings of the optimizer and the learning rate schedule."""

    optimizer: OptimizerName = "adamw"
    lr: Positive = 1e-4
    momentum: ShareBelowOne = 0.9
    """Only used by SGD."""
    weight_decay: NotNegative = 0.05
    """Applied to matrices and kernels, not to biases, normalization and position embeddings."""
    layer_decay: Positive = 1.0
    """Ratio of a block's learning rate to the next block's; 1 uses one rate for all."""
    clip_grad: NotNegative = 1.0
    """Maximum norm of the gradient; 0 disables clipping."""
    schedule: ScheduleName = "cosine"
    warmup: ShareBelowOne = 0.1
    """Share of all steps with linear warmup; `plateau` has no warmup."""
    step_epochs: Count = 10
    """`step` divides the learning rate by ten each time this many epochs have passed, `plateau`
    when the metric has not improved for this many epochs."""

    def __post_init__(self) -> None:
        check(self)


def make_optimizer(model: "nn.Module", config: OptimConfig) -> "Optimizer":
    """Create the optimizer with `parameter_groups` of the model."""
    import torch

    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return optimizer_class(groups, lr=config.lr)


def parameter_groups(model: "nn.Module", config: OptimConfig) -> list[dict[str, Any]]:
    """Group all parameters, also frozen ones, by learning rate and weight decay."""
    depths = depths_of([name for name, _ in model.named_parameters()])
    last = max(depths.values())
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, weight in model.named_parameters():
        lr = config.lr * config.layer_decay ** (last - depths[name])
        is_embedding = weight.ndim == 3 and weight.shape[0] == 1
        decay = 0.0 if weight.ndim < 2 or is_embedding else config.weight_decay
        groups.setdefault((lr, decay), []).append(weight)
    return [
        {"params": weights, "lr": lr, "weight_decay": decay}
        for (lr, decay), weights in groups.items()
    ]


def depths_of(names: list[str]) -> dict[str, int]:
    """Depth of each parameter in the network, parsed from its name.

    Numbered blocks have depths 1, 2, 3 and so on. Parameters before the blocks have depth 0,
    parameters after them the largest depth, and parameters between two blocks the depth of the
    first of the two.
    """
    kinds = r"blocks|(?:\w+_)?layers?|layer\d|features|space|time"
    block = re.compile(rf"^((?:\w+\.)*?(?:{kinds})\.\d+)\.")
    blocks = list(dict.fromkeys(match[1] for name in names if (match := block.match(name))))
    depth_of = {name: number for number, name in enumerate(blocks, 1)}
    num_left = sum(1 for name in names if block.match(name))
    depth = 0
    depths = {}
    for name in names:
        if match := block.match(name):
            depth = depth_of[match[1]]
            num_left -= 1
            depths[name] = depth
        else:
            depths[name] = depth if num_left else len(blocks) + 1
    return depths


def make_schedule(
    optimizer: "Optimizer", config: OptimConfig, *, num_steps: int, steps_per_epoch: int
) -> "LRScheduler":
    """Create the schedule; step `plateau` with each epoch's metric, the others after each step."""
    from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

    if config.schedule == "plateau":
        return ReduceLROnPlateau(
            optimizer,
            mode="max",
            patience=config.step_epochs - 1,
            threshold=0.0,
            threshold_mode="abs",  # a relative threshold is wrong for negative values
        )
    num_warmup = round(config.warmup * num_steps)

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        if config.schedule == "cosine":
            progress = (step - num_warmup) / max(1, num_steps - num_warmup)
            return 0.5 * (1 + math.cos(math.pi * progress))
        if config.schedule == "step":
            return 0.1 ** (step // (config.step_epochs * steps_per_epoch))
        return 1.0

    return LambdaLR(optimizer, factor)
