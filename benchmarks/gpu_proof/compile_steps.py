"""Compiled models on the GPU: their error, their speed, and their share of the GPU's peak."""

import functools
from typing import Any

from benchmarks.gpu_proof.step import Context, Skipped, Step

FAMILIES = ("timesformer", "cnn-lstm")
BACKENDS = ("eager", "inductor", "tensorrt", "tensorrt-rtx")
BATCHES = (1, 32)


def backend(family: str, name: str, context: Context) -> list[dict[str, Any]]:
    """All precisions of a backend, at one clip and at many, against eager fp32."""
    from benchmarks.stages import backends
    from trt.backends import BACKENDS
    from trt.probe import this_gpu

    status = BACKENDS[name].probe(this_gpu())
    if not status.usable:
        raise Skipped(f"{status.why}; {status.fix or 'no fix'}")
    if not BACKENDS[name].runs_on(this_gpu()):
        raise Skipped(f"{status.why}")
    return [
        backends.measure(
            family,
            "small" if context.rehearse else "base",
            batch=batch,
            repeats=1 if context.rehearse else 5,
            min_s=context.min_s,
            backends=[name],
            precisions=["fp32", "bf16"] if context.rehearse else backends.PRECISIONS,
            with_compile=name == "eager" and not context.rehearse,
        )
        for batch in (BATCHES[:1] if context.rehearse else BATCHES)
    ]


def peaks(context: Context) -> dict[str, Any]:
    """Matrix products and copies, as fast as they get here."""
    from benchmarks.machine import peaks

    return peaks()


STEPS: dict[str, Step] = {"peaks": peaks} | {
    f"{family}, {name}": functools.partial(backend, family, name)
    for family in FAMILIES
    for name in BACKENDS
}
