"""`Predictor`: one interface for runs, checkpoints and compiled artifacts."""

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
    from engine.watching.watch import StreamPrediction
    from trt.config import ArtifactConfig
    from trt.program import Uint8Input


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model with its preprocessing; `engine.load` opens one.

    Calling it with clips, a uint8 tensor (B, T, C, H, W) of the shape `clip.shape`, returns logits
    (B, num_classes).
    """

    path: Path
    chosen_by: str
    """The metric and split that selected the weights."""
    clip: ClipSpec
    class_names: list[str]
    device: "torch.device"
    runs_on: str
    """Device, backend and precision, for people to read."""
    run: "Callable[[torch.Tensor], torch.Tensor]"

    def __call__(self, clips: "torch.Tensor") -> "torch.Tensor":
        """Return logits, on the device of the model."""
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
        """Predict one label per video.

        Files are prefetched while the model runs, and only the frames of the clip are decoded.

        Args:
            videos: A path, or the frames of a video as a uint8 array or tensor (T, H, W, 3) in
                RGB; or a list of these.
            top_k: Number of classes in `top`.
            batch_size: Number of videos per batch.
            on_video: Called after each video, for a progress bar.

        Returns:
            A Prediction; for a list, a list of them in the same order. In a list, a file that can't
            be read gives a Prediction with an `error`.

        Raises:
            VideoError: A single file was given, and it can't be read.

        Example:
            >>> engine.load("run").predict("clip.avi").label
            'wave'
        """
        from dali_pipelines.errors import VideoError
        from engine.prediction import predict

        is_list = isinstance(videos, list | tuple)
        predictions = predict(
            self,
            videos if is_list else [videos],
            top_k=top_k,
            batch_size=batch_size,
            on_video=on_video,
        )
        if is_list:
            return predictions
        if predictions[0].error:
            raise VideoError(videos, predictions[0].error)
        return predictions[0]

    def predict_windows(
        self,
        path: "str | os.PathLike[str]",
        *,
        window_s: float,
        stride_s: float | None = None,
        top_k: int = 5,
        batch_size: int = 8,
    ) -> "Iterator[Prediction]":
        """Predict one label per window of a long video; each frame is decoded once.

        Args:
            path: A video file, or a folder of numbered images, read at 25 frames per second.
            window_s: Length of a window in seconds.
            stride_s: Seconds between the starts of two windows; by default `window_s`.
            top_k: Number of classes in `top`.
            batch_size: Number of windows per batch.

        Yields:
            A Prediction for each window, in order of time.

        Raises:
            VideoError: The file can't be read, or not to its end.
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

    def watch(
        self,
        sources: str | Sequence[str],
        *,
        window_s: float | None = None,
        stride_s: float | None = None,
        top_k: int = 5,
        batch_size: int | None = None,
        timeout_s: float = 10.0,
        on_status: Callable[[str], None] = lambda text: None,
    ) -> "Iterator[StreamPrediction]":
        """Predict one label per window of live streams; close the iterator to end it.

        A window gets the label that `predict_windows` gives to the same frames of a file. Cameras
        and URLs are connected again when they end or stall; if the model is too slow, old windows
        of them are dropped and counted.

        Args:
            sources: A camera as /dev/video0, a URL, a named pipe, `-` for standard input, or a file
                that may still grow; or a list of these.
            window_s: Length of a window in seconds. Default: the time that the frames of a clip
                span with `uniform` sampling, and else 2 s.
            stride_s: Seconds between the starts of two windows. Default: half of `window_s`.
            top_k: Number of classes in `top`.
            batch_size: Largest number of windows in a batch. Default: the number of sources, at
                most 8.
            timeout_s: Seconds without a frame after which a stream counts as lost, and a file as
                finished.
            on_status: Called with a sentence when a stream is connected or lost; from the threads
                of the sources.

        Yields:
            A StreamPrediction for each window: a Prediction with the source, the time of arrival,
            the delay of the label, and the number of windows dropped so far.

        Raises:
            UserError: A setting or a source is wrong.

        Example:
            >>> for prediction in engine.load("run").watch("rtsp://camera/door"):
            ...     print(prediction.time, prediction.label)
        """
        from engine.watching.watch import watch

        return watch(
            self,
            [sources] if isinstance(sources, str) else sources,
            window_s=window_s,
            stride_s=stride_s,
            top_k=top_k,
            batch_size=batch_size,
            timeout_s=timeout_s,
            on_status=on_status,
        )

    def warm_up(self, batch_size: int) -> None:
        """Run the model once on zeros, because the first call of a compiled model is slow."""
        import torch

        spec = self.clip
        self(torch.zeros(batch_size, *spec.shape, dtype=torch.uint8))


