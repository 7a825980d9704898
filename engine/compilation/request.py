"""What is to be compiled, and how: checked against this machine before anything is built."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import RefusedError, unknown_name
from trt.backends import BACKENDS, choose
from trt.config import PRECISIONS, BatchRange, Precision, Target
from trt.parity import Budget
from trt.probe import this_gpu


@dataclass(frozen=True, kw_only=True)
class CompileRequest:
    run: Path
    data: Path | None
    backend: str
    precision: Precision
    """What was asked for; the target's is what runs."""
    target: Target
    budget: Budget
    unproved: bool
    num_proof_clips: int
    num_calibration_clips: int
    cache: Path | None = None
    """Where finished builds and the fp32 model's answers are kept."""


def make_request(
    run: Path,
    *,
    precision: str = "fp32",
    backend: str = "auto",
    data: Path | None = None,
    batches: tuple[int, int, int] = (1, 8, 32),
    accept_drift: float | None = None,
    unproved: bool = False,
    num_clips: int = 256,
    num_calibration_clips: int = 128,
    workspace_gb: float | None = None,
    optimization_level: int | None = None,
    cache: Path | None = None,
    log: Callable[[str], None],
) -> CompileRequest:
    """`batches`: the least, the best and the greatest. `accept_drift`: percent of the clips that
    may get another label or be lost."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, list(PRECISIONS))
    gpu = this_gpu()
    if backend == "auto":
        backend, why = choose(gpu)
        log(f"backend {backend}: {why}")
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, ["auto", *BACKENDS])
    status = BACKENDS[backend].probe(gpu)
    if not status.usable:
        raise RefusedError(f"{backend} can't be used here: {status.why}; {status.fix or 'no fix'}.")
    runs, reason = BACKENDS[backend].resolve_precision(precision, gpu)
    if reason:
        log(f"{reason}: {runs} runs instead")
    if not BACKENDS[backend].runs_on(gpu) and not unproved:
        raise RefusedError(
            f"{backend} can be built here and not run, so nothing would prove it: "
            "pass --unproved to have it all the same."
        )
    least, best, most = batches
    budget = Budget()
    if accept_drift is not None:
        share = accept_drift / 100
        budget = Budget(agreement=1 - share, drop=share, accepted=True)
    return CompileRequest(
        run=run,
        data=data,
        backend=backend,
        precision=precision,
        target=Target(
            precision=runs,
            batches=BatchRange(min=least, opt=best, max=most),
            workspace_gb=workspace_gb,
            optimization_level=optimization_level,
        ),
        budget=budget,
        unproved=unproved,
        num_proof_clips=num_clips,
        num_calibration_clips=num_calibration_clips,
        cache=cache,
    )
