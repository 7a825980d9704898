"""Runs a training from its settings: sets up data, model and devices, and trains."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import torch

from dali_pipelines.cores import num_cores
from dali_pipelines.loaders.loader_config import ClipLoader, LoaderConfig, LoaderReport
from engine.data import folds
from engine.data.loading import default_loader, make_loader, open_cache
from engine.errors import RefusedError, UserError
from engine.machine import describe_machine, memory_limit
from engine.memory import is_out_of_memory, keep_freed_memory
from engine.models import freezing, hub, registry
from engine.tracking.tracking import Tracking, names_in
from engine.training import checkpoint, probe_run, run_clips, run_folder
from engine.training.display import Display
from engine.training.distill import Teacher
from engine.training.fabric import is_first_process, make_fabric
from engine.training.loop import Trainer
from engine.training.probe_run import ProbeTrainer
from engine.training.recipe import Recipe
from engine.training.run_folder import RunFacts
from engine.training.run_tracking import end_tracking, run_info
from trt.tf32 import set_tf32

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BYTES_OF_FLOAT = 4
BATCHES_HELD = 3
"""Batches in memory at a time: the current one, and two that the loader has prefetched."""
SIDES = {"left", "right", "clockwise", "anticlockwise", "counterclockwise"}
"""Words in class names whose meaning changes when a clip is flipped horizontally."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of a training run.

    Attributes:
        path: The run's folder, which `engine.load` opens.
        recipe: All settings of the run.
        best: The best checkpoint on the validation split; None if no epoch was completed.
        best_row: The row of `history` for `best`.
        history: One row of metrics for each epoch.
        finished: False if the run was stopped before its end.
        report: Files that could not be read, and damaged files that were used.
        is_first: True in the first of several processes, False in the others.
    """

    path: Path
    recipe: Recipe
    best: Path | None
    best_row: dict[str, Any]
    history: list[dict[str, Any]]
    finished: bool
    report: LoaderReport
    is_first: bool = True


def begin(
    settings: dict[str, Any],
    *,
    data: Path,
    scheme: str | None,
    fold: int | None,
    size: int | None,
    is_preset_free: bool,
    device: str,
    command: str,
    log: Callable[[str], None],
) -> tuple[Recipe, RunFacts]:
    """Complete the settings of a new run for a dataset.

    Args:
        settings: Flat settings, as `Recipe.resolve` takes them.
        data: The dataset's folder.
        scheme: Scheme that splits the dataset; None keeps its own splits.
        fold: Number of the dataset's fold, instead of a scheme.
        size: Width and height of the clips; None keeps the recipe's.
        is_preset_free: Whether to use the preset `small` if there is no GPU.
        device: `auto`, `gpu` or `cpu`.
        command: The command line, for the record.
        log: Called with each decision that the user should know.

    Returns:
        The recipe and the facts of the run.
    """
    if not is_first_process():
        log = _log_nothing
    if is_preset_free and (device == "cpu" or not torch.cuda.is_available()):
        log("without a GPU the preset is small; base is the published size")
        settings = settings | {"preset": "small"}
    if size is not None:
        clip = Recipe.resolve(settings).clip
        settings = settings | {"crop": size, "resize": round(size * clip.resize / clip.crop)}
    manifest, scheme_used = folds.load_split(data, scheme, fold)
    classes = manifest.class_names
    sided = [name for name in classes if SIDES & set(re.split(r"[\W_]+", name.lower()))]
    if sided and "flip" not in settings:
        log(
            f"clips are not flipped, because flipping may change the class {sided[0]!r}; the "
            "setting flip = true flips them anyway"
        )
        settings = settings | {"flip": False}
    facts = RunFacts(
        command=command,
        data=str(data.absolute()),
        classes=classes,
        scheme=scheme_used,
        split_by=scheme,
        fold=fold,
    )
    return Recipe.resolve(settings), facts


def _log_nothing(line: str) -> None:
    pass


def read(out: Path, data: Path | None) -> tuple[Recipe, RunFacts]:
    """Read the recipe and facts of a run to resume; `data` is its dataset's folder if it moved."""
    recipe, facts = run_folder.load(out)
    if data is not None:
        facts = dataclasses.replace(facts, data=str(data.absolute()))
    return recipe, facts


P = ParamSpec("P")


