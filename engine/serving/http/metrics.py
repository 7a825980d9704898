"""Prometheus metrics of the server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "engine_requests", "Answered requests.", ["endpoint", "model", "status"],
            registry=self._registry,
        )  # fmt: skip
        self.failures = Counter(
            "engine_failures", "Requests without a label, by reason.", ["endpoint", "reason"],
            registry=self._registry,
        )  # fmt: skip
        self.queue = Gauge(
            "engine_queue", "Requests that are being decoded or wait.", registry=self._registry
        )
        self.uploads = Gauge(
            "engine_uploads", "Requests whose body is being received.", registry=self._registry
        )
        self.stage_s = Histogram(
            "engine_stage_seconds",
            "Latency by stage: receive, decode (with the wait for a thread), wait (for a batch), "
            "model, total.",
            ["stage"], buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self.batch_size = Histogram(
            "engine_batch_size", "Clips in a batch.", ["model"], buckets=SIZES,
            registry=self._registry,
        )  # fmt: skip
        self.windows = Counter(
            "engine_windows", "Labelled windows.", ["model"], registry=self._registry
        )
        self.reloads = Counter(
            "engine_reloads", "Replaced models.", ["model", "outcome"], registry=self._registry
        )

    def text(self) -> bytes:
        return generate_latest(self._registry)
