"""The recurrent classifier that the recurrent families share.

The whole sequence goes through PyTorch's recurrent layer in one call, which compilers handle best.
Shape letters: B batch, T frames, F features.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dali_pipelines.settings import Count, Natural, ShareBelowOne, check
from engine.models.backbone import Backbone

Cell = Literal["rnn", "gru", "lstm"]
CELLS: dict[Cell, type[nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}

BF16_LSTM_FAILS: bool = (
    torch.backends.mkldnn.is_available() and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
)
"""On a CPU without AVX-512, an LSTM under bf16 autocast raises "could not create a primitive
descriptor", so the layer runs in fp32."""


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """Config of the recurrent layer."""

    cell: Cell = "lstm"
    hidden: Count = 256
    layers: Count = 1
    bidirectional: bool = True
    dropout: ShareBelowOne = 0.0
    """Between layers, and before the classifier."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def width(self) -> int:
        """Number of output features."""
        return self.hidden * (2 if self.bidirectional else 1)

    def build(self, features: int) -> nn.RNNBase:
        """Create the layer for `features` input features."""
        return CELLS[self.cell](
            features,
            self.hidden,
            num_layers=self.layers,
            bidirectional=self.bidirectional,
            dropout=self.dropout if self.layers > 1 else 0.0,
            batch_first=True,
        )


@dataclass(frozen=True, kw_only=True)
class RecurrentOptions:
    """Options of the recurrent families; each family sets its own defaults."""

    backbone: str
    freeze_backbone: bool = False
    reduction: Natural = 0
    """See Backbone: 0 pools over the frame, 8 or 16 keep positions."""
    centered: bool = False
    """Subtract each feature's mean over the clip. This removes static content, so that motion is
    learned from few clips; leave it off if the scene helps to tell classes apart."""
    backbone_config: dict[str, Any] | None = None
    """Config of a `hf:` backbone; with it, a checkpoint needs nothing from the hub."""
    recurrence: Recurrence = field(default_factory=Recurrence)

    def __post_init__(self) -> None:
        check(self)


class RecurrentClassifier(nn.Module):
    """Backbone on each frame, recurrent layer over time, mean over time, classifier."""

    def __init__(
        self,
        options: RecurrentOptions,
        *,
        size: int,
        num_classes: int,
        pretrained: bool = False,
        embedding: int | None = None,
        transition: bool = False,
    ) -> None:
        super().__init__()
        recurrence = options.recurrence
        self.backbone = Backbone(
            options.backbone,
            size=size,
            pretrained=pretrained,
            reduction=options.reduction,
            config=options.backbone_config,
        )
        self.embed: nn.Module = (
            nn.Linear(self.backbone.width, embedding) if embedding else nn.Identity()
        )
        self.recurrent = recurrence.build(embedding or self.backbone.width)
        self.transition: nn.Module = (
            nn.Sequential(nn.Conv1d(recurrence.width, recurrence.width, 3, padding=1), nn.ReLU())
            if transition
            else nn.Identity()
        )
        self.dropout = nn.Dropout(recurrence.dropout)
        self.head = nn.Linear(recurrence.width, num_classes)
        self.centered = options.centered
        self.frozen = options.freeze_backbone
        if self.frozen:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "RecurrentClassifier":
        """Set the mode; a frozen backbone stays in eval mode, so its statistics don't change."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        batch, frames = clips_BTCHW.shape[:2]
        images = clips_BTCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features_BTF = self.backbone(images).unflatten(0, (batch, frames))
        if self.centered:
            features_BTF = features_BTF - features_BTF.mean(dim=1, keepdim=True)
        hidden_BTF = self._run_recurrent(self.embed(features_BTF))
        hidden_BFT = self.transition(hidden_BTF.transpose(1, 2))
        return self.head(self.dropout(hidden_BFT.mean(dim=2)))

    def _run_recurrent(self, features_BTF: Tensor) -> Tensor:
        is_on_cpu = features_BTF.device.type == "cpu"
        if BF16_LSTM_FAILS and is_on_cpu and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                hidden_BTF, _ = self.recurrent(features_BTF.float())
        else:
            hidden_BTF, _ = self.recurrent(features_BTF)
        return hidden_BTF