def _explains_out_of_memory(
    function: Callable[Concatenate[Recipe, P], Trained],
) -> Callable[Concatenate[Recipe, P], Trained]:
    @functools.wraps(function)
    def explaining(recipe: Recipe, *args: P.args, **kwargs: P.kwargs) -> Trained:
        try:
            return function(recipe, *args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            loop = recipe.loop
            raise RefusedError(
                "there is too little memory for this model and "
                f"{loop.batch_size // loop.accumulate} clips at a time: increase "
                f"`accumulate` to {loop.accumulate * 2}, or lower `batch_size`, `frames` or `size`."
            ) from error

    return explaining


@_explains_out_of_memory
def train(
    recipe: Recipe,
    facts: RunFacts,
    out: Path,
    *,
    resume: bool = False,
    loader: str | None = None,
    cache: Path | None = None,
    cache_gb: float = 20.0,
    device: str = "auto",
    devices: int | None = None,
    nodes: int = 1,
    save_every_s: float = 600.0,
    track: str | Sequence[str] | None = None,
    track_weights: bool = False,
    group: Path | None = None,
    log: Callable[[str], None] | None = None,
    on_ready: Callable[[Trainer], None] = lambda trainer: None,
) -> Trained:
    """Train a model. Wrong settings raise an error before other processes are started.

    Args:
        recipe: All settings.
        facts: The dataset and its splits; see `begin` and `read`.
        out: The run's folder.
        resume: Continue the run in `out` from its last checkpoint.
        loader: `dali` or `torch`; None uses DALI if it is installed.
        cache: Folder for the cache of decoded frames; None for no cache.
        cache_gb: Maximum size of the cache.
        device: `auto`, `gpu` or `cpu`.
        devices: Devices of each node; None for one, or as many as the resumed run had.
        nodes: Number of machines.
        save_every_s: Seconds between checkpoints within an epoch.
        track: Names of trackers; None for those that the resumed run has, or for TensorBoard.
        track_weights: Whether trackers get the weights of the best checkpoint, too.
        group: Folder of the cross-validation that the run belongs to.
        log: Called with each log line, instead of printing it.
        on_ready: Called with the trainer before the first step; its `stop` ends the run early.

    Returns:
        The result of the run.

    Raises:
        UserError: A setting doesn't fit the dataset or the machine, or `out` can't be used.
        RefusedError: There is too little memory, no GPU, or the loss became NaN or infinite; or the
            package of a tracker isn't installed.
    """
    trackers = names_in(track)
    if recipe.weights != "none" or str(recipe.options.get("backbone")).startswith("hf:"):
        hub.stay_offline_if_unreachable()
    clips = run_clips.gather(recipe, facts, out, resume=resume)
    if resume and devices is None:
        devices = max(1, facts.world_size // nodes)
    fabric, precision = make_fabric(device, devices or 1, nodes, recipe.loop.precision)
    is_probe = recipe.probe.is_on
    if is_probe and fabric.world_size > 1:
        raise UserError("a probe trains in one process: leave out `devices` and `nodes`.")
    recipe = dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, precision=precision))
    if fabric.device.type == "cuda":
        set_tf32(precision == "tf32")
    batch_size = recipe.loop.part_size(fabric.world_size)
    if resume and is_first_process():
        run_folder.hold(out)
    if fabric.device.type == "cpu":
        _check_memory(recipe)
    torch.manual_seed(recipe.loop.seed)
    class_names = clips.manifest.class_names
    spec = recipe.model_spec(len(class_names))
    last = checkpoint.last_of(out) if resume else None
    network, weights_note = _make_model(recipe, spec, is_new=last is None or is_probe)
    spec = registry.portable(spec, network)
    teacher = _open_teacher(recipe, class_names)
    versions = describe_machine().libraries
    if not resume and is_first_process():
        facts = dataclasses.replace(
            facts, digest=clips.digest, weights=weights_note, world_size=fabric.world_size,
            versions=versions,
        )  # fmt: skip
        run_folder.create(out, recipe, facts, clips.manifest)

    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    gpu = fabric.device.index  # None on a CPU
    name = loader or default_loader()
    train_config, val_config = _loader_configs(recipe, batch_size, fabric)
    num_threads = max(1, num_cores() // max(1, fabric.world_size // nodes))
    first_log = log if fabric.is_global_zero else None
    display = Display(shown=log is None and fabric.is_global_zero, log=first_log)
    display.log(f"{clips.in_words()}; {name} loader; {_devices_in_words(fabric)}")
    if weights_note:
        display.log(weights_note)
    frame_cache = open_cache(cache, max_gb=cache_gb, log=display.log)
    new_loader = functools.partial(
        make_loader, name, gpu=gpu, cache=frame_cache, num_threads=num_threads
    )
    trainer_class: type[Trainer] = Trainer
    train_loader: ClipLoader
    val_loader: ClipLoader
    if is_probe:
        train_loader, val_loader = probe_run.feature_loaders(
            fabric, recipe, network, clips, (train_config, val_config),
            new_loader=new_loader, loader_name=name, cache=cache, log=display.log,
        )  # fmt: skip
        network, trainer_class = probe_run.make_probe(network, train_loader), ProbeTrainer
    else:
        train_loader = new_loader(clips.train, train_config)
        val_loader = new_loader(clips.val, val_config)
    tracking = None
    if fabric.is_global_zero:
        tracking = Tracking(out, trackers, group=group, with_weights=track_weights, log=display.log)
        tracking.begin(run_info(out, recipe, facts, group))
    with display, tracking or nullcontext():
        trainer = trainer_class(
            fabric,
            recipe,
            network,
            spec=spec,
            class_names=class_names,
            train=train_loader,
            val=val_loader,
            run=out,
            display=display,
            versions=versions,
            class_weights_N=clips.weights_N,
            teacher=teacher,
            save_every_s=save_every_s,
            tracking=tracking,
        )
        if trainer.train.note:
            display.log(trainer.train.note)
        if last is not None and not is_probe:
            _resume(trainer, last, facts.world_size)
        on_ready(trainer)
        finished = trainer.run()
        if tracking is not None:
            end_tracking(tracking, out, trainer.state.history, finished=finished)
    return _result_of(trainer, recipe, out, finished=finished)


def _devices_in_words(fabric: "Fabric") -> str:
    return f"{fabric.world_size} × {fabric.device.type}, {fabric.strategy.precision.precision}"


def _resume(trainer: Trainer, last: Path, started_with: int) -> None:
    trainer.resume(last)
    log, world_size = trainer.display.log, trainer.fabric.world_size
    log(f"resuming after step {trainer.state.step:,}, from {last}")
    if world_size != started_with:
        log(
            f"the run started with {started_with} processes and continues with {world_size}: "
            "batches are the same, the last bits of the weights are not"
        )


def _open_teacher(recipe: Recipe, class_names: list[str]) -> Teacher | None:
    if not recipe.loss.teacher:
        return None
    return Teacher(
        Path(recipe.loss.teacher),
        recipe.clip,
        class_names,
        temperature=recipe.loss.temperature,
        weight=recipe.loss.teacher_weight,
    )


def _loader_configs(
    recipe: Recipe, batch_size: int, fabric: Any
) -> tuple[LoaderConfig, LoaderConfig]:
    """For training and for validation."""
    val_config = LoaderConfig(
        spec=recipe.clip,
        batch_size=batch_size,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    train_config = dataclasses.replace(
        val_config, augment=recipe.augment, shuffle=True, seed=recipe.loop.seed
    )
    return train_config, val_config


def _result_of(trainer: Trainer, recipe: Recipe, out: Path, *, finished: bool) -> Trained:
    rows = trainer.state.history
    return Trained(
        path=out,
        recipe=recipe,
        best=checkpoint.best_of(out),
        best_row=next((row for row in rows if row["step"] == trainer.state.best_step), {}),
        history=rows,
        finished=finished,
        report=trainer.report(),
        is_first=trainer.fabric.is_global_zero,
    )


def _make_model(recipe: Recipe, spec: Any, *, is_new: bool) -> tuple[Any, str]:
    """The model, with the recipe's initial weights in a new run, and a line on what was loaded."""
    from engine.models import weights

    source = recipe.weights if is_new else "none"
    network = registry.build(spec, recipe.clip, pretrained=source == "backbone")
    new_layers = {
        name: value.clone() for name, value in network.state_dict().items() if freezing.is_new(name)
    }
    if source == "none":
        return network, ""
    if source == "backbone":
        return network, f"{spec.published}: published weights; other layers are random"
    note = weights.load(network, source).describe()
    if recipe.probe.is_on:  # its head is new even if the weights have one
        network.load_state_dict(new_layers, strict=False)
    return network, note


def _check_memory(recipe: Recipe) -> None:
    """Raise an error for clips that don't fit in memory; otherwise the system kills the process."""
    clip, loop = recipe.clip, recipe.loop
    size = clip.num_frames * 3 * clip.crop**2 * BYTES_OF_FLOAT
    needed, limit = BATCHES_HELD * size * loop.batch_size // loop.accumulate, memory_limit()
    if needed > limit:
        raise RefusedError(
            f"batches of {loop.batch_size} clips of {clip.num_frames:,} frames and {clip.crop}² "
            f"pixels take {needed / 2**30:,.0f} GiB, but there are {limit / 2**30:,.0f} GiB: lower "
            "`frames`, `size` or `batch_size`, or increase `accumulate`."
        )
