"""Small models of each kind that can merge tokens."""

from typing import Any

import torch
from hf_configs import CONFIGS
from torch import Tensor, nn

from dali_pipelines.spec import ClipSpec
from engine.models.merged_model import with_merged_tokens
from engine.models.registry import ModelSpec, build
from trt.program import Uint8Input

CLIP = ClipSpec(num_frames=8, resize=64, crop=64)
HF = {name: {"config": {"model_type": name, **config}} for name, config in CONFIGS.items()}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "timesformer": ("timesformer", {}),
    "timesformer joint": ("timesformer", {"attention": "joint"}),
    "timesformer space": ("timesformer", {"attention": "space"}),
    "vivit": ("vivit", {}),
    "vivit joint": ("vivit", {"kind": "joint", "convolutional_stem": False}),
    "vit-lstm": ("vit-lstm", {}),
    "vit-lstm pooled": ("vit-lstm", {"reduction": 0, "centered": False}),
    "hf videomae": ("hf", HF["videomae"]),
    "hf vivit": ("hf", HF["vivit"]),
    "hf timesformer": ("hf", HF["timesformer"]),
}
"""Family and options."""
FAMILIES = ("timesformer", "vivit", "vit-lstm pooled", "hf videomae")
"""A kind of each family."""


def model_of(kind: str) -> nn.Module:
    """With random weights, for normalized clips."""
    family, options = KINDS[kind]
    torch.manual_seed(0)
    model = build(ModelSpec.of_preset(family, "small", 5, **options)[0], CLIP).eval()
    for name, weight in model.named_parameters():
        if name.endswith(("time_out.weight", "temporal_dense.weight")):  # they begin with zeros
            nn.init.normal_(weight, std=0.1)
        if name.endswith(("head.weight", "classifier.weight")):
            nn.init.normal_(weight, std=0.5)
    return model


def merged_of(model: nn.Module, share: float) -> nn.Module:
    return with_merged_tokens(model, share, family="a family")[0]


def for_uint8(model: nn.Module) -> Uint8Input:
    return Uint8Input(model, mean=CLIP.mean, std=CLIP.std).eval()


def uint8_clips(count: int) -> Tensor:
    """Clips of large colored squares, so that tokens differ; noise looks the same everywhere."""
    generator = torch.Generator().manual_seed(1)
    shape = (count, CLIP.num_frames, 3, 4, 4)
    squares = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return squares.repeat_interleave(16, dim=3).repeat_interleave(16, dim=4)
