"""The functions of the public Python API; engine/__init__.py exports them."""

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from engine.errors import UserError, from_compiler

if TYPE_CHECKING:
    from torch import nn

    from dali_pipelines.loaders.loader_config import ClipLoader
    from dali_pipelines.spec import ClipSpec, Values
    from engine.evaluation.results import Evaluated
    from engine.predictor import Predictor
    from engine.training.loop import Trainer
    from engine.training.run import Trained
    from trt.config import ArtifactConfig, Precision


def load(path: str | Path, device: Literal["auto", "gpu", "cpu"] = "auto") -> "Predictor":
    """Open a trained model.

    Args:
        path: A run of `engine train` (its best checkpoint is opened), a checkpoint, or an artifact
            of `engine compile`.
        device: `auto` uses a GPU if there is one.

    Returns:
        A Predictor with `predict` and `predict_windows`.

    Raises:
        UserError: The path has no model, or its model can't run on this machine.

    Example:
        >>> model = engine.load("run")
        >>> model.predict("clip.avi").label
        'wave'
    """
    from engine.predictor import open_predictor

    return open_predictor(Path(path), device)


def train(
    data: str | Path | None,
    out: str | Path,
    *,
    resume: bool = False,
    recipe: str | Path | None = None,
    model: str | None = None,
    preset: str | None = None,
    scheme: str | None = None,
    fold: int | None = None,
    size: int | None = None,
    loader: Literal["dali", "torch"] | None = None,
    cache: str | Path | None = None,
    cache_gb: float = 20.0,
    device: Literal["auto", "gpu", "cpu"] = "auto",
    devices: int | None = None,
    nodes: int = 1,
    save_minutes: float = 10.0,
    track: str | Sequence[str] | None = None,
    track_weights: bool = False,
    command: str = "engine.train",
    log: Callable[[str], None] | None = lambda line: None,
    on_ready: "Callable[[Trainer], None]" = lambda trainer: None,
    **settings: Any,
) -> "Trained":
    """Train a model on a dataset and keep the checkpoint with the best validation score.

    Args:
        data: Folder of a dataset with splits, as `engine data split` makes them. To resume a run,
            pass None, or the folder's new place.
        out: New folder for the run.
        resume: Continue the run in `out`, with its own settings.
        recipe: Settings from a TOML file such as a run's `recipe.toml`, or the name of a shipped
            recipe. Settings given here override them.
        model: One of `list_models()`. Required unless a recipe names it.
        preset: `base` or `small`. Default: `base` with a GPU, else `small`.
        scheme: Split the clips this way for this run only, for example `"grouped"`.
        fold: Train on this fold, as `engine data split` made it; `train_folds` trains on all.
        size: Height and width of a frame in pixels.
        loader: The DALI pipeline, or plain PyTorch. Default: DALI if it is installed.
        cache: Keep decoded frames in this folder for later epochs.
        cache_gb: Maximum size of the cache in GB.
        device: `auto` uses a GPU if there is one.
        devices: Number of GPUs, or of processes on a CPU.
        nodes: Number of machines, if torchrun started this on each of them.
        save_minutes: Minutes between checkpoints within an epoch.
        track: Where metrics go, beside history.csv: names among tensorboard, mlflow and wandb.
            Default: tensorboard; in a resumed run, what it has.
        track_weights: Trackers get the weights of the best checkpoint, too.
        command: The command to record in the run's folder.
        log: Called with each line that `engine train` would print. None prints them to stderr,
            with a live progress line on a terminal.
        on_ready: Called with the trainer before its first step; `trainer.stop()` ends the run.
        **settings: Any setting of a recipe: `epochs`, `batch_size`, `lr`, `num_frames`, ….

    Returns:
        A Trained: `best` is the best checkpoint, `history` has one row of metrics per epoch, and
        `report` names the files that can't be read.

    Raises:
        UserError: A setting or the dataset is wrong; nothing was written.

    Example:
        >>> engine.train("my_videos", "run", model="cnn-lstm", preset="small", epochs=12)
        >>> engine.load("run").predict("clip.avi").label
        'wave'
    """
    from engine.new_run import begin_run
    from engine.training import run

    chosen = {"model": model, "preset": preset, **settings}
    given = {name: value for name, value in chosen.items() if value is not None}
    if resume:
        if given or size or recipe or scheme or fold:
            raise UserError("a resumed run keeps its settings: don't pass any.")
        resolved, facts = run.read(Path(out), _as_path(data))
    elif data is None:
        raise UserError("no dataset given: pass its folder.")
    else:
        resolved, facts = begin_run(
            data, recipe=recipe, scheme=scheme, fold=fold, size=size, device=device,
            command=command, log=log or print, **given,
        )  # fmt: skip
    return run.train(
        resolved,
        facts,
        Path(out),
        resume=resume,
        loader=loader,
        cache=_as_path(cache),
        cache_gb=cache_gb,
        device=device,
        devices=devices,
        nodes=nodes,
        save_every_s=save_minutes * 60,
        track=track,
        track_weights=track_weights,
        log=log,
        on_ready=on_ready,
    )


