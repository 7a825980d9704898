"""`engine train`: a model of any family learns one's own videos."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engine.training.loop import Trainer
    from engine.training.recipe import Recipe

INTERRUPTED = 130
SIDES = {"left", "right", "clockwise", "anticlockwise", "counterclockwise"}
"""Words in the names of classes that a mirror would turn into each other."""


def train(
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoints, curves, settings.")],
    data: Annotated[Path | None, typer.Option(help="Folder of a dataset with splits.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="vit-lstm, cnn-lstm, cnn-birnn, timesformer or vivit."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="base, or small for a CPU; timesformer also has hr and l."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Where to begin: a name on the Hugging Face hub, a folder, a file, none."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How often to see each clip.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Clips of a step, in all.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    optimiser: Annotated[str | None, typer.Option(help="sgd, adam or adamw.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Of the rate: cosine, step, plateau or constant.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a clip.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the crop, in pixels.")] = None,
    sampling: Annotated[
        str | None, typer.Option(help="uniform, equidistant, random or segments.")
    ] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Frames to the next; uniform.")] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Mirror half of the clips; off by itself where class names tell left from right.",
        ),
    ] = None,
    balance: Annotated[
        str | None, typer.Option(help="For rare classes: none, weights or sampling.")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="0.1, say.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Mix clips with this alpha.")] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Parts of a batch, one after the other: saves memory.")
    ] = None,
    freeze_epochs: Annotated[
        int | None, typer.Option(min=0, help="Epochs in which only the head learns.")
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="Serve a running average of the weights; 0.999, say.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Of the validation part, picks the best: top1, top5, f1 or loss."),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="Stop after so many epochs without a gain; 0: never.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Train through torch.compile.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of a recipe, KEY=VALUE, again and again."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Of the model, KEY=VALUE: depth=6, or recurrence.hidden=512."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Settings as TOML, as in RUN/recipe.toml; flags win.")
    ] = None,
    loader: Annotated[str | None, typer.Option(help="dali, or torch, the plain one.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep decoded frames in this folder for later epochs.")
    ] = None,
    cache_gb: Annotated[float, typer.Option(help="Greatest size of the cache.")] = 20.0,
    device: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes on a CPU.")] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, help="Machines; or start it there with torchrun.")
    ] = 1,
    save_minutes: Annotated[
        float, typer.Option(min=0, help="Save this often within an epoch, too.")
    ] = 10.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, killed or stopped.")
    ] = False,
) -> None:
    """Train a model on a dataset, and keep the checkpoint that does best on its validation part.

    Settings come from the preset, then from --recipe, then from flags. A run that is killed goes on
    with --resume and ends with the same weights, bit by bit (on one kind of CPU). Ctrl-C saves and
    stops. Several GPUs: --devices N, or start it with torchrun.

    Example: [bold]engine train --data my_videos --model cnn-lstm --preset small --epochs 12
    --cache cache --out run[/bold]
    """
    from engine.errors import UserError
    from engine.models import hub

    hub.stay_offline_if_unreachable()
    given: dict[str, Any] = {
        "model": model, "preset": preset, "weights": weights, "epochs": epochs,
        "batch_size": batch_size, "lr": lr, "optimiser": optimiser, "schedule": schedule,
        "num_frames": frames, "sampling": sampling, "stride": stride, "flip": flip,
        "balance": balance, "label_smoothing": label_smoothing, "mixup": mixup,
        "accumulate": accumulate, "freeze_epochs": freeze_epochs, "ema": ema, "metric": metric,
        "patience": patience, "precision": precision, "compile": compile_, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    given |= dict(map(_setting, set_ or []))
    if option:
        given["options"] = _nested([_setting(each) for each in option])
    if resume:
        if given or size or recipe:
            raise UserError(
                "a resumed run keeps its settings: leave all but --out, --data, --loader, --cache "
                "and --device out."
            )
        chosen, facts = _resumed(out, data)
    else:
        if data is None:
            raise UserError("no dataset is named: pass --data with its folder.")
        chosen, facts = _begun(given, size, recipe, data)
    with _explained_out_of_memory(chosen):
        status = _run(
            chosen,
            facts,
            out,
            resume=resume,
            loader=loader,
            cache=cache,
            cache_gb=cache_gb,
            device=device,
            devices=devices,
            nodes=nodes,
            save_every_s=save_minutes * 60,
        )
    raise typer.Exit(status)


def _begun(
    given: dict[str, Any], size: int | None, recipe: Path | None, data: Path
) -> "tuple[Recipe, dict[str, Any]]":
    import shlex
    import sys

    from engine.data import manifest
    from engine.training import recipe as recipes
    from engine.training.fabric import is_first_process

    settings = {**(recipes.read(recipe) if recipe else {}), **given}
    if size is not None:
        clip = recipes.Recipe.resolve(settings).clip
        settings |= {"crop": size, "resize": round(size * clip.resize / clip.crop)}
    classes = manifest.load(data).class_names
    sided = [name for name in classes if SIDES & set(name.replace("-", "_").split("_"))]
    if sided and "flip" not in settings:
        if is_first_process():
            print(f"clips are not mirrored: {sided[0]!r} tells sides apart; --flip does it anyway")
        settings["flip"] = False
    facts = {
        "command": shlex.join(["engine", *sys.argv[1:]]),
        "data": str(data.absolute()),
        "classes": classes,
    }
    return recipes.Recipe.resolve(settings), facts


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE as TOML reads it; a bare word is a text."""
    import tomllib

    from engine.errors import UserError

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text!r} is no setting; write KEY=VALUE, lr=0.001 say.")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _nested(settings: list[tuple[str, Any]]) -> dict[str, Any]:
    """recurrence.hidden = 5 belongs into a table."""
    nested: dict[str, Any] = {}
    for key, value in settings:
        table, dot, name = key.partition(".")
        if dot:
            nested.setdefault(table, {})[name] = value
        else:
            nested[key] = value
    return nested


