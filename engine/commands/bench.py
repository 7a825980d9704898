"""`engine bench`: how fast this machine goes from files to answers, stage by stage."""

from pathlib import Path
from typing import Annotated, Any

import typer

STAGES = ("loader",)


def bench(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of a dataset; without it, 200 synthetic clips are drawn."),
    ] = None,
    stage: Annotated[str, typer.Option(help="What to measure: loader.")] = "loader",
    out: Annotated[Path, typer.Option(help="Folder for the results, as JSON.")] = Path("bench"),
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip.")] = 8,
    size: Annotated[int, typer.Option(min=1, help="Side of the crop, in pixels.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in a batch.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="How often each way is timed.")] = 5,
) -> None:
    """Time the loaders: clips per second, against the plain PyTorch route and the bound.

    The bound is what decoding alone would reach; all ways are timed in turn, in one run.

    Example: [bold]engine bench --stage loader --data my_videos --out bench[/bold]
    """
    import shlex
    import sys
    import tempfile

    from engine.data import manifest, synthetic
    from engine.data.clip_rows import clip_rows
    from engine.errors import UserError, unknown_name

    if stage not in STAGES:
        raise unknown_name("stage", stage, list(STAGES))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} can't be made a folder ({error.strerror}).") from error
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
    result["command"] = shlex.join(["engine", *sys.argv[1:]])
    result["data"] = "200 synthetic clips" if data is None else data.name
    print(f"written to {_save(result, out)}")


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
