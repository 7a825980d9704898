"""The video pipeline of `transformers`, on the CPU or the first GPU, one file at a time.

It decodes and samples as it does for published TimeSformers: with torchcodec, frames are spread
over the clip. Without torchcodec, it uses PyAV and every n-th frame from the start; n is chosen per
clip so that the frames cover all of it, as in our pipeline.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pipeline import ClipAnswer, Setting
from dali_pipelines.errors import VideoError
from dali_pipelines.loaders.loader_config import Sample
from dali_pipelines.spec import ClipSpec
from engine.errors import UserError
from engine.models import timesformer
from engine.models.vivit import JointViViT
from engine.predictor import find_checkpoint
from engine.training import checkpoint

ATTENTION = {
    "divided": "divided_space_time", "joint": "joint_space_time", "space": "space_only",
}  # fmt: skip


class HuggingFace:
    def __init__(self, run: Path) -> None:
        from transformers import VideoClassificationPipeline
        from transformers.utils.import_utils import is_torchcodec_usable

        model, config = checkpoint.load_model(find_checkpoint(run)[0])
        self._clip = config.clip
        self._num_classes = len(config.class_names)
        self.note = ""
        self._with_torchcodec = is_torchcodec_usable(decode="video")
        self._pipeline = VideoClassificationPipeline(
            model=their_model(model, config).eval(),
            device=0 if torch.cuda.is_available() else -1,
            **_processor(config.clip, with_torchcodec=self._with_torchcodec),
        )

    def label(self, rows: list[Sample], setting: Setting) -> Iterator[ClipAnswer]:
        if setting.views != "1x1":
            raise UserError("the Hugging Face pipeline uses one view per video: pass --views 1x1.")
        for row in rows:
            try:
                probabilities = self.one(row)
            except VideoError:
                continue
            yield ClipAnswer(row.id, probabilities)

    def one(self, row: Sample) -> Any:
        sampling = {"num_frames": self._clip.num_frames}
        if not self._with_torchcodec:
            sampling["frame_sampling_rate"] = max(1, row.frames // self._clip.num_frames)
        try:
            scores = self._pipeline(str(row.path), top_k=self._num_classes, **sampling)
        except (ValueError, RuntimeError, OSError) as error:
            # A damaged or too short file, or metadata that isn't UTF-8 with PyAV.
            raise VideoError(row.path, f"the pipeline can't read it ({error})") from error
        probabilities = np.zeros(self._num_classes)
        for score in scores:
            probabilities[int(score["label"].removeprefix("LABEL_"))] = score["score"]
        return probabilities


def their_model(model: torch.nn.Module, trained: checkpoint.CheckpointConfig) -> Any:
    """Return the model of `transformers` with the same architecture and weights.

    Raises:
        UserError: `transformers` has no such architecture.
    """
    if isinstance(model, JointViViT):
        return model.network
    options, clip = trained.model.options, trained.clip
    if not isinstance(options, timesformer.Options):
        raise UserError("transformers has no such model: use TimeSformer, or ViViT with `joint`.")
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
    if options.convolutional_stem:
        theirs.timesformer.embeddings.patch_embeddings = _OurStem(model.stem)
    state, ours = theirs.state_dict(), model.state_dict()
    for name, weight in timesformer.from_transformers(state, options.attention).items():
        if ".patch_embeddings.stem." not in name:
            weight.copy_(ours[name])  # shares memory with the module
    return theirs


class _OurStem(torch.nn.Module):
    """The convolutional stem of the small preset, which `transformers` doesn't have."""

    def __init__(self, stem: torch.nn.Module) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, clips_BTCHW: torch.Tensor) -> tuple[torch.Tensor, int, int]:
        tokens_BTND = self.stem(clips_BTCHW)
        _, num_frames, num_places, _ = tokens_BTND.shape
        return tokens_BTND.flatten(0, 1), num_frames, math.isqrt(num_places)


def _processor(clip: ClipSpec, *, with_torchcodec: bool) -> dict[str, Any]:
    from transformers import TimesformerVideoProcessor, VideoMAEImageProcessor

    shape: dict[str, Any] = {
        "size": {"shortest_edge": clip.resize},
        "crop_size": {"height": clip.crop, "width": clip.crop},
        "image_mean": list(clip.mean),
        "image_std": list(clip.std),
    }
    if with_torchcodec:
        return {"video_processor": TimesformerVideoProcessor(**shape)}
    return {"image_processor": VideoMAEImageProcessor(**shape)}
