"""`engine bench`: clips per second and accuracy on this machine.

benchmarks/commands.py does the work; here are the flags.
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
            help="Runs, and artifacts compiled from them; with --stage model the first is a run. "
            "Or: compare A.json B.json.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of a dataset. Default: the run's own, else 200 synthetic clips."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="loader, model or end-to-end. Default: end-to-end if runs are given, else loader."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for JSON, CSV, charts and an HTML page.")
    ] = Path("bench"),
    against: Annotated[
        str | None,
        typer.Option(
            help="Baselines to compare with, comma-separated: hf, torch, torch-compile, "
            "onnxruntime, torchcodec, decord. They get the run's weights."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split on which accuracy is measured.")] = "test",
    views: Annotated[
        str, typer.Option(help="Views per video as CLIPSxCROPS; several as in 1x1,3x1,10x3.")
    ] = "1x1",
    batches: Annotated[
        str | None,
        typer.Option(help="Batch sizes, comma-separated. Default: 1,8 for model, else 8."),
    ] = None,
    clips: Annotated[
        int | None, typer.Option(min=1, help="For end-to-end: maximum number of clips.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each pipeline.")] = 5,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="For end-to-end: approximate length of a repeat.")
    ] = 10.0,
    target_clips_per_s: Annotated[
        float | None,
        typer.Option(help="Recommend the most accurate pipeline that is at least this fast."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Recommend the fastest pipeline within this many points of the best top-1."
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="For loader: frames per clip.")] = 8,
    size: Annotated[
        int, typer.Option(min=1, help="For loader: height and width of a frame.")
    ] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="For loader: batch size.")] = 16,
) -> None:
    """Measure loaders, models, or everything from files to labels, beside baselines.

    All pipelines are timed in one run, interleaved. end-to-end also measures
    accuracy on clips that the run did not train on, and draws a chart.
    [bold]compare[/bold] lists what became slower or less accurate between two
    results, beyond noise; the exit code is then 3.

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
        raise UserError("--target-clips-per-s and --max-drop need accuracy: leave --stage out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} can't be created ({error.strerror}).") from error
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
