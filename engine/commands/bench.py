"""`engine bench`: how fast this machine goes from files to answers, and how right the answers are.

`bench_stages.py` calls what measures; here it is read what was asked for.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

STAGES = ("loader", "model", "end-to-end")
COMPARE = Path("compare")


def bench(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN ARTIFACT...]",
            help="Runs, and artifacts compiled from them; for --stage model, one run first. "
            "Or: compare A.json B.json.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of a dataset; else the run's own, or 200 synthetic clips."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="loader, model, or end-to-end; end-to-end where runs are named."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for JSON, CSV, charts and page.")] = Path(
        "bench"
    ),
    against: Annotated[
        str | None,
        typer.Option(
            help="What people use today, with the run's weights: hf, torch, torch-compile, "
            "onnxruntime, torchcodec, decord."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The part that accuracy is measured on.")] = "test",
    views: Annotated[
        str, typer.Option(help="Looks at each video, in time and crops: 1x1,3x1,10x3.")
    ] = "1x1",
    batches: Annotated[
        str | None, typer.Option(help="Clips in a batch, one or more sizes; 1,8 for model, else 8.")
    ] = None,
    clips: Annotated[
        int | None, typer.Option(min=1, help="For end-to-end: so many clips of the part at most.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each way is timed.")] = 5,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="For end-to-end: about how long a repeat lasts.")
    ] = 10.0,
    target_clips_per_s: Annotated[
        float | None, typer.Option(help="Choose the most accurate way that is so fast.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Choose the fastest way within so many points of the best top-1."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="For loader: frames of a clip.")] = 8,
    size: Annotated[int, typer.Option(min=1, help="For loader: side of the crop.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="For loader: clips in a batch.")] = 16,
) -> None:
    """Time loaders, models, or all from files to labels, beside what people use.

    All ways are timed in turn, in one run. end-to-end measures accuracy, too,
    on clips that the run held back, and draws both as a chart.
    [bold]compare[/bold] says what became slower or less accurate from one result
    to another, beyond noise; its exit code is then 3.

    Example: [bold]engine bench run fast --against torch,hf --max-drop 0.5 --out bench[/bold]

    Example: [bold]engine bench --stage loader --data my_videos[/bold]

    Example: [bold]engine bench run fast --stage model --batches 1,8[/bold]

    Example: [bold]engine bench compare before.json after.json[/bold]
    """  # fmt: skip
    import shlex
    import sys

    from benchmarks import commands
    from engine.errors import UserError, unknown_name

    runs = runs or []
    if runs[:1] == [COMPARE] and not COMPARE.exists():
        raise typer.Exit(commands.compare(runs[1:]))
    stage = stage or ("end-to-end" if runs else "loader")
    if stage not in STAGES:
        raise unknown_name("stage", stage, list(STAGES))
    has_budget = target_clips_per_s is not None or max_drop is not None
    if has_budget and stage != "end-to-end":
        raise UserError("a budget needs accuracy: leave --stage out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} can't be made a folder ({error.strerror}).") from error
    result: dict[str, Any]
    if stage == "loader":
        result = commands.loader(data, frames, size, batch_size, repeats)
    elif stage == "model":
        result = commands.model(runs, commands.sizes(batches or "1,8"), repeats)
    else:
        result = commands.end_to_end(
            runs, data, split, against=against, views=views, batches=batches or "8",
            num_clips=clips, repeats=repeats, seconds=seconds,
        )  # fmt: skip
    result["command"] = shlex.join(["engine", *sys.argv[1:]])
    for path in commands.save(result, out):
        print(f"written to {path}")
    if has_budget:
        commands.advise(result, runs, target_clips_per_s, max_drop)
