"""Trained models by their path: a run, a checkpoint or an artifact, as one kind of predictor.

This is where checkpoints (engine) and artifacts (trt) become the same thing.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from dali_pipelines.spec import ClipSpec
from engine.errors import UserError, from_compiler

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from engine.prediction import Prediction
    from trt.config import ArtifactConfig
    from trt.program import Uint8Input


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model that is ready to label videos; `engine.load` opens one.

    Called with clips, a uint8 tensor (B, T, C, H, W) in the shape that `clip` says, it gives their
    logits (B, num_classes).
    """

    path: Path
    chosen_by: str
    """Which figure of which part chose the weights."""
    clip: ClipSpec
    class_names: list[str]
    device: "torch.device"
    runs_on: str
    """Device, compiler and precision, in words."""
    run: "Callable[[torch.Tensor], torch.Tensor]"

    def __call__(self, clips: "torch.Tensor") -> "torch.Tensor":
        """The logits lie where the model ran."""
        import torch

        if self.device.type == "cuda" and clips.device.type == "cpu":
            clips = clips.pin_memory().to(self.device, non_blocking=True)
        with torch.no_grad(), from_compiler():
            return self.run(clips)

    @overload
    def predict(
        self,
        videos: "str | os.PathLike[str] | NDArray[np.uint8] | torch.Tensor",
        *,
        top_k: int = 5,
        batch_size: int = 8,
        on_video: Callable[[], None] = ...,
    ) -> "Prediction": ...

    @overload
    def predict(
        self,
        videos: Sequence[Any],
        *,
        top_k: int = 5,
        batch_size: int = 8,
        on_video: Callable[[], None] = ...,
    ) -> "list[Prediction]": ...

    def predict(
        self,
        videos: Any,
        *,
        top_k: int = 5,
        batch_size: int = 8,
        on_video: Callable[[], None] = lambda: None,
    ) -> "Prediction | list[Prediction]":
        """Label videos, each as a whole.

        Files are decoded ahead while the model answers, and only the frames that it wants.

        Args:
            videos: A path, or the frames of a video as a uint8 array or tensor (T, H, W, 3) in
                RGB; or a list of these.
            top_k: How many classes `top` names.
            batch_size: Videos that the model answers at a time.
            on_video: Called after each video of a list, for a progress bar.

        Returns:
            A Prediction, or for a list a list of them in the same order. In a list, a file that
            can't be read is a Prediction with an `error`.

        Raises:
            VideoError: The one file that was given can't be read.

        Example:
            >>> engine.load("run").predict("clip.avi").label
            'wave'
        """
        from dali_pipelines.errors import VideoError
        from engine.prediction import predict

        is_list = isinstance(videos, list | tuple)
        found = predict(
            self,
            videos if is_list else [videos],
            top_k=top_k,
            batch_size=batch_size,
            on_video=on_video,
        )
        if is_list:
            return found
        if found[0].error:
            raise VideoError(videos, found[0].error)
        return found[0]

    def predict_windows(
        self,
        path: "str | os.PathLike[str]",
        *,
        window_s: float,
        stride_s: float | None = None,
        top_k: int = 5,
        batch_size: int = 8,
    ) -> "Iterator[Prediction]":
        """Label a long video window by window; each of its frames is decoded once.

        Args:
            path: A video file, or a folder of numbered images, which counts as 25 frames a second.
            window_s: How long a window is, in seconds.
            stride_s: From the beginning of one window to that of the next; else `window_s`.
            top_k: How many classes `top` names.
            batch_size: Windows that the model answers at a time.

        Yields:
            A Prediction for each window, in order of time.

        Raises:
            VideoError: The file can't be read, or only up to here.
        """
        from engine.prediction import predict_windows

        return predict_windows(
            self,
            Path(path),
            window_s=window_s,
            stride_s=stride_s,
            top_k=top_k,
            batch_size=batch_size,
        )

    def warm_up(self, batch_size: int) -> None:
        """The first call of a compiler pays for what later ones use."""
        import torch

        spec = self.clip
        self(torch.zeros(batch_size, *spec.shape, dtype=torch.uint8))


def open_predictor(path: Path, device: str = "auto") -> Predictor:
    """A run's best checkpoint, a checkpoint, or an artifact."""
    return _artifact(path, device) if is_artifact(path) else _checkpoint(path, device)


def is_artifact(path: Path) -> bool:
    config = path / "config.json"
    try:
        found = json.loads(config.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "backend" in found


def find_checkpoint(path: Path) -> tuple[Path, str]:
    """The best of a run's folder, or one that is named itself; and who chose it."""
    from engine.training import checkpoint

    best = checkpoint.named_or_best(path)
    if best == path:
        return path, "named by hand"
    if best is not None:
        return best, f"{checkpoint.read_best(path)['metric']} of the val part"
    last = checkpoint.last_of(path)
    if last is None:
        raise UserError(
            f"{path} holds no checkpoint and is no artifact; train one with "
            f"`engine train --out {path}`."
        )
    return last, "the last, no epoch was finished"


def class_names_of(path: Path) -> list[str]:
    """Of a run, a checkpoint or an artifact, without its weights."""
    from engine.training import checkpoint
    from trt.config import ArtifactConfig

    if is_artifact(path):
        return ArtifactConfig.read(path).class_names
    return checkpoint.load_config(find_checkpoint(path)[0]).class_names


def digest_of(path: Path) -> str:
    """Of what answers: the same only where the answers are."""
    from trt import artifact
    from trt.config import CONFIG

    if is_artifact(path):
        return artifact.digest(path / CONFIG)
    return artifact.digest(find_checkpoint(path)[0] / "model.safetensors")


def as_uint8_input(model: Any, spec: ClipSpec) -> "Uint8Input":
    """A trained module behind the normalization that its clips had in training."""
    from trt.program import Uint8Input

    return Uint8Input(model, mean=spec.mean, std=spec.std).eval()


def _checkpoint(path: Path, device: str) -> Predictor:
    from engine.training import checkpoint
    from engine.training.fabric import make_fabric

    found, chosen_by = find_checkpoint(path)
    model, config = checkpoint.load_model(found)
    fabric, _ = make_fabric(device, 1, 1, "fp32")
    return Predictor(
        path=found,
        chosen_by=chosen_by,
        clip=config.clip,
        class_names=config.class_names,
        device=fabric.device,
        runs_on=f"{fabric.device.type}, eager, fp32",
        run=as_uint8_input(model, config.clip).to(fabric.device),
    )


def _artifact(path: Path, device: str) -> Predictor:
    import torch

    import trt

    with from_compiler():
        artifact = trt.load(path)
    config: ArtifactConfig = artifact.config
    where = "cuda" if artifact.on_gpu else "cpu"
    if device not in ("auto", {"cuda": "gpu"}.get(where, where)):
        raise UserError(
            f"{path} runs on the {where}: leave --device out, or compile it for {device}."
        )
    return Predictor(
        path=path,
        chosen_by=config.chosen_by,
        clip=ClipSpec.from_dict(config.clip),
        class_names=config.class_names,
        device=torch.device(where),
        runs_on=f"{where}, {config.backend}, {config.target.precision}",
        run=artifact,
    )
