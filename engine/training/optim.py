"""Optimizers and schedules: which weights learn how fast, and when."""

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
    optimizer: OptimizerName = "adamw"
    lr: Positive = 1e-4
    momentum: ShareBelowOne = 0.9
    """Of SGD alone."""
    weight_decay: NotNegative = 0.05
    """On matrices and kernels; never on biases, normalization and embeddings of places."""
    layer_decay: Positive = 1.0
    """Each block learns this much slower than the one behind it; 1 makes all alike."""
    clip_grad: NotNegative = 1.0
    """Greatest length of the gradient; 0 leaves it alone."""
    schedule: ScheduleName = "cosine"
    warmup: ShareBelowOne = 0.1
    """Share of all steps in which the rate rises from nought; `plateau` has no warm-up."""
    step_epochs: Count = 10
    """Epochs after which `step` divides the rate by ten, again and again, and without any gain in
    which `plateau` does."""

    def __post_init__(self) -> None:
        check(self)


def make_optimizer(model: "nn.Module", config: OptimConfig) -> "Optimizer":
    import torch

    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(groups, lr=config.lr)


def parameter_groups(model: "nn.Module", config: OptimConfig) -> list[dict[str, Any]]:
    """One group for each rate and weight decay, over all weights, frozen ones too."""
    depths = depths_of([name for name, _ in model.named_parameters()])
    last = max(depths.values())
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, weight in model.named_parameters():
        lr = config.lr * config.layer_decay ** (last - depths[name])
        bare = weight.ndim < 2 or (weight.ndim == 3 and weight.shape[0] == 1)  # embeddings last
        decay = 0.0 if bare else config.weight_decay
        groups.setdefault((lr, decay), []).append(weight)
    return [
        {"params": weights, "lr": lr, "weight_decay": decay}
        for (lr, decay), weights in groups.items()
    ]


def depths_of(names: list[str]) -> dict[str, int]:
    """How deep each weight lies, read off its name: a numbered block lies one deeper than the one
    before it, what stands before the blocks is 0, what stands behind them deepest, and what stands
    between two as deep as the first of them."""
    block = re.compile(r"^((?:\w+\.)*?(?:blocks|layers?|layer\d|features|space|time)\.\d+)\.")
    blocks = list(dict.fromkeys(found[1] for name in names if (found := block.match(name))))
    depth_of = {found: number for number, found in enumerate(blocks, 1)}
    left = sum(1 for name in names if block.match(name))
    depth = 0
    depths = {}
    for name in names:
        if found := block.match(name):
            depth = depth_of[found[1]]
            left -= 1
            depths[name] = depth
        else:
            depths[name] = depth if left else len(blocks) + 1
    return depths


def make_schedule(
    optimizer: "Optimizer", config: OptimConfig, *, num_steps: int, steps_per_epoch: int
) -> "LRScheduler":
    """`plateau` steps with each epoch's metric, the others after each step."""
    from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

    if config.schedule == "plateau":
        return ReduceLROnPlateau(
            optimizer,
            mode="max",
            patience=config.step_epochs - 1,
            threshold=0.0,
            threshold_mode="abs",  # a relative one is wrong for values below nought
        )
    warm = round(config.warmup * num_steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        if config.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, num_steps - warm)))
        if config.schedule == "step":
            return 0.1 ** (step // (config.step_epochs * steps_per_epoch))
        return 1.0

    return LambdaLR(optimizer, factor)
