"""`engine train`: fine-tune a model on a dataset of labelled videos."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

DATA, MODEL, OPTIMIZATION, ADVANCED = "Data", "Model", "Optimization", "Advanced"


def train(
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoints, curves and settings.")],
    data: Annotated[Path | None, typer.Option(help="Folder of a dataset with splits.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="vit-lstm, cnn-lstm, cnn-birnn, timesformer, vivit, torchvision or x3d; hf is any "
            "video classifier of transformers, named by --weights."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Model size: base is the published one, small trains on a laptop; timesformer "
            "also has hr and l, x3d has s and m, and torchvision the names of its video models, "
            "such as swin3d_t. Default: base with a GPU, else small."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the clips.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Clips in a training step, over all devices.")
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(
            help="For few clips: keep the backbone as it is, compute its features once, and train "
            "only the last layers on them, in seconds: attentive, recurrent or linear.",
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Keep decoded frames in this folder for later epochs; with --probe, features, too."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Where metrics go, beside history.csv: tensorboard, mlflow or wandb, several with "
            "commas. Default: tensorboard, in RUN/tensorboard.",
            show_default=False,
        ),
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Split the clips this way for this run; the dataset keeps its own splits.",
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Cross-validation: all, or numbers such as 1,3. Trains one run for each fold of "
            "engine data split --folds, in OUT/fold-1 and so on; the same command continues.",
        ),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            rich_help_panel=DATA,
            help="Mirror half of the clips. Default: on, unless class names contain left or right.",
        ),
    ] = None,
    probe_views: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=DATA,
            help="With --probe: views of each training clip, one plain and the others augmented. "
            "Default: 4.",
        ),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="For rare classes: none, weights (of the loss) or sampling (more often).",
        ),
    ] = None,
    loader: Annotated[
        str | None, typer.Option(rich_help_panel=DATA, help="dali, or torch for plain PyTorch.")
    ] = None,
    cache_gb: Annotated[
        float, typer.Option(rich_help_panel=DATA, help="Maximum size of the cache in GB.")
    ] = 20.0,
    weights: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="Initial weights: a name on the Hugging Face hub, a folder, a file, or none.",
        ),
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option("--frames", min=1, rich_help_panel=MODEL, help="Frames per clip.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=MODEL, help="Height and width of a frame in pixels."),
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="How frames are sampled: uniform, equidistant, random or segments.",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=MODEL, help="Frame stride for uniform sampling."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="A model option as KEY=VALUE, for example depth=6 or recurrence.hidden=512; "
            "may be repeated.",
        ),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(rich_help_panel=OPTIMIZATION, help="sgd, adam or adamw.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=OPTIMIZATION,
            help="Learning-rate schedule: cosine, step, plateau or constant.",
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(rich_help_panel=OPTIMIZATION, help="For example 0.1.")
    ] = None,
    mixup: Annotated[
        float | None,
        typer.Option(rich_help_panel=OPTIMIZATION, help="Mix pairs of clips; alpha of mixup."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OPTIMIZATION,
            help="Distillation: a trained run whose predictions are learned beside the labels.",
        ),
    ] = None,
    freeze_epochs: Annotated[
        int | None,
        typer.Option(
            min=0, rich_help_panel=OPTIMIZATION, help="First epochs in which only the head trains."
        ),
    ] = None,
    freeze_share: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=OPTIMIZATION,
            help="Never train this share of the pretrained layers, counted from the input, for "
            "example 0.5: steps are faster.",
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=OPTIMIZATION,
            help="Keep an exponential moving average of the weights; decay, for example 0.999.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=OPTIMIZATION,
            help="Validation metric that selects the best checkpoint: top1, top5, f1 or loss.",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=0,
            rich_help_panel=OPTIMIZATION,
            help="Stop after this many epochs without improvement; 0 never stops early.",
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=ADVANCED,
            help="Gradient accumulation: parts that a batch is split into, to save memory.",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(rich_help_panel=ADVANCED, help="auto, fp32, tf32, bf16 or fp16.")
    ] = None,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", rich_help_panel=ADVANCED, help="Train through torch.compile."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, rich_help_panel=ADVANCED, help="Random seed.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=ADVANCED,
            help="Settings from a TOML file such as RUN/recipe.toml, or a shipped recipe by name; "
            "flags override them.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            rich_help_panel=ADVANCED,
            help="Any setting of a recipe as KEY=VALUE; may be repeated.",
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=ADVANCED, help="GPUs, or processes on a CPU.", show_default="1"
        ),
    ] = None,
    nodes: Annotated[
        int,
        typer.Option(min=1, rich_help_panel=ADVANCED, help="Machines, each started with torchrun."),
    ] = 1,
    track_weights: Annotated[
        bool,
        typer.Option(
            "--track-weights",
            rich_help_panel=ADVANCED,
            help="With --track: upload the weights of the best checkpoint, too.",
        ),
    ] = False,
    save_minutes: Annotated[
        float,
        typer.Option(
            min=0, rich_help_panel=ADVANCED, help="Minutes between checkpoints within an epoch."
        ),
    ] = 10.0,
) -> None:
    """Train a model on a dataset and keep the checkpoint with the best validation score.

    Settings come from the preset, then from --recipe, then from flags. A run that was killed
    continues with --resume and ends with the same weights, bit by bit (on one kind of CPU).
    Ctrl-C saves a checkpoint and stops. For several GPUs pass --devices N, or start with torchrun.

    Example: [bold]engine train --data my_videos --model cnn-lstm --preset small --epochs 12
    --cache cache --out run[/bold]

    Example: [bold]engine train --data my_videos --folds all --model cnn-lstm --out folds[/bold]

    Eight clips of a class are enough for a probe on pretrained weights.

    Example: [bold]engine train --data my_videos --model cnn-lstm --weights lite0.safetensors
    --option backbone=tf_efficientnet_lite0 --probe recurrent --out run[/bold]
    """
    given = dict(locals())

    import shlex
    import sys

    from engine import api
    from engine.commands.setting_flags import nested, setting
    from engine.commands.train_folds import train_folds
    from engine.commands.train_output import conclude
    from engine.errors import UserError
    from engine.interrupt import stop_kindly
    from engine.training.recipe import merge, setting_names

    settings: dict[str, Any] = {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in given.items()
        if name in setting_names() and value is not None
    }
    settings |= nested([setting(text) for text in set_ or []])
    if option:
        settings = merge(settings, {"options": nested([setting(text) for text in option])})
    if resume and (settings or size or recipe or scheme):
        raise UserError(
            "a resumed run keeps its settings: pass only --out, --data, --loader, --cache, "
            "--track and --device."
        )
    if data is None and not resume:
        raise UserError("no dataset given: pass --data with its folder.")
    command = shlex.join(["engine", *sys.argv[1:]])
    if folds is not None:
        if resume or scheme or devices or nodes > 1:
            raise UserError(
                "--folds continues by itself, splits as `engine data split` did, and trains on one "
                "device: leave out --resume, --scheme, --devices and --nodes."
            )
        assert data is not None
        code = train_folds(
            data, out, folds, command=command, recipe=recipe, size=size, loader=loader, cache=cache,
            cache_gb=cache_gb, device=device, save_minutes=save_minutes, track=track,
            track_weights=track_weights, **settings,
        )  # fmt: skip
        raise typer.Exit(code)
    trained = api.train(
        data, out, resume=resume, recipe=recipe, scheme=scheme, size=size,
        loader=cast(Any, loader), cache=cache, cache_gb=cache_gb, device=cast(Any, device),
        devices=devices, nodes=nodes, save_minutes=save_minutes, track=track,
        track_weights=track_weights, command=command, log=None, on_ready=stop_kindly, **settings,
    )  # fmt: skip
    raise typer.Exit(conclude(trained))
