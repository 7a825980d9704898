"""Options of a compilation, checked against this machine before anything is built."""

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import RefusedError, UserError, unknown_name
from trt.backends import BACKENDS, choose
from trt.config import PRECISIONS, BatchRange, Precision, Target
from trt.parity import Budget
from trt.probe import Gpu, this_gpu

MAX_SHARE = 0.9
"""Largest share of tokens to merge: a layer merges at most half of its tokens."""


@dataclass(frozen=True, kw_only=True)
class CompileRequest:
    run: Path
    data: Path | None
    backend: str
    precision: Precision
    """The requested precision; `target.precision` is the one that runs."""
    target: Target
    budget: Budget
    unproved: bool
    num_proof_clips: int
    num_calibration_clips: int
    cache: Path | None = None
    """Folder for finished builds and the fp32 model's logits."""
    fast_decode: bool = False
    """Let the artifact decode videos fast, if held-out clips keep their labels."""
    is_auto: bool = False
    """Whether the backend was chosen here, and another one may replace it."""
    searches_merging: bool = False
    """Whether to find out how many tokens can be merged."""


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
    fast_decode: bool = False,
    workspace_gb: float | None = None,
    optimization_level: int | None = None,
    cache: Path | None = None,
    merge_tokens: float | Literal["auto"] = 0.0,
    log: Callable[[str], None],
) -> CompileRequest:
    """Resolve and check the options of a compilation.

    Args:
        run: The run to compile.
        precision: The requested precision; a backend may run a different one.
        backend: A backend, or "auto" for the best one on this machine.
        data: Dataset of the clips; by default the one that the run was trained on.
        batches: Minimum, optimal and maximum batch size.
        accept_drift: Percent of clips whose label may change; also the allowed loss of accuracy in
            percent.
        unproved: Allow a build that can't run, and so can't be checked, on this machine.
        num_clips: Number of held-out clips for the parity check.
        num_calibration_clips: Number of training clips for calibration.
        fast_decode: Let the artifact decode videos fast, if held-out clips keep their labels.
        workspace_gb: Memory that the compiler may use.
        optimization_level: Optimization level of the compiler.
        cache: Folder for finished builds; by default the user's cache folder.
        merge_tokens: Share of a transformer's tokens to merge, or "auto" for the largest that
            passes the parity check.
        log: Called with each message.

    Raises:
        UserError: A name is unknown, or the share of tokens is out of range.
        RefusedError: This machine can't use the backend.
    """
    if merge_tokens != "auto" and not 0 <= merge_tokens <= MAX_SHARE:
        raise UserError(
            f"`merge_tokens` is a share from 0 to {MAX_SHARE}, or auto, not {merge_tokens}."
        )
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, list(PRECISIONS))
    gpu = this_gpu()
    is_auto = backend == "auto"
    if is_auto:
        backend, why = choose(gpu)
        log(f"backend {backend}: {why}")
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, ["auto", *BACKENDS])
    status = BACKENDS[backend].probe(gpu)
    if not status.usable:
        raise RefusedError(f"{backend} can't be used here: {status.why}; {status.fix or 'no fix'}.")
    runs = _resolve(precision, backend, gpu, log)
    if not BACKENDS[backend].runs_on(gpu) and not unproved:
        raise RefusedError(
            f"{backend} can be built but not run here, so its parity can't be checked: "
            "pass `unproved=True` to build it anyway."
        )
    min_size, opt_size, max_size = batches
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
            batches=BatchRange(min=min_size, opt=opt_size, max=max_size),
            workspace_gb=workspace_gb,
            optimization_level=optimization_level,
            merged_tokens=0.0 if merge_tokens == "auto" else float(merge_tokens),
        ),
        budget=budget,
        unproved=unproved,
        num_proof_clips=num_clips,
        num_calibration_clips=num_calibration_clips,
        cache=cache,
        fast_decode=fast_decode,
        is_auto=is_auto,
        searches_merging=merge_tokens == "auto",
    )


def after_failure(
    request: CompileRequest, failed: Collection[str], gpu: Gpu | None, log: Callable[[str], None]
) -> CompileRequest:
    """The same request for the next backend."""
    backend, why = choose(gpu, failed)
    log(f"backend {backend}: {why}")
    runs = _resolve(request.precision, backend, gpu, log)
    return dataclasses.replace(
        request, backend=backend, target=dataclasses.replace(request.target, precision=runs)
    )


def _resolve(
    precision: Precision, backend: str, gpu: Gpu | None, log: Callable[[str], None]
) -> Precision:
    """The precision that a backend runs for the requested one."""
    runs, reason = BACKENDS[backend].resolve_precision(precision, gpu)
    if reason:
        log(f"{reason}: using {runs} instead")
    return runs
