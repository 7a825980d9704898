"""A training from its settings to its end: data, model and devices wired together."""

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import torch

from dali_pipelines.loaders.loader_config import LoaderConfig, LoaderReport
from engine.data import splits
from engine.data.loading import default_loader, make_loader, open_cache
from engine.data.samples import samples_of
from engine.errors import RefusedError, UserError
from engine.machine import describe_machine, memory_limit
from engine.memory import is_out_of_memory, keep_freed_memory
from engine.models import hub, registry
from engine.training import checkpoint, run_folder
from engine.training.display import Display
from engine.training.distill import Teacher
from engine.training.fabric import is_first_process, make_fabric
from engine.training.loop import Trainer
from engine.training.losses import class_weights, oversample
from engine.training.recipe import Recipe
from engine.training.run_folder import RunFacts

BYTES_OF_FLOAT = 4
BATCHES_HELD = 3
"""The one that is learned from, and two that the loader has ready."""
SIDES = {"left", "right", "clockwise", "anticlockwise", "counterclockwise"}
"""Words in the names of classes that a mirror would turn into each other."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training left.

    Attributes:
        path: The run's folder, which `engine.load` opens.
        recipe: All its settings.
        best: The checkpoint that did best on the validation part; None before the first epoch's
            end.
        best_row: The history's row of `best`.
        history: A row of figures for each epoch.
        finished: False where somebody asked it to stop.
        report: What the loaders met: bad files, and which were used though they aren't sound.
        is_first: False in all processes but the first of several.
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
    size: int | None,
    is_preset_free: bool,
    device: str,
    command: str,
    log: Callable[[str], None],
) -> tuple[Recipe, RunFacts]:
    """Settings for `data`, completed, and the facts of a new run.

    `is_preset_free`: without a GPU, the preset is the small one.
    """
    if not is_first_process():
        log = _log_nothing
    if is_preset_free and (device == "cpu" or not torch.cuda.is_available()):
        log("without a GPU the preset is small; --preset base is the published size")
        settings = settings | {"preset": "small"}
    if size is not None:
        clip = Recipe.resolve(settings).clip
        settings = settings | {"crop": size, "resize": round(size * clip.resize / clip.crop)}
    listed, how_split = splits.load_split(data, scheme)
    classes = listed.class_names
    sided = [name for name in classes if SIDES & set(re.split(r"[\W_]+", name.lower()))]
    if sided and "flip" not in settings:
        log(f"clips are not mirrored: {sided[0]!r} tells sides apart; --flip does it anyway")
        settings = settings | {"flip": False}
    facts = RunFacts(
        command=command,
        data=str(data.absolute()),
        classes=classes,
        scheme=how_split,
        split_by=scheme,
    )
    return Recipe.resolve(settings), facts


def _log_nothing(words: str) -> None:
    pass


def read(out: Path, data: Path | None) -> tuple[Recipe, RunFacts]:
    """The settings and facts of a run to go on with; `data` is where its dataset lies now."""
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
                f"there is too little memory for this model and {loop.batch_size} clips in "
                f"{loop.accumulate} parts: raise --accumulate to {loop.accumulate * 2}, or lower "
                "--batch-size, --frames or --size."
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
    log: Callable[[str], None] | None = None,
    on_ready: Callable[[Trainer], None] = lambda trainer: None,
) -> Trained:
    """All that can fail for a wrong setting fails before other processes are started.

    `on_ready` is given the trainer before its first step, whose `stop` ends it early.
    """
    if recipe.weights != "none" or str(recipe.options.get("backbone")).startswith("hf:"):
        hub.stay_offline_if_unreachable()
    root = Path(facts.data)
    listed, _ = splits.load_split(root, facts.split_by)
    if len(listed.class_names) < 2:
        raise UserError(f"{root} has one class only; a model tells at least two apart.")
    train_rows, num_bad = samples_of(listed, "train")
    val_rows, num_bad_val = samples_of(listed, "val")
    weights_N = None
    if recipe.loss.balance == "weights":
        weights_N = class_weights(train_rows, len(listed.class_names))
    elif recipe.loss.balance == "sampling":
        train_rows = oversample(train_rows)
    digest = run_folder.digest([*train_rows, *val_rows])
    if resume and (digest, listed.class_names) != (facts.digest, facts.classes):
        raise UserError(
            f"the clips of {root} are not those that {out} began with (they lie in "
            f"{out / run_folder.MANIFEST}); restore them, or begin a new run."
        )
    if resume and devices is None:
        devices = max(1, facts.world_size // nodes)
    fabric, precision = make_fabric(device, devices or 1, nodes, recipe.loop.precision)
    recipe = dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, precision=precision))
    world_size = fabric.world_size
    parts = world_size * recipe.loop.accumulate
    if recipe.loop.batch_size % parts:
        raise UserError(
            f"a batch of {recipe.loop.batch_size} clips can't be shared by {world_size} processes "
            f"in {recipe.loop.accumulate} parts; take a multiple of {parts}."
        )
    if resume and is_first_process():
        run_folder.hold(out)
    if fabric.device.type == "cpu":
        _refuse_clips_beyond_memory(recipe)
    torch.manual_seed(recipe.loop.seed)
    spec = recipe.model_spec(len(listed.class_names))
    last = checkpoint.last_of(out) if resume else None
    network, told = _make_model(recipe, spec, fresh=last is None)
    spec = registry.portable(spec, network)
    taught_by = None
    if recipe.loss.teacher:
        taught_by = Teacher(
            Path(recipe.loss.teacher),
            recipe.clip,
            listed.class_names,
            temperature=recipe.loss.temperature,
            weight=recipe.loss.teacher_weight,
        )
    versions = describe_machine().libraries
    if not resume and is_first_process():
        facts = dataclasses.replace(
            facts, digest=digest, weights=told, world_size=world_size, versions=versions
        )
        run_folder.create(out, recipe, facts, listed)

    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    gpu = fabric.device.index  # None on a CPU
    loader_config = LoaderConfig(
        spec=recipe.clip,
        batch_size=recipe.loop.batch_size // parts,
        augment=recipe.augment,
        shuffle=True,
        seed=recipe.loop.seed,
        rank=fabric.global_rank,
        world_size=world_size,
    )
    seen = LoaderConfig(
        spec=recipe.clip,
        batch_size=loader_config.batch_size,
        rank=loader_config.rank,
        world_size=loader_config.world_size,
    )
    name = loader or default_loader()
    first_log = log if fabric.is_global_zero else None
    with Display(shown=log is None and fabric.is_global_zero, log=first_log) as display:
        display.log(
            f"{len(train_rows):,} clips to learn from, {len(val_rows):,} to validate on, "
            f"{len(listed.class_names)} classes; {num_bad + num_bad_val} bad clips left out; "
            f"{name} loader; {world_size} × {fabric.device.type}, "
            f"{fabric.strategy.precision.precision}"
        )
        if told:
            display.log(told)
        frames = open_cache(cache, max_gb=cache_gb, log=display.log)
        trainer = Trainer(
            fabric,
            recipe,
            network,
            spec=spec,
            class_names=listed.class_names,
            train=make_loader(name, train_rows, loader_config, gpu=gpu, cache=frames),
            val=make_loader(name, val_rows, seen, gpu=gpu, cache=frames),
            run=out,
            display=display,
            versions=versions,
            class_weights_N=weights_N,
            teacher=taught_by,
            save_every_s=save_every_s,
        )
        if trainer.train.note:
            display.log(trainer.train.note)
        if last is not None:
            trainer.resume(last)
            display.log(f"going on after step {trainer.standing.step:,}, from {last}")
            if world_size != facts.world_size:
                display.log(
                    f"it began with {facts.world_size} processes and goes on with {world_size}: "
                    "batches are the same, the last bits of the weights are not"
                )
        on_ready(trainer)
        finished = trainer.run()
    rows = trainer.standing.history
    best = checkpoint.best_of(out)
    return Trained(
        path=out,
        recipe=recipe,
        best=best,
        best_row=next((row for row in rows if row["step"] == trainer.standing.best_step), {}),
        history=rows,
        finished=finished,
        report=trainer.report(),
        is_first=fabric.is_global_zero,
    )


def _make_model(recipe: Recipe, spec: Any, *, fresh: bool) -> tuple[Any, str]:
    """The model, begun from published weights where the recipe says so; what was loaded."""
    from engine.models import weights

    source = recipe.weights if fresh else "none"
    network = registry.build(spec, recipe.clip, pretrained=source == "backbone")
    if source == "none":
        return network, ""
    if source == "backbone":
        return network, f"{spec.options.backbone}: published weights; the rest begins at random"
    return network, weights.load(network, source).describe()


def _refuse_clips_beyond_memory(recipe: Recipe) -> None:
    """Before the system ends the process without a word."""
    clip, loop = recipe.clip, recipe.loop
    size = clip.num_frames * 3 * clip.crop**2 * BYTES_OF_FLOAT
    needed, limit = BATCHES_HELD * size * loop.batch_size // loop.accumulate, memory_limit()
    if needed > limit:
        raise RefusedError(
            f"batches of {loop.batch_size} clips of {clip.num_frames:,} frames and {clip.crop}² "
            f"pixels take {needed / 2**30:,.0f} GiB where there are {limit / 2**30:,.0f}: lower "
            "--frames, --size or --batch-size, or raise --accumulate."
        )
