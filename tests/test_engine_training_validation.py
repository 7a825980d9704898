"""The metrics of a validation, against scikit-learn's."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from dali_pipelines.loaders.loader_config import Batch
from engine.training.validation import validate


class Given(nn.Module):
    """Returns its input: the clips are the logits."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips


@pytest.mark.parametrize("num_classes", [2, 4, 9])
def test_metrics_are_those_of_scikit_learn(num_classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    generator = torch.Generator().manual_seed(num_classes)
    logits_NC = torch.randn(50, num_classes, generator=generator)
    labels_N = torch.randint(0, max(2, num_classes - 2), (50,), generator=generator)  # some lack
    batches = [
        Batch(logits, labels, torch.arange(len(labels)))
        for logits, labels in zip(logits_NC.split(8), labels_N.split(8), strict=True)
    ]
    batches.insert(2, Batch(logits_NC[:0], labels_N[:0], torch.arange(0)))
    found = validate(Fabric(accelerator="cpu"), Given(), batches, num_classes)  # type: ignore[arg-type]
    best_N = logits_NC.argmax(dim=1).numpy()
    chances_NC = logits_NC.softmax(dim=1).numpy()
    classes = np.arange(num_classes)
    expected = {
        "num_clips": 50,
        "loss": metrics.log_loss(labels_N, chances_NC, labels=classes),
        "top1": metrics.accuracy_score(labels_N, best_N),
        "f1": metrics.f1_score(labels_N, best_N, average="macro"),
    }
    if num_classes > 5:
        expected["top5"] = metrics.top_k_accuracy_score(labels_N, chances_NC, k=5, labels=classes)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert num_classes > 5 or found["top5"] == 1


def test_without_clips_there_is_only_their_number() -> None:
    assert validate(Fabric(accelerator="cpu"), Given(), [], 3) == {"num_clips": 0.0}  # type: ignore[arg-type]