def evaluate(
    run: str | Path,
    *,
    data: str | Path | None = None,
    split: Literal["train", "val", "test"] = "test",
    views: str = "1x1",
    batch_size: int = 16,
    loader: Literal["dali", "torch"] | None = None,
    device: Literal["auto", "gpu", "cpu"] = "auto",
    name: str = "",
    on_clip: Callable[[], None] = lambda: None,
    log: Callable[[str], None] = lambda words: None,
) -> "Evaluated":
    """Test a trained model on clips that it was not trained on.

    Args:
        run: A run, a checkpoint or an artifact.
        data: Folder of the dataset. Default: the run's own.
        split: Split of the dataset to test on.
        views: Views per video as CLIPSxCROPS, whose predictions are averaged, as in `"10x3"`.
        batch_size: Videos in a batch.
        loader: The DALI pipeline, or plain PyTorch. Default: DALI if it is installed.
        device: `auto` uses a GPU if there is one.
        name: Name in the report. Default: the name of its folder.
        on_clip: Called after each video.
        log: Called with a note if the loader is slower than usual on this machine.

    Returns:
        An Evaluated: `scores` are the metrics of `engine evaluate`'s report, `predictions` the
        probabilities of each video, and `protocol` says how they were measured.

    Raises:
        UserError: The dataset has other classes than the model, or no clips in this split.
    """
    from engine.evaluation.held_out_test import HeldOutTest

    test = HeldOutTest(
        Path(run),
        data=_as_path(data),
        split=split,
        views=views,
        loader=loader,
        batch_size=batch_size,
        device=device,
        name=name,
    )
    if test.note:
        log(test.note)
    return test.run(on_clip)


