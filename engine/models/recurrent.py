"""The recurrent classifier that the recurrent families share.

The whole sequence goes through PyTorch's recurrent layer in one call, which compilers handle best.
Shape letters: B batch, T frames, F features.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dali_pipelines.errors import SpecError
from dali_pipelines.settings import Count, Natural, ShareBelowOne, check
from engine.models.attention import check_heads
from engine.models.attentive import HEADS, AttentivePooling
from engine.models.backbone import Backbone

Head = Literal["recurrent", "attentive", "linear"]
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
    head: Head = "recurrent"
    """What follows the backbone. attentive: a learned query over frames and places, of the width
    recurrence.hidden. linear: the mean over the frames."""
    backbone_config: dict[str, Any] | None = None
    """Config of a `hf:` backbone; with it, a checkpoint needs nothing from the hub."""
    recurrence: Recurrence = field(default_factory=Recurrence)

    def __post_init__(self) -> None:
        check(self)
        if self.head == "attentive":
            check_heads(self.recurrence.hidden, HEADS)
        if self.head == "linear" and self.centered:
            raise SpecError("head linear takes the mean over the frames: set centered=false")


class RecurrentClassifier(nn.Module):
    """Backbone on each frame, recurrent layer over time, mean over time, classifier.

    The option `head` can replace the recurrent layer.
    """

    def __init__(
        self,
        options: RecurrentOptions,
        *,
        size: int,
        num_frames: int,
        num_classes: int,
        pretrained: bool = False,
        embedding: int | None = None,
        transition: bool = False,
    ) -> None:
        super().__init__()
        if options.centered and num_frames == 1:
            raise SpecError(
                "centered subtracts the mean over the frames, which leaves nothing of a single "
                "frame: set centered=false"
            )
        recurrence = options.recurrence
        self.backbone = Backbone(
            options.backbone,
            size=size,
            pretrained=pretrained,
            reduction=options.reduction,
            config=options.backbone_config,
        )
        self.kind = options.head
        width = self.backbone.width
        if options.head == "recurrent":
            self.embed: nn.Module = nn.Linear(width, embedding) if embedding else nn.Identity()
            self.recurrent = recurrence.build(embedding or width)
            width = recurrence.width
            self.transition: nn.Module = (
                nn.Sequential(nn.Conv1d(width, width, 3, padding=1), nn.ReLU())
                if transition
                else nn.Identity()
            )
        elif options.head == "attentive":
            self.pooling = AttentivePooling(
                width,
                num_places=self.backbone.num_places,
                num_frames=num_frames,
                dim=recurrence.hidden,
                dropout=recurrence.dropout,
            )
            width = recurrence.hidden
        self.dropout = nn.Dropout(recurrence.dropout)
        self.head = nn.Linear(width, num_classes)
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
        return self.classify(self.encode(clips_BTCHW))

    def encode(self, clips_BTCHW: Tensor) -> Tensor:
        """Features (B, T, F) of the backbone, one row for each frame."""
        batch, frames = clips_BTCHW.shape[:2]
        images = clips_BTCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.backbone(images).unflatten(0, (batch, frames))

    def classify(self, features_BTF: Tensor) -> Tensor:
        """Logits from the features of `encode`."""
        if self.centered:
            features_BTF = features_BTF - features_BTF.mean(dim=1, keepdim=True)
        if self.kind == "linear":
            return self.head(self.dropout(features_BTF.mean(dim=1)))
        if self.kind == "attentive":
            return self.head(self.dropout(self.pooling(features_BTF)))
        hidden_BTF = self._run_recurrent(self.embed(features_BTF))
        hidden_BFT = self.transition(hidden_BTF.transpose(1, 2))
        return self.head(self.dropout(hidden_BFT.mean(dim=2)))

    @property
    def first_new_layer(self) -> nn.Module:
        """The layer that takes the features."""
        if self.kind == "linear":
            return self.head
        if self.kind == "attentive":
            return self.pooling.embed
        return self.embed if isinstance(self.embed, nn.Linear) else self.recurrent

    def _run_recurrent(self, features_BTF: Tensor) -> Tensor:
        is_on_cpu = features_BTF.device.type == "cpu"
        if BF16_LSTM_FAILS and is_on_cpu and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                hidden_BTF, _ = self.recurrent(features_BTF.float())
        else:
            hidden_BTF, _ = self.recurrent(features_BTF)
        return hidden_BTF
