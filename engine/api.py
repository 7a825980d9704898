"""The public Python API beside Predictor and read_frames: models and loaders."""

import fnmatch
from collections.abc import Callable
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
        path: A run of `engine train`, of which the best checkpoint is taken; a checkpoint; or an
            artifact of `engine compile`.
        device: Where it shall run; `auto` takes a GPU where there is one.

    Returns:
        A Predictor with `predict` and `predict_windows`.

    Raises:
        UserError: There is no model, or it can't run on this machine.

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
    size: int | None = None,
    loader: Literal["dali", "torch"] | None = None,
    cache: str | Path | None = None,
    cache_gb: float = 20.0,
    device: Literal["auto", "gpu", "cpu"] = "auto",
    devices: int | None = None,
    nodes: int = 1,
    save_minutes: float = 10.0,
    command: str = "engine.train",
    log: Callable[[str], None] | None = lambda line: None,
    on_ready: "Callable[[Trainer], None]" = lambda trainer: None,
    **settings: Any,
) -> "Trained":
    """Train a model on a dataset, and keep the checkpoint that does best on its validation part.

    Args:
        data: Folder of a dataset with splits, as `engine data split` makes them. A resumed run
            knows its own: pass None, or where it lies now.
        out: Folder of the run; it may not hold one yet.
        resume: Go on with the run in `out`, which keeps its settings.
        recipe: Settings from a TOML file like a run's `recipe.toml`, or the name of a shipped one;
            those given here win.
        model: One of `list_models()`; by itself the one that a recipe names.
        preset: `base` or `small`; without a GPU `small`, else `base`.
        scheme: Split the clips this way for this run alone, as in `"grouped"`.
        size: Side of the crop, in pixels.
        loader: The DALI pipeline, or plain PyTorch; by itself DALI where it is installed.
        cache: Keep decoded frames in this folder for later epochs.
        cache_gb: Greatest size of the cache.
        device: `auto` takes a GPU where there is one.
        devices: How many GPUs, or processes on a CPU.
        nodes: How many machines, where torchrun has started it on each.
        save_minutes: Save this often within an epoch, too.
        command: What the run's folder notes as the command that made it.
        log: Called with each line that `engine train` would print; None shows them on stderr as it
            does, with a live line on a terminal.
        on_ready: Called with the trainer before its first step; its `stop` ends the run early.
        **settings: Any setting of a recipe: `epochs`, `batch_size`, `lr`, `num_frames`, ….

    Returns:
        A Trained: `best` is the best checkpoint, `history` has a row of figures for each epoch,
        and `report` names files that can't be read.

    Raises:
        UserError: A setting or the dataset is wrong; nothing was written.

    Example:
        >>> engine.train("my_videos", "run", model="cnn-lstm", preset="small", epochs=12)
        >>> engine.load("run").predict("clip.avi").label
        'wave'
    """
    from engine.training import run
    from engine.training.recipe import merge

    chosen = {"model": model, "preset": preset, **settings}
    given = {name: value for name, value in chosen.items() if value is not None}
    if resume:
        if given or size or recipe or scheme:
            raise UserError("a resumed run keeps its settings: leave them out.")
        resolved, facts = run.read(Path(out), _as_path(data))
    elif data is None:
        raise UserError("no dataset is named: pass the folder of one.")
    else:
        resolved, facts = run.begin(
            merge(_settings_of(recipe), given) if recipe else given,
            data=Path(data),
            scheme=scheme,
            size=size,
            is_preset_free=not recipe and not {"preset", "weights", "options"} & given.keys(),
            device=device,
            command=command,
            log=log or print,
        )
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
    """Test a trained model on clips that it has not learned from.

    Args:
        run: A run, a checkpoint or an artifact.
        data: Folder of the dataset, where it isn't the run's own or has moved.
        split: Which part of it.
        views: Clips in time and crops of each video, whose mean counts, as in `"10x3"`.
        batch_size: Videos in a batch.
        loader: The DALI pipeline, or plain PyTorch; by itself DALI where it is installed.
        device: `auto` takes a GPU where there is one.
        name: What the report calls it; by itself the name of its folder.
        on_clip: Called after each video.
        log: Called with what makes the loader slow on this machine, if anything does.

    Returns:
        An Evaluated: `scores` are the figures of `engine evaluate`'s report, `predictions` the
        probabilities of each video, and `protocol` says how they came about.

    Raises:
        UserError: The classes are not those that were learned, or there are no such clips.
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
    workspace_gb: float | None = None,
    optimization_level: int | None = None,
    cache: str | Path | None = None,
    log: Callable[[str], None] = lambda words: None,
) -> "ArtifactConfig":
    """Compile a trained model, and prove on held-out clips that it gives the same labels.

    Args:
        run: A run or a checkpoint.
        out: Folder of the artifact; it may not be there yet.
        precision: fp32, tf32, bf16, fp16, int8 or fp8.
        backend: Which compiler; `auto` is the fastest that this machine has.
        data: Folder of the dataset, where it isn't the run's own or has moved.
        batches: The least, the best and the greatest batch; others are padded or split.
        num_clips: Held-out clips on which it is proved, at most.
        num_calibration_clips: Training clips on which int8 is calibrated, at most.
        accept_drift: Percent of clips that may get another label; by itself 1%.
        unproved: Write it also where this machine can't run it.
        workspace_gb: GPU memory that a TensorRT build may use.
        optimization_level: How long TensorRT may search, 0 to 5.
        cache: Folder of finished builds; by itself ~/.cache/engine/artifacts.
        log: Called with what is being done, in words.

    Returns:
        The artifact's ArtifactConfig, whose `parity` holds the figures of the proof.

    Raises:
        RefusedError: It gives other labels than the model, or can't be built here; nothing is
            written.
        UserError: A setting is wrong, or `out` is there already.
    """
    from engine import atomic
    from engine.compilation.build import compile_run
    from engine.compilation.request import make_request

    with from_compiler():
        atomic.require_new(Path(out))
        request = make_request(
            Path(run), precision=precision, backend=backend, batches=batches, data=_as_path(data),
            num_clips=num_clips, num_calibration_clips=num_calibration_clips,
            accept_drift=accept_drift, unproved=unproved, workspace_gb=workspace_gb,
            optimization_level=optimization_level, cache=_as_path(cache), log=log,
        )  # fmt: skip
        return compile_run(request, Path(out), log=log)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the model families, as `create_model` takes them.

    Args:
        pattern: Only names like this, as in `"*former*"`.
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
        num_classes: Outputs of its classifier.
        preset: `base` is the published size; `small` learns from nothing on a laptop.
        pretrained: Begin with the weights that the preset names, which are downloaded once. Those
            of another number of classes lose their classifier.
        **options: The family's options that shall differ from the preset, for instance `depth`.

    Returns:
        A module from normalized clips (B, T, C, H, W) to logits (B, num_classes).

    Raises:
        UserError: There is no such model, preset or option, or no such weights.
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
    """Which frames, of which size, a model of this preset is given."""
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
        data: Folder of a dataset that `engine data index` has looked through.
        split: Which part of it, as `engine data split` dealt them; None for all clips.
        spec: Which frames, of which size; by itself 8 frames of 224².
        batch_size: Clips in a batch.
        augment: Vary each clip as in training.
        shuffle: Another order in each epoch; by itself where `augment` is.
        seed: Of everything that is random.
        values: float32 or float16, normalized, or the pixels as uint8.
        loader: The DALI pipeline, or plain PyTorch; by itself DALI where it is installed.
        gpu: Number of the GPU that decodes, and on which the batches lie.

    Returns:
        A ClipLoader. Its batches have `clips` (B, T, C, H, W), `labels` and `ids`, the clips'
        places in the manifest; its `report` names files that can't be read.

    Raises:
        UserError: The dataset isn't indexed, or the part has no clips.
    """
    from dali_pipelines.augment import Augment
    from dali_pipelines.loaders.loader_config import LoaderConfig
    from dali_pipelines.spec import ClipSpec
    from engine.data import loading, manifest
    from engine.data.samples import samples_of

    rows, _ = samples_of(manifest.load(Path(data)), cast(Any, split))
    loader_config = LoaderConfig(
        spec=spec or ClipSpec(),
        batch_size=batch_size,
        augment=Augment() if augment else None,
        shuffle=augment if shuffle is None else shuffle,
        seed=seed,
        values=values,
    )
    return loading.make_loader(loader or loading.default_loader(), rows, loader_config, gpu=gpu)


def _settings_of(recipe: str | Path) -> dict[str, Any]:
    """Of a run's `recipe.toml`, or of a shipped experiment."""
    from engine.experiments.experiment import Experiment
    from engine.training import recipe as recipes

    path = Path(recipe)
    return recipes.read(path) if path.is_file() else Experiment.load(str(recipe)).train


def _as_path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