def open_predictor(path: Path, device: str = "auto") -> Predictor:
    """Open the best checkpoint of a run, a checkpoint, or an artifact."""
    return _artifact(path, device) if is_artifact(path) else _checkpoint(path, device)


def is_artifact(path: Path) -> bool:
    config = path / "config.json"
    try:
        values = json.loads(config.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and "backend" in values


def find_checkpoint(path: Path) -> tuple[Path, str]:
    """Find the best checkpoint of a run; `path` may also be a checkpoint itself.

    Returns:
        The checkpoint, and how it was selected.

    Raises:
        UserError: There is no checkpoint.
    """
    from engine.training import checkpoint

    best = checkpoint.named_or_best(path)
    if best == path:
        return path, "named by the user"
    if best is not None:
        return best, f"{checkpoint.read_best(path)['metric']} of the val split"
    last = checkpoint.last_of(path)
    if last is None:
        raise UserError(
            f"{path} holds no checkpoint and is not an artifact; train a "
            f"model there with `out='{path}'`."
        )
    return last, "the last one: no epoch was finished"


def class_names_of(path: Path) -> list[str]:
    """Read the class names of a run, a checkpoint or an artifact, without loading its weights."""
    if is_artifact(path):
        from trt.config import ArtifactConfig

        return ArtifactConfig.read(path).class_names
    from engine.training import checkpoint

    return checkpoint.load_config(find_checkpoint(path)[0]).class_names


def digest_of(path: Path) -> str:
    """Return a digest of the weights or the artifact: equal digests mean equal predictions."""
    from trt import artifact
    from trt.config import CONFIG

    if is_artifact(path):
        return artifact.digest(path / CONFIG)
    return artifact.digest(find_checkpoint(path)[0] / "model.safetensors")


def as_uint8_input(model: Any, spec: ClipSpec) -> "Uint8Input":
    """Wrap a trained module to take uint8 clips, which it normalizes as in training."""
    from trt.program import Uint8Input

    return Uint8Input(model, mean=spec.mean, std=spec.std).eval()


def _checkpoint(path: Path, device: str) -> Predictor:
    from engine.training import checkpoint
    from engine.training.fabric import choose_device
    from trt.tf32 import with_tf32

    checkpoint_path, chosen_by = find_checkpoint(path)
    model, config = checkpoint.load_model(checkpoint_path)
    on = choose_device(device)
    run = as_uint8_input(model, config.clip).to(on)
    return Predictor(
        path=checkpoint_path,
        chosen_by=chosen_by,
        clip=config.clip,
        class_names=config.class_names,
        device=on,
        runs_on=f"{on.type}, eager, fp32",
        run=run if on.type == "cpu" else with_tf32(run, allowed=False),
    )


def _artifact(path: Path, device: str) -> Predictor:
    import trt
    from engine.training.fabric import choose_device

    with from_compiler():
        artifact = trt.load(path)
    config: ArtifactConfig = artifact.config
    device_type = "cuda" if artifact.on_gpu else "cpu"
    if device not in ("auto", {"cuda": "gpu"}.get(device_type, device_type)):
        raise UserError(
            f"{path} runs on the {device_type}: leave out `device`, or compile it for {device}."
        )
    return Predictor(
        path=path,
        chosen_by=config.chosen_by,
        clip=ClipSpec.from_dict(config.clip),
        class_names=config.class_names,
        device=choose_device("gpu" if artifact.on_gpu else "cpu"),
        runs_on=f"{device_type}, {config.backend}, {config.target.in_words}",
        run=artifact,
    )
