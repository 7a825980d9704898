"""Evaluates a model on the validation split during training."""

import torch
from lightning_fabric import Fabric
from torch import nn

from dali_pipelines.loaders.loader_config import ClipLoader
from engine.confusion import macro, rates_of


@torch.no_grad()
def validate(
    fabric: Fabric, model: nn.Module, loader: ClipLoader, num_classes: int
) -> dict[str, float]:
    """Compute `loss`, `top1`, `top5`, `f1` (macro) and `num_clips` over the clips of all ranks.

    If no clip could be read, only `num_clips` is returned.
    """
    loss = torch.zeros((), dtype=torch.float64, device=fabric.device)
    in_top5 = torch.zeros_like(loss)
    confusion_CC = torch.zeros(num_classes, num_classes, dtype=loss.dtype, device=fabric.device)
    model.eval()
    for batch in loader:
        if not len(batch.ids):
            continue
        clips, labels_B = fabric.to_device((batch.clips, batch.labels))
        with fabric.autocast():
            logits_BC = model(clips).float()
        loss += nn.functional.cross_entropy(logits_BC, labels_B, reduction="sum")
        best = logits_BC.topk(min(5, num_classes)).indices
        in_top5 += (best == labels_B[:, None]).sum()
        ones = torch.ones(len(labels_B), dtype=loss.dtype, device=fabric.device)
        confusion_CC.index_put_((labels_B, logits_BC.argmax(dim=1)), ones, accumulate=True)
    model.train()
    sums = torch.cat([torch.stack([loss, in_top5]), confusion_CC.flatten()])
    sums = fabric.all_reduce(sums, reduce_op="sum").cpu()
    counts_CC = sums[2:].reshape(num_classes, num_classes).numpy()
    num_clips = float(counts_CC.sum())
    if not num_clips:
        return {"num_clips": 0.0}
    return {
        "num_clips": num_clips,
        "loss": float(sums[0]) / num_clips,
        "top1": float(counts_CC.trace()) / num_clips,
        "top5": float(sums[1]) / num_clips,
        "f1": macro(rates_of(counts_CC)["f1"], counts_CC),
    }