def _resumed(out: Path, data: Path | None) -> "tuple[Recipe, dict[str, Any]]":
    from engine.training import run_folder

    recipe, facts = run_folder.load(out)
    if data is not None:
        facts["data"] = str(data.absolute())
    return recipe, facts


def _run(
    recipe: "Recipe",
    facts: dict[str, Any],
    out: Path,
    *,
    resume: bool,
    loader: str | None,
    cache: Path | None,
    cache_gb: float,
    device: str,
    devices: int,
    nodes: int,
    save_every_s: float,
) -> int:
    """All that can fail for a wrong setting fails before other processes are started."""
    import torch

    from dali_pipelines.feed import Feed
    from engine.data import manifest
    from engine.data.clip_rows import clip_rows
    from engine.data.loading import default_loader, make_loader
    from engine.errors import UserError
    from engine.machine import describe_machine
    from engine.models import registry
    from engine.training import checkpoint, run_folder
    from engine.training.display import Display
    from engine.training.fabric import is_first_process, make_fabric
    from engine.training.loop import Trainer
    from engine.training.losses import class_weights, oversample
    from engine.training.memory import keep_freed_memory

    root = Path(facts["data"])
    listed = manifest.load(root)
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
    fabric = make_fabric(device, devices, nodes, recipe.loop.precision)
    world = fabric.world_size
    parts = world * recipe.loop.accumulate
    if recipe.loop.batch_size % parts:
        raise UserError(
            f"a batch of {recipe.loop.batch_size} clips can't be shared by {world} processes in "
            f"{recipe.loop.accumulate} parts; take a multiple of {parts}."
        )
    torch.manual_seed(recipe.loop.seed)
    spec = recipe.model_spec(len(listed.class_names))
    last = checkpoint.last_of(out) if resume else None
    network, told = _make_model(recipe, spec, fresh=last is None)
    spec = registry.portable(spec, network)
    versions = describe_machine().libraries
    if not resume and is_first_process():
        facts |= {"digest": digest, "weights": told, "world": world, "versions": versions}
        run_folder.create(out, recipe, facts, root / manifest.FILE_NAME)

    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    gpu = fabric.device.index if fabric.device.type == "cuda" else None
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
        trainer = Trainer(
            fabric,
            recipe,
            network,
            spec=spec,
            class_names=listed.class_names,
            train=make_loader(name, train_rows, feed, gpu=gpu, cache=cache, cache_gb=cache_gb),
            val=make_loader(name, val_rows, seen, gpu=gpu, cache=cache, cache_gb=cache_gb),
            run=out,
            display=display,
            versions=versions,
            class_weights_N=weights_N,
            save_every_s=save_every_s,
        )
        if last is not None:
            trainer.resume(last)
            display.tell(f"going on after step {trainer.standing.step:,}, from {last}")
        _stop_kindly(trainer)
        finished = trainer.run()
    if not fabric.is_global_zero:
        return 0
    return _conclude(trainer, out, finished)


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


def _stop_kindly(trainer: "Trainer") -> None:
    """The first Ctrl-C, or a cluster's SIGTERM, ends the run after a step; the second at once."""
    import os

    from engine.cli import Interrupted

    owner = os.getpid()

    def ask(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a loader's worker; the run ends it
        if trainer.stop_asked:
            raise Interrupted
        trainer.stop_asked = True
        trainer.display.tell("stopping after this step; once more to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)


@contextmanager
def _explained_out_of_memory(recipe: "Recipe") -> Iterator[None]:
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


def _conclude(trainer: "Trainer", out: Path, finished: bool) -> int:
    import sys

    from engine.training import checkpoint, history

    rows = trainer.standing.history
    curves = history.draw_curves(out, rows, f"{trainer.recipe.model} {trainer.recipe.preset}")
    for loader in (trainer.train, trainer.val):
        if loader.report.failures:
            print(loader.report.describe(), file=sys.stderr)
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
    return 1 if trainer.train.report.failures or trainer.val.report.failures else 0
