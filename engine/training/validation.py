"""Evaluates a model on the validation split during training."""

from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from dali_pipelines.loaders.loader_config import ClipLoader


@torch.no_grad()
def validate(
    fabric: Fabric, model: nn.Module, loader: ClipLoader, num_classes: int
) -> dict[str, float]:
    """Compute `loss`, `top1`, `top5`, `f1` (macro) and `num_clips` over the clips of all ranks.

    If no clip could be read, only `num_clips` is returned.
    """
    metrics: dict[str, Any] = {
        "num_clips": SumMetric(),
        "loss": MeanMetric(),
        "top1": MulticlassAccuracy(num_classes, average="micro"),
        "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
        "f1": MulticlassF1Score(num_classes, average="macro"),
    }
    for metric in metrics.values():
        metric.to(fabric.device)
    model.eval()
    for batch in loader:
        if not len(batch.ids):
            continue
        clips, labels = fabric.to_device((batch.clips, batch.labels))
        with fabric.autocast():
            logits = model(clips).float()
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        metrics["num_clips"].update(len(labels))
        metrics["loss"].update(losses)
        for name in ("top1", "top5", "f1"):
            metrics[name].update(logits, labels)
    model.train()
    if not metrics["num_clips"].compute():
        return {"num_clips": 0.0}
    return {name: float(metric.compute()) for name, metric in metrics.items()}
