"""BenchRow: one row of a result of `engine bench`, and its keys."""

from typing import Any, TypedDict


class BenchRow(TypedDict, total=False):
    """A row has the keys that its stage measures; a failed one has `error` instead of figures."""

    name: str
    kind: str
    """`ours`, or the name of a baseline."""
    model: str
    backend: str
    precision: str
    frames: int
    batch: int
    views: str
    error: str
    note: str

    clips_per_s: float
    """Median of the repeats."""
    repeats: list[float]
    spread: float
    """Of the repeats, as a share of the median."""
    wide: bool
    """The spread is large; don't trust small differences."""
    clips_a_repeat: int
    cold_clips_per_s: float
    """With the files dropped from the cache of the system."""

    top1: float
    top1_interval: list[float]
    num_labelled: int
    agreement: float
    """Share of labels equal to those of eager fp32 with the same weights."""

    latency_ms: dict[str, float]
    """Percentiles p50, p95 and p99 of single clips."""
    first_label_s: float
    build_s: float | None
    peak_mib: int
    gpu_mib: int
    device: Any

    stages: dict[str, float]
    """clips/s of each stage alone."""
    bottleneck: str
    efficiency: float
    """clips/s of the whole as a share of the slowest stage."""
    bound: float
    """clips/s if all stages share the same cores."""
    share_of_bound: float

    on_front: bool
    """No other row is at least as fast and as accurate."""
