"""`engine compile`: a run to an artifact that is fast here, and proved to give the same answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engine.commands.compiling import Asked
    from trt.config import Config
    from trt.probe import Gpu


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
    from engine import atomic
    from engine.commands import compiling
    from engine.errors import RefusedError
    from engine.training.memory import keep_freed_memory
    from trt.probe import this_gpu

    atomic.require_new(out)
    gpu = this_gpu()
    if gpu is None:
        keep_freed_memory()
    if rebuild:
        with atomic.new_folder(out) as stage:
            compiling.artifact.seal(stage, compiling.rebuild(run, stage, gpu, print))
        print(f"written to {out}")
        return
    asked = _asked(
        run, data, backend, precision, batches, accept_drift, unproved, clips, calibration_clips,
        workspace_gb, optimization_level, cache, gpu,
    )  # fmt: skip
    if not compiling.BACKENDS[asked.backend].runs_on(gpu) and not unproved:
        raise RefusedError(
            f"{asked.backend} can be built here and not run, so nothing would prove it: "
            "pass --unproved to have it all the same."
        )
    _tell(compiling.cached(asked, gpu, out, print), out)


def _asked(
    run: Path,
    data: Path | None,
    backend: str,
    precision: Any,
    batches: str,
    accept_drift: float | None,
    unproved: bool,
    num_clips: int,
    num_calibration_clips: int,
    workspace_gb: float | None,
    optimization_level: int | None,
    cache: Path | None,
    gpu: "Gpu | None",
) -> "Asked":
    from engine.commands.compiling import Asked
    from engine.errors import RefusedError, UserError, unknown_name
    from trt.backends import BACKENDS, choose
    from trt.config import PRECISIONS, Batches, Target
    from trt.parity import Budget

    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, list(PRECISIONS))
    if backend == "auto":
        backend, why = choose(gpu)
        print(f"backend {backend}: {why}")
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, ["auto", *BACKENDS])
    status = BACKENDS[backend].probe(gpu)
    if not status.usable:
        raise RefusedError(
            f"{backend} can't be used here: {status.why}; {status.mend or 'no mend'}."
        )
    runs, reason = BACKENDS[backend].executes(precision, gpu)
    if reason:
        print(f"{reason}: {runs} runs instead")
    numbers = batches.split(",")
    if len(numbers) != 3 or not all(each.strip().isdigit() for each in numbers):
        raise UserError(f"--batches takes three numbers as in 1,8,32, not {batches!r}.")
    least, best, most = map(int, numbers)
    budget = Budget()
    if accept_drift is not None:
        share = accept_drift / 100
        budget = Budget(agreement=1 - share, drop=share, accepted=True)
    return Asked(
        run=run,
        data=data,
        backend=backend,
        precision=precision,
        target=Target(
            precision=runs,
            batches=Batches(least=least, best=best, most=most),
            workspace_gb=workspace_gb,
            optimization_level=optimization_level,
        ),
        budget=budget,
        unproved=unproved,
        num_proof_clips=num_clips,
        num_calibration_clips=num_calibration_clips,
        cache=cache,
    )


def _tell(config: "Config", out: Path) -> None:
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
