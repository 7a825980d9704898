"""`engine bench`: how fast this machine goes from files to answers, stage by stage."""

from pathlib import Path
from typing import Annotated, Any

import typer

STAGES = ("loader", "model")


def bench(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN ARTIFACT...]",
            help="For --stage model: a run, then what was compiled from it.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of a dataset; without it, 200 synthetic clips are drawn."),
    ] = None,
    stage: Annotated[str, typer.Option(help="What to measure: loader or model.")] = "loader",
    out: Annotated[Path, typer.Option(help="Folder for the results, as JSON.")] = Path("bench"),
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip.")] = 8,
    size: Annotated[int, typer.Option(min=1, help="Side of the crop, in pixels.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in a batch.")] = 16,
    batches: Annotated[
        str, typer.Option(help="For --stage model: clips in a batch, one or more sizes.")
    ] = "1,8",
    repeats: Annotated[int, typer.Option(min=1, help="How often each way is timed.")] = 5,
) -> None:
    """Time the loaders or the model: clips per second, beside what people use today.

    All ways are timed in turn, in one run. Loaders stand against the plain PyTorch route and
    against decoding alone; artifacts against the run that they come from, in eager PyTorch.

    Example: [bold]engine bench --stage loader --data my_videos --out bench[/bold]

    Example: [bold]engine bench run fast --stage model --out bench[/bold]
    """  # fmt: skip
    import shlex
    import sys

    from engine.errors import UserError, unknown_name

    if stage not in STAGES:
        raise unknown_name("stage", stage, list(STAGES))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} can't be made a folder ({error.strerror}).") from error
    if stage == "model":
        result = _measure_model(runs or [], _sizes(batches), repeats)
    else:
        result = _measure_loader_of(data, frames, size, batch_size, repeats)
    result["command"] = shlex.join(["engine", *sys.argv[1:]])
    print(f"written to {_save(result, out)}")


def _sizes(text: str) -> list[int]:
    from engine.errors import UserError

    sizes = text.split(",")
    if not all(size.strip().isdigit() and int(size) for size in sizes):
        raise UserError(f"--batches takes numbers as in 1,8, not {text!r}.")
    return [int(size) for size in sizes]


def _measure_model(runs: list[Path], batches: list[int], repeats: int) -> dict[str, Any]:
    from benchmarks.machine import fingerprint
    from benchmarks.suites import model as suite
    from engine.commands.opened import is_artifact
    from engine.errors import UserError
    from engine.progress import progress_bar

    if not runs or is_artifact(runs[0]) or not all(map(is_artifact, runs[1:])):
        raise UserError(
            "--stage model takes a run, then the artifacts compiled from it: "
            "engine bench RUN ARTIFACT --stage model."
        )
    steps = suite.num_steps(len(runs) - 1, len(batches), repeats)
    with progress_bar("Measuring", total=steps, unit="steps") as advance:
        measured = suite.measure(
            runs[0], runs[1:], batches=batches, repeats=repeats, on_done=advance
        )
    _print_model(measured)
    protocol = " ".join((suite.__doc__ or "").split())
    return {"stage": "model", "protocol": protocol, **fingerprint(), **measured}


def _print_model(measured: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"The model alone, {measured['gflop_per_clip']:,.2f} GFLOP a clip")
    table.add_column("way")
    for name in ("batch", "clips/s", "spread", "× eager", "share of peak"):
        table.add_column(name, justify="right")
    for row in measured["rows"]:
        share = row.get("share_of_peak")
        table.add_row(
            row["name"],
            str(row["batch"]),
            f"{row['clips_per_s']:,.1f}",
            f"{row['spread']:.0%}{' wide' if row['wide'] else ''}",
            f"{row['times_yardstick']:.2f}",
            "" if share is None else f"{share:.0%}",
        )
    Console().print(table)


def _measure_loader_of(
    data: Path | None, frames: int, size: int, batch_size: int, repeats: int
) -> dict[str, Any]:
    import tempfile

    from engine.data import manifest, synthetic
    from engine.data.clip_rows import clip_rows

    with tempfile.TemporaryDirectory(prefix="engine-bench-") as folder:
        if data is None:
            root = Path(folder) / "synthetic"
            synthetic.make_dataset(root, num_classes=8, clips_per_class=25, seed=0)
        else:
            root = data
        rows, num_bad = clip_rows(manifest.load(root))
        if num_bad:
            print(f"{num_bad:,} bad clips left out")
        result = _measure_loader(
            rows, frames=frames, size=size, batch_size=batch_size, repeats=repeats
        )
    return {**result, "data": "200 synthetic clips" if data is None else data.name}


def _measure_loader(
    rows: list[Any], *, frames: int, size: int, batch_size: int, repeats: int
) -> dict[str, Any]:
    import torch

    from benchmarks.machine import fingerprint
    from benchmarks.suites import loader as suite
    from dali_pipelines.spec import ClipSpec
    from engine.progress import progress_bar

    gpu = 0 if torch.cuda.is_available() else None
    spec = ClipSpec(num_frames=frames, crop=size, resize=round(size * 256 / 224))
    steps = suite.num_steps(repeats, gpu)
    with progress_bar("Measuring", total=steps, unit="epochs") as advance:
        measured = suite.measure(
            rows, spec, batch_size=batch_size, repeats=repeats, gpu=gpu, on_done=advance
        )
    protocol = " ".join((suite.__doc__ or "").split())
    result = {"stage": "loader", "protocol": protocol, **fingerprint(), "spec": spec.to_dict()}
    _print_loader(measured)
    return {**result, **measured}


def _print_loader(measured: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Loading {measured['num_clips']:,} clips, {measured['threads']} threads")
    table.add_column("way")
    for name in ("clips/s", "spread", "× plain torch", "share of the bound"):
        table.add_column(name, justify="right")
    for row in measured["rows"]:
        table.add_row(
            row["name"],
            f"{row['clips_per_s']:,.0f}",
            f"{row['spread']:.0%}{' wide' if row['wide'] else ''}",
            f"{row['times_plain_torch']:.2f}",
            f"{row['share_of_bound']:.2f}",
        )
    Console().print(table)
    memory = measured["memory"]
    print(
        f"memory {memory['resident_mib'][1]:,.0f} MiB after two epochs, "
        f"{memory['growth_after_second_epoch']:+.1%} at most in the "
        f"{len(memory['resident_mib']) - 2} after them; open files "
        f"{memory['open_files'][1]} and {max(memory['open_files'])}"
    )


def _save(result: dict[str, Any], out: Path) -> Path:
    import json

    from benchmarks.machine import file_name
    from engine import atomic

    path = out / file_name(result["stage"], result)
    with atomic.new_text(path) as file:
        json.dump(result, file, indent=2)
        file.write("\n")
    return path
