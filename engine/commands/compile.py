"""`engine compile`: a run to an artifact that is fast here, and proved to give the same answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from trt.config import ArtifactConfig


def compile_(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run, a checkpoint, or (--rebuild) an artifact.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the artifact.")],
    backend: Annotated[
        str,
        typer.Option(
            help="auto (the fastest here), tensorrt, tensorrt-rtx, inductor, openvino, onnx, eager."
        ),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, tf32, bf16, fp16, int8 or fp8; int8 is calibrated.")
    ] = "fp32",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the dataset; without it, the run's own.")
    ] = None,
    batches: Annotated[
        str, typer.Option(help="Least, best and greatest batch; others are padded or split.")
    ] = "1,8,32",
    clips: Annotated[
        int, typer.Option(min=1, help="Held-out clips on which the artifact is proved, at most.")
    ] = 256,
    calibration_clips: Annotated[
        int, typer.Option(min=1, help="Training clips on which int8 is calibrated, at most.")
    ] = 128,
    accept_drift: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, help="Percent of clips that may get another label or be lost."
        ),
    ] = None,
    unproved: Annotated[
        bool, typer.Option("--unproved", help="Write an engine that this machine can't run.")
    ] = False,
    workspace_gb: Annotated[
        float | None, typer.Option(min=0, help="GPU memory that a TensorRT build may use.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="How long TensorRT may search.")
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="From an artifact for another machine to one for this."),
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of finished builds; ~/.cache/engine/artifacts.")
    ] = None,
) -> None:
    """Compile a trained model, and prove it on held-out clips before anything is written.

    The artifact and the fp32 model answer the same clips. Where fewer than 99% get the same label,
    or top-1 falls by more than 0.5 points, the layers that break are found and kept in fp32; if
    that doesn't help, nothing is written and the exit code is 3.

    Example: [bold]engine compile run --precision int8 --out fast[/bold]
    """
    from engine import api
    from engine.errors import UserError

    if rebuild:
        from engine.compilation import build

        build.rebuild_in(run, out, log=print)
        print(f"written to {out}")
        return
    numbers = batches.split(",")
    if len(numbers) != 3 or not all(number.strip().isdigit() for number in numbers):
        raise UserError(f"--batches takes three numbers as in 1,8,32, not {batches!r}.")
    least, best, most = map(int, numbers)
    config = api.compile(
        run, out, precision=cast(Any, precision), backend=backend, data=data,
        batches=(least, best, most), accept_drift=accept_drift, unproved=unproved, num_clips=clips,
        num_calibration_clips=calibration_clips, workspace_gb=workspace_gb,
        optimization_level=optimization_level, cache=cache, log=print,
    )  # fmt: skip
    _tell(config, out)


def _tell(config: "ArtifactConfig", out: Path) -> None:
    parity, built = config.parity, config.build
    low, high = parity["accuracy_interval"]
    print(
        f"{parity['agreement']:.2%} of {parity['num_clips']} clips ({parity['clips']}) get the "
        f"same label; top-1 {parity['accuracy']:.1%} ({low:.1%} – {high:.1%}) against "
        f"{parity['reference_accuracy']:.1%} in fp32; logits at most {parity['max_error']:.3g} "
        "apart"
    )
    if not parity["proved"]:
        print(f"not proved: answered by {parity['proved_on']}")
    print(
        f"{config.backend} in {config.target.precision}: {config.partition['in_engine']} operators "
        f"in {config.partition['engines']} engine(s), {config.partition['in_torch']} in torch; "
        f"built in {built['seconds']:.1f} s with {built['peak_memory_mib']:,.0f} MiB at most"
    )
    print(f"written to {out}")
