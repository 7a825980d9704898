"""`transformers`' pipeline for videos, on the CPU or the first GPU, one file after the other.

Its own sampling takes every n-th frame from the start; n is chosen for each clip so that the frames
spread over all of it, as ours do.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.way import Labelled, Setting
from dali_pipelines.feed import ClipRow
from dali_pipelines.spec import ClipSpec
from engine.commands.opened import find_checkpoint
from engine.errors import UserError
from engine.models import timesformer
from engine.models.vivit import JointViViT
from engine.training import checkpoint

ATTENTION = {
    "divided": "divided_space_time", "joint": "joint_space_time", "space": "space_only",
}  # fmt: skip


class HuggingFace:
    def __init__(self, run: Path) -> None:
        from transformers import VideoClassificationPipeline

        model, config = checkpoint.load_model(find_checkpoint(run)[0])
        self._clip = config.clip
        self._num_classes = len(config.class_names)
        self._pipeline = VideoClassificationPipeline(
            model=their_model(model, config).eval(),
            image_processor=_processor(config.clip),
            device=0 if torch.cuda.is_available() else -1,
        )

    def label(self, rows: list[ClipRow], setting: Setting) -> Iterator[Labelled]:
        if setting.views != "1x1":
            raise UserError("the Hugging Face pipeline looks once at each video: --views 1x1.")
        for row in rows:
            yield Labelled(row.id, self.one(row))

    def one(self, row: ClipRow) -> Any:
        rate = max(1, row.frames // self._clip.num_frames)
        found = self._pipeline(str(row.path), frame_sampling_rate=rate, top_k=self._num_classes)
        probabilities = np.zeros(self._num_classes)
        for each in found:
            probabilities[int(each["label"].removeprefix("LABEL_"))] = each["score"]
        return probabilities


def their_model(model: torch.nn.Module, trained: checkpoint.Config) -> Any:
    """The module that `transformers` has for the same architecture, with these weights."""
    if isinstance(model, JointViViT):
        return model.network
    options, clip = trained.model.options, trained.clip
    if not isinstance(options, timesformer.Options) or options.convolutional_stem:
        raise UserError("transformers has no such model: TimeSformer and ViViT of published shape.")
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    theirs = TimesformerForVideoClassification(
        TimesformerConfig(
            image_size=clip.crop,
            patch_size=options.patch,
            num_frames=clip.num_frames,
            hidden_size=options.dim,
            num_hidden_layers=options.depth,
            num_attention_heads=options.heads,
            intermediate_size=int(options.dim * options.mlp_ratio),
            attention_type=ATTENTION[options.attention],
            num_labels=trained.model.num_classes,  # type: ignore[call-arg]
        )
    )
    state, ours = theirs.state_dict(), model.state_dict()
    for name, weight in timesformer.from_transformers(state, options.attention).items():
        weight.copy_(ours[name])  # the same memory as the module's
    return theirs


def _processor(clip: ClipSpec) -> Any:
    from transformers import VideoMAEImageProcessor

    return VideoMAEImageProcessor(
        size={"shortest_edge": clip.resize},
        crop_size={"height": clip.crop, "width": clip.crop},
        image_mean=list(clip.mean),
        image_std=list(clip.std),
    )
