"""`engine compile`: from a trained run to a compiled artifact with checked accuracy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from engine.errors import UserError

if TYPE_CHECKING:
    from trt.config import ArtifactConfig


def compile_(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run, a checkpoint, or (--rebuild) an artifact.")
    ],
    out: Annotated[Path, typer.Option(help="New folder for the artifact.")],
    backend: Annotated[
        str,
        typer.Option(
            help="auto (the fastest here), tensorrt, tensorrt-rtx, inductor, openvino, onnx, eager."
        ),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, tf32, bf16, fp16, int8 or fp8; int8 and fp8 are calibrated.")
    ] = "fp32",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the dataset. Default: the run's own.")
    ] = None,
    batches: Annotated[
        str,
        typer.Option(help="Minimum, optimal and maximum batch size; others are padded or split."),
    ] = "1,8,32",
    clips: Annotated[
        int, typer.Option(min=1, help="Maximum number of held-out clips for the accuracy check.")
    ] = 256,
    calibration_clips: Annotated[
        int, typer.Option(min=1, help="Maximum number of training clips for calibration.")
    ] = 128,
    accept_drift: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, help="Accept that up to this percentage of the clips get another label."
        ),
    ] = None,
    unproved: Annotated[
        bool,
        typer.Option(
            "--unproved", help="Skip the check: write an engine that this machine can't run."
        ),
    ] = False,
    workspace_gb: Annotated[
        float | None, typer.Option(min=0, help="GPU memory in GB that a TensorRT build may use.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="TensorRT's builder optimization level.")
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Rebuild an artifact from another machine for this one."),
    ] = False,
    fast_decode: Annotated[
        bool,
        typer.Option(
            "--fast-decode",
            help="Decode videos faster with slightly different pixels, if the labels stay.",
        ),
    ] = False,
    merge_tokens: Annotated[
        str,
        typer.Option(
            metavar="SHARE|auto",
            help="Share of a transformer's tokens to merge into similar ones by its last layer: "
            "0.6 leaves 40% of them. auto: the largest share that passes the check.",
        ),
    ] = "0",
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of finished builds. Default: ~/.cache/engine/artifacts."),
    ] = None,
) -> None:
    """Compile a trained model and check its predictions on held-out clips.

    The compiled and the fp32 model label the same clips. If fewer than 99% get the same label, or
    top-1 drops by more than 0.5 points, the layers that lose accuracy are found and kept in fp32.
    If that doesn't help, nothing is written and the exit code is 3.

    Example: [bold]engine compile run --precision int8 --out fast[/bold]
    """
    from engine import api

    if rebuild:
        api.compile(run, out, rebuild=True, log=print)
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
        merge_tokens=_share(merge_tokens), fast_decode=fast_decode,
    )  # fmt: skip
    _print(config, out)


def _share(text: str) -> Any:
    """The share of tokens to merge; `auto` stays."""
    try:
        return text if text == "auto" else float(text)
    except ValueError as error:
        raise UserError(
            f"--merge-tokens takes a share as in 0.6, or auto, not {text!r}."
        ) from error


def _print(config: "ArtifactConfig", out: Path) -> None:
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
    for codec, fast in parity.get("fast_decode", {}).items():
        print(
            f"{codec} is decoded fast: {fast['agreement']:.2%} of {fast['num_clips']} clips get "
            f"the same label as decoded exactly; top-1 {fast['accuracy']:.1%} against "
            f"{fast['reference_accuracy']:.1%}"
        )
    num_in_engine = config.partition.get("in_engine", 0)
    print(
        f"{config.backend} in {config.target.in_words}: {num_in_engine} operators "
        f"in {config.partition['engines']} engine(s), {config.partition['in_torch']} in torch; "
        f"built in {built['seconds']:.1f} s with {built['peak_memory_mib']:,.0f} MiB at most"
    )
    if unfused := config.partition.get("unfused_attention"):
        print(f"attention without a fused kernel, which is slower: {', '.join(unfused)}")
    print(f"written to {out}")
