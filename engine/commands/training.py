"""What `engine train` does once its settings are settled: wire data, model and devices, and go."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_pipelines.feed import Report
    from engine.training.loop import Trainer
    from engine.training.recipe import Recipe

INTERRUPTED = 130
BYTES_OF_FLOAT = 4
BATCHES_HELD = 3
"""The one that is learnt from, and two that the loader has ready."""


def run(
    recipe: "Recipe",
    facts: dict[str, Any],
    out: Path,
    *,
    resume: bool,
    loader: str | None,
    cache: Path | None,
    cache_gb: float,
    device: str,
    devices: int | None,
    nodes: int,
    save_every_s: float,
) -> int:
    """All that can fail for a wrong setting fails before other processes are started."""
    import dataclasses

    import torch

    from dali_pipelines.feed import Feed
    from engine.data import splits
    from engine.data.clip_rows import clip_rows
    from engine.data.loading import default_loader, make_loader, open_cache
    from engine.errors import UserError
    from engine.machine import describe_machine
    from engine.models import registry
    from engine.training import checkpoint, run_folder
    from engine.training.display import Display
    from engine.training.distill import Teacher
    from engine.training.fabric import is_first_process, make_fabric
    from engine.training.loop import Trainer
    from engine.training.losses import class_weights, oversample
    from engine.training.memory import keep_freed_memory

    root = Path(facts["data"])
    listed, _ = splits.dealt(root, facts.get("dealt_by"))
    if len(listed.class_names) < 2:
        raise UserError(f"{root} has one class only; a model tells at least two apart.")
    train_rows, num_bad = clip_rows(listed, "train")
    val_rows, num_bad_val = clip_rows(listed, "val")
    weights_N = None
    if recipe.loss.balance == "weights":
        weights_N = class_weights(train_rows, len(listed.class_names))
    elif recipe.loss.balance == "sampling":
        train_rows = oversample(train_rows)
    digest = run_folder.digest([*train_rows, *val_rows])
    if resume and (digest, listed.class_names) != (facts["digest"], facts["classes"]):
        raise UserError(
            f"the clips of {root} are not those that {out} began with (they lie in "
            f"{out / run_folder.MANIFEST}); restore them, or begin a new run."
        )
    if resume and devices is None:
        devices = max(1, facts["world"] // nodes)
    fabric, precision = make_fabric(device, devices or 1, nodes, recipe.loop.precision)
    recipe = dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, precision=precision))
    world = fabric.world_size
    parts = world * recipe.loop.accumulate
    if recipe.loop.batch_size % parts:
        raise UserError(
            f"a batch of {recipe.loop.batch_size} clips can't be shared by {world} processes in "
            f"{recipe.loop.accumulate} parts; take a multiple of {parts}."
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
        facts |= {"digest": digest, "weights": told, "world": world, "versions": versions}
        run_folder.create(out, recipe, facts, listed)

    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    gpu = fabric.device.index  # None on a CPU
    feed = Feed(
        spec=recipe.clip,
        batch_size=recipe.loop.batch_size // parts,
        augment=recipe.augment,
        shuffle=True,
        seed=recipe.loop.seed,
        rank=fabric.global_rank,
        world=world,
    )
    seen = Feed(spec=recipe.clip, batch_size=feed.batch_size, rank=feed.rank, world=feed.world)
    name = loader or default_loader()
    with Display(shown=fabric.is_global_zero) as display:
        display.tell(
            f"{len(train_rows):,} clips to learn from, {len(val_rows):,} to validate on, "
            f"{len(listed.class_names)} classes; {num_bad + num_bad_val} bad clips left out; "
            f"{name} loader; {world} × {fabric.device.type}, {fabric.strategy.precision.precision}"
        )
        if told:
            display.tell(told)
        frames = open_cache(cache, max_gb=cache_gb, tell=display.tell)
        trainer = Trainer(
            fabric,
            recipe,
            network,
            spec=spec,
            class_names=listed.class_names,
            train=make_loader(name, train_rows, feed, gpu=gpu, cache=frames),
            val=make_loader(name, val_rows, seen, gpu=gpu, cache=frames),
            run=out,
            display=display,
            versions=versions,
            class_weights_N=weights_N,
            teacher=taught_by,
            save_every_s=save_every_s,
        )
        if trainer.train.note:
            display.tell(trainer.train.note)
        if last is not None:
            trainer.resume(last)
            display.tell(f"going on after step {trainer.standing.step:,}, from {last}")
            if world != facts["world"]:
                display.tell(
                    f"it began with {facts['world']} processes and goes on with {world}: batches "
                    "are the same, the last bits of the weights are not"
                )
        stop_kindly(trainer)
        finished = trainer.run()
    report = trainer.report()
    if not fabric.is_global_zero:
        return 0
    return _conclude(trainer, out, report, finished)


def _make_model(recipe: "Recipe", spec: Any, *, fresh: bool) -> tuple[Any, str]:
    """The model, begun from published weights where the recipe says so; what was loaded."""
    from engine.models import registry, weights

    source = recipe.weights if fresh else "none"
    network = registry.build(spec, recipe.clip, pretrained=source == "backbone")
    if source == "none":
        return network, ""
    if source == "backbone":
        return network, f"{spec.options.backbone}: published weights; the rest begins at random"
    return network, weights.load(network, source).describe()


def _refuse_clips_beyond_memory(recipe: "Recipe") -> None:
    """Before the system ends the process without a word."""
    from engine.errors import RefusedError
    from engine.machine import memory_limit

    clip, loop = recipe.clip, recipe.loop
    size = clip.num_frames * 3 * clip.crop**2 * BYTES_OF_FLOAT
    needed, limit = BATCHES_HELD * size * loop.batch_size // loop.accumulate, memory_limit()
    if needed > limit:
        raise RefusedError(
            f"batches of {loop.batch_size} clips of {clip.num_frames:,} frames and {clip.crop}² "
            f"pixels take {needed / 2**30:,.0f} GiB where there are {limit / 2**30:,.0f}: lower "
            "--frames, --size or --batch-size, or raise --accumulate."
        )


def stop_kindly(trainer: "Trainer") -> None:
    """The first Ctrl-C, or a cluster's SIGTERM, ends the run after a step; the second at once."""
    import os

    from engine.cli import Interrupted

    owner = os.getpid()

    def ask(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a loader's worker; the run ends it
        if trainer.stop_asked:
            raise Interrupted
        trainer.stop()
        with suppress(OSError, RuntimeError):  # nobody reads it, or a line was being written
            trainer.display.tell("stopping after this step; once more to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)


@contextmanager
def explained_out_of_memory(recipe: "Recipe") -> Iterator[None]:
    import torch

    from engine.errors import RefusedError

    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch raises its own on a GPU alone
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not known and "can't allocate memory" not in str(error):
            raise
        loop = recipe.loop
        raise RefusedError(
            f"there is too little memory for this model and {loop.batch_size} clips in "
            f"{loop.accumulate} parts: raise --accumulate to {loop.accumulate * 2}, or lower "
            "--batch-size, --frames or --size."
        ) from error


def _conclude(trainer: "Trainer", out: Path, report: "Report", finished: bool) -> int:
    import sys

    from engine.training import checkpoint, history

    rows = trainer.standing.history
    curves = history.draw_curves(out, rows, f"{trainer.recipe.model} {trainer.recipe.preset}")
    for path, reason in report.failures.items():
        print(f"bad: {path}: {reason}", file=sys.stderr)
    if damage := report.describe_damage():
        print(f"{damage}: `engine data check` says which are bad", file=sys.stderr)
    if not finished:
        print(f"stopped; `engine train --out {out} --resume` goes on from here", file=sys.stderr)
        return INTERRUPTED
    best = checkpoint.best_of(out)
    if best is not None:
        row = next(row for row in rows if row["step"] == trainer.standing.best_step)
        print(
            f"best: {best} after epoch {row['epoch']:.0f}, validation top-1 {row['val_top1']:.1%}, "
            f"top-5 {row['val_top5']:.1%}, F1 {row['val_f1']:.3f}; curves in {curves}"
        )
    return 1 if report.failures else 0
