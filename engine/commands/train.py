"""`engine train`: a model of any family learns one's own videos."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer


def train(
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoints, curves, settings.")],
    data: Annotated[Path | None, typer.Option(help="Folder of a dataset with splits.")] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            help="Split the clips this way for this run; the dataset keeps its own splits."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="vit-lstm, cnn-lstm, cnn-birnn, timesformer or vivit."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="base, the published size, or small; timesformer also has hr and l. Without a GPU "
            "small, else base."
        ),
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
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam or adamw.")] = None,
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
    teacher: Annotated[
        Path | None, typer.Option(help="A run whose answers are learned beside the labels.")
    ] = None,
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
        str | None,
        typer.Option(
            help="Settings: a TOML file as RUN/recipe.toml, or a shipped name; flags win."
        ),
    ] = None,
    loader: Annotated[str | None, typer.Option(help="dali, or torch, the plain one.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep decoded frames in this folder for later epochs.")
    ] = None,
    cache_gb: Annotated[float, typer.Option(help="Greatest size of the cache.")] = 20.0,
    device: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
    devices: Annotated[
        int | None, typer.Option(min=1, help="GPUs, or processes on a CPU.", show_default="1")
    ] = None,
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
    import shlex
    import sys

    from engine import api
    from engine.commands.setting_flags import nested, setting
    from engine.commands.train_output import conclude
    from engine.errors import UserError
    from engine.interrupt import stop_kindly
    from engine.training.recipe import merge

    settings: dict[str, Any] = {
        "model": model, "preset": preset, "weights": weights, "epochs": epochs,
        "batch_size": batch_size, "lr": lr, "optimizer": optimizer, "schedule": schedule,
        "num_frames": frames, "sampling": sampling, "stride": stride, "flip": flip,
        "balance": balance, "label_smoothing": label_smoothing, "mixup": mixup,
        "accumulate": accumulate, "freeze_epochs": freeze_epochs, "ema": ema, "metric": metric,
        "patience": patience, "precision": precision, "compile": compile_, "seed": seed,
        "teacher": str(teacher.absolute()) if teacher else None,
    }  # fmt: skip
    settings = {name: value for name, value in settings.items() if value is not None}
    settings |= nested([setting(text) for text in set_ or []])
    if option:
        settings = merge(settings, {"options": nested([setting(text) for text in option])})
    if resume and (settings or size or recipe or scheme):
        raise UserError(
            "a resumed run keeps its settings: leave all but --out, --data, --loader, --cache "
            "and --device out."
        )
    if data is None and not resume:
        raise UserError("no dataset is named: pass --data with its folder.")
    trained = api.train(
        data, out, resume=resume, recipe=recipe, scheme=scheme, size=size, loader=cast(Any, loader),
        cache=cache, cache_gb=cache_gb, device=cast(Any, device), devices=devices, nodes=nodes,
        save_minutes=save_minutes, command=shlex.join(["engine", *sys.argv[1:]]), log=None,
        on_ready=stop_kindly, **settings,
    )  # fmt: skip
    raise typer.Exit(conclude(trained))