def compile(
    run: str | Path,
    out: str | Path,
    *,
    precision: "Precision" = "fp32",
    backend: str = "auto",
    data: str | Path | None = None,
    batches: tuple[int, int, int] = (1, 8, 32),
    num_clips: int = 256,
    num_calibration_clips: int = 128,
    accept_drift: float | None = None,
    unproved: bool = False,
    rebuild: bool = False,
    fast_decode: bool = False,
    workspace_gb: float | None = None,
    optimization_level: int | None = None,
    cache: str | Path | None = None,
    merge_tokens: float | Literal["auto"] = 0.0,
    log: Callable[[str], None] = lambda words: None,
) -> "ArtifactConfig":
    """Compile a trained model and check on held-out clips that it gives the same labels.

    Args:
        run: A run or a checkpoint; with `rebuild`, an artifact.
        out: New folder for the artifact.
        precision: fp32, tf32, bf16, fp16, int8 or fp8.
        backend: The compiler; `auto` uses the fastest one that is installed.
        data: Folder of the dataset. Default: the run's own.
        batches: Minimum, optimal and maximum batch size; others are padded or split.
        num_clips: Maximum number of held-out clips for the check.
        num_calibration_clips: Maximum number of training clips for int8 calibration.
        accept_drift: Percentage of clips that may get another label. Default: 1.
        unproved: Skip the check: write an artifact that this machine can't run.
        rebuild: Build an artifact from another machine for this one, with its own settings.
        fast_decode: Decode videos faster, with slightly different pixels, if the labels stay.
        workspace_gb: GPU memory in GB that a TensorRT build may use.
        optimization_level: TensorRT's builder optimization level, 0 to 5.
        cache: Folder of finished builds. Default: ~/.cache/engine/artifacts.
        merge_tokens: Share of a transformer's tokens to merge into similar ones by the last layer,
            from 0 to 0.9; `auto` finds the largest that passes the check.
        log: Called with a line for each step.

    Returns:
        The artifact's config; its `parity` has the results of the check.

    Raises:
        RefusedError: The labels differ too much, or it can't be built here; nothing is written.
        UserError: A setting is wrong, or `out` exists.
    """
    from engine import atomic
    from engine.compilation.build import compile_run
    from engine.compilation.rebuild import rebuild_in
    from engine.compilation.request import make_request

    with from_compiler():
        if rebuild:
            return rebuild_in(Path(run), Path(out), log=log)
        atomic.require_new(Path(out))
        request = make_request(
            Path(run), precision=precision, backend=backend, batches=batches, data=_as_path(data),
            num_clips=num_clips, num_calibration_clips=num_calibration_clips, unproved=unproved,
            accept_drift=accept_drift, fast_decode=fast_decode, merge_tokens=merge_tokens, log=log,
            workspace_gb=workspace_gb, optimization_level=optimization_level, cache=_as_path(cache),
        )  # fmt: skip
        return compile_run(request, Path(out), log=log)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the model families, as `create_model` takes them.

    Args:
        pattern: Only names that match, for example `"*former*"`.
    """
    from engine.models.registry import FAMILIES

    return sorted(fnmatch.filter(FAMILIES, pattern))


def create_model(
    name: str,
    *,
    num_classes: int,
    preset: str = "base",
    pretrained: bool = False,
    **options: Any,
) -> "nn.Module":
    """Build a model for clips of `clip_spec(name, preset)`.

    Args:
        name: One of `list_models()`.
        num_classes: Number of classes.
        preset: `base` is the published size; `small` trains from scratch on a laptop.
        pretrained: Load the preset's published weights, which are downloaded once. The classifier
            is new if its number of classes differs.
        **options: Options of the family that differ from the preset, for example `depth`.

    Returns:
        A module from normalized clips (B, T, C, H, W) to logits (B, num_classes).

    Raises:
        UserError: The model, preset, option or weights don't exist.
    """
    from engine.models import registry, weights

    spec, clip = registry.ModelSpec.of_preset(name, preset, num_classes, **options)
    source = registry.PRESETS[name][preset].weights if pretrained else "none"
    if pretrained and source == "none":
        raise UserError(f"preset {preset} of {name} has no published weights.")
    model = registry.build(spec, clip, pretrained=source == "backbone")
    if source not in ("none", "backbone"):
        weights.load(model, source)
    return model


def clip_spec(name: str, preset: str = "base") -> "ClipSpec":
    """The ClipSpec of a preset: which frames the model gets, and their size."""
    from engine.models import registry

    return registry.ModelSpec.of_preset(name, preset, 1)[1]


def make_loader(
    data: str | Path,
    *,
    split: Literal["train", "val", "test"] | None = None,
    spec: "ClipSpec | None" = None,
    batch_size: int = 8,
    augment: bool = False,
    shuffle: bool | None = None,
    seed: int = 0,
    values: "Values" = "float32",
    loader: Literal["dali", "torch"] | None = None,
    gpu: int | None = None,
) -> "ClipLoader":
    """Iterate over the clips of a dataset as batches of tensors, once an epoch.

    Args:
        data: Folder of a dataset with a manifest, as `engine data index` writes it.
        split: A split of the dataset; None for all clips.
        spec: Which frames to load, and their size. Default: 8 frames of 224 × 224.
        batch_size: Clips in a batch.
        augment: Random flips, crops and colors, as in training.
        shuffle: Another order in each epoch. Default: the value of `augment`.
        seed: Random seed.
        values: float32 or float16 for normalized values, or uint8 for pixels.
        loader: The DALI pipeline, or plain PyTorch. Default: DALI if it is installed.
        gpu: Index of the GPU that decodes and that gets the batches. Default: the CPU.

    Returns:
        A ClipLoader. Its batches have `clips` (B, T, C, H, W), `labels`, and `ids`, the rows of
        the manifest; its `report` names the files that can't be read.

    Raises:
        UserError: The dataset has no manifest, or the split has no clips.
    """
    from dali_pipelines.augment import Augment
    from dali_pipelines.loaders.loader_config import LoaderConfig
    from dali_pipelines.spec import ClipSpec
    from engine.data import loading, manifest
    from engine.data.samples import samples_of

    rows, _ = samples_of(manifest.load(Path(data)), cast(Any, split))
    loader_config = LoaderConfig(
        spec=spec or ClipSpec(), batch_size=batch_size, augment=Augment() if augment else None,
        shuffle=augment if shuffle is None else shuffle, seed=seed, values=values,
    )  # fmt: skip
    return loading.make_loader(loader or loading.default_loader(), rows, loader_config, gpu=gpu)


def _as_path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
