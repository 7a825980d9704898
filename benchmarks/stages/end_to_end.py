"""Speed and accuracy of pipelines from video files to labels.

Every pipeline runs in a separate process, one at a time. First it labels all held-out clips, as a
warm-up and to measure accuracy and peak memory. Then all pipelines label clips in turn (A B A B);
the result is the median of the repeats, with a warm file cache. Each pipeline gets as many clips
as it labels in the given time, so slow pipelines label fewer clips per repeat. `cold` is one more
repeat of our pipeline after dropping the videos from the file cache. Latency is measured on one
file at a time, without prefetching. The stages of our pipeline are timed separately, each with all
cores. Efficiency is the rate of the whole pipeline divided by the rate of its slowest stage. On a
CPU, `bound` is the rate that all stages together allow when they share the cores.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import baselines
from benchmarks.budget import on_front
from benchmarks.harness import interleaved, summary
from benchmarks.pipeline import PipelineSpec, Setting
from benchmarks.rows import BenchRow
from benchmarks.worker import PipelineError, Worker
from dali_pipelines.cores import num_cores
from dali_pipelines.loaders.loader_config import Sample
from engine.evaluation.metrics import bootstrap_interval
from engine.file_names import short_names

LATENCIES = 100
LATENCY_S = 20.0
STAGE_REPEATS = 3
STAGE_S = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A pipeline to measure, with facts that are known in advance."""

    spec: PipelineSpec
    weights: str
    """Digest of the weights; candidates with equal weights should predict the same labels."""
    facts: dict[str, Any]
    """Facts for its rows: family, frames, backend, precision."""
    settings: list[Setting]


def measure(
    candidates: list[Candidate],
    rows: list[Sample],
    sources: dict[int, str],
    *,
    repeats: int,
    seconds: float,
    on_work: Callable[[str, int], contextlib.AbstractContextManager[Callable[[], None]]],
) -> dict[str, Any]:
    """Measure pipelines.

    Args:
        candidates: The pipelines; ones that fail become rows with an error.
        rows: The held-out clips.
        sources: The source of each clip, by id.
        repeats: Number of repeats.
        seconds: Approximate duration of a repeat.
        on_work: Opens a progress bar from a title and a number of steps.

    Returns:
        Rows of results with the number of clips and cores.
    """
    with contextlib.ExitStack() as stack:
        pipelines: dict[str, _Measured] = {}
        failed: list[BenchRow] = []
        for candidate in candidates:
            name = candidate.spec.name
            try:
                worker = _open(candidate, rows[0], stack)
                for setting in candidate.settings:
                    with on_work(f"{name}: all clips", len(rows)) as advance:
                        measured = _Measured(candidate, setting, worker, rows, seconds)
                        measured.label_all(advance)
                    pipelines[measured.title] = measured
            except PipelineError as error:
                failed.append(_failed_row(name, candidate, error))
        with on_work("Timing", repeats * len(pipelines)) as advance:
            rates = interleaved(
                {title: pipeline.label_subset for title, pipeline in pipelines.items()},
                repeats=repeats,
                on_done=advance,
            )
        with on_work("Latency and stages", len(pipelines)) as advance:
            results = []
            done = []
            for title, pipeline in pipelines.items():
                try:
                    results.append(pipeline.row(rates[title], sources))
                    done.append(pipeline)
                except PipelineError as error:
                    failed.append(_failed_row(title, pipeline.candidate, error))
                advance()
    _add_agreement(results, done)
    for row, front in zip(results, on_front(results), strict=True):
        row["on_front"] = front
    return {"num_clips": len(rows), "cores": num_cores(), "rows": results + failed}


def _failed_row(name: str, candidate: Candidate, error: PipelineError) -> BenchRow:
    return cast(BenchRow, {"name": name, **candidate.facts, "error": str(error)})


def _open(candidate: Candidate, row: Sample, stack: contextlib.ExitStack) -> "_Open":
    reason = None if candidate.spec.kind == "ours" else baselines.lacks(candidate.spec.kind)
    if reason:
        raise PipelineError(reason)
    worker = stack.enter_context(Worker(candidate.spec))
    with worker.watched():
        return _Open(worker, worker.ask("open", row))


@dataclasses.dataclass
class _Open:
    worker: Worker
    facts: dict[str, Any]


class _Measured:
    """A pipeline with one setting."""

    def __init__(
        self,
        candidate: Candidate,
        setting: Setting,
        opened: _Open,
        rows: list[Sample],
        seconds: float,
    ) -> None:
        self.candidate = candidate
        self._setting = setting
        self._opened = opened
        self._worker = opened.worker
        self._rows = rows
        self._seconds = seconds
        self.title = f"{candidate.spec.name}, batch {setting.batch}, views {setting.views}"
        self.labels: dict[int, int] = {}
        self._subset = rows
        self._note = ""

    def label_all(self, advance: Callable[[], None]) -> None:
        with self._worker.watched():
            answer = self._worker.ask("label", self._rows, self._setting, on_clip=advance)
        self.labels = {
            number: int(probabilities_C.argmax())
            for number, probabilities_C in answer["probabilities"].items()
        }
        self._note = answer["note"]
        if not self.labels:
            raise PipelineError("it could read none of the clips")
        fitting = len(self._rows) / answer["seconds"] * self._seconds
        whole_batches = -(-fitting // self._setting.batch) * self._setting.batch
        self._subset = self._rows[: max(2 * self._setting.batch, int(whole_batches))]

    def label_subset(self) -> int:
        """Label a subset of the clips; returns 0 if the process has died, which `row` reports."""
        try:
            return len(self._worker.ask("label", self._subset, self._setting)["probabilities"])
        except PipelineError:
            return 0

    def row(self, rates: list[float], sources: dict[int, str]) -> BenchRow:
        spec = self.candidate.spec
        row = summary(spec.name, rates) | self.candidate.facts
        row |= {"kind": spec.kind, "batch": self._setting.batch, "views": self._setting.views}
        row["clips_a_repeat"] = len(self._subset)
        row |= {"note": self._note} if self._note else {}
        row |= self._accuracy(sources)
        with self._worker.watched():
            times = self._worker.ask("latency", self._rows[:LATENCIES], LATENCY_S)["ms"]
        names = ("p50", "p95", "p99")
        row["latency_ms"] = {
            name: round(float(value), 1)
            for name, value in zip(names, np.percentile(times, [50, 95, 99]), strict=True)
        }
        row |= self._opened.facts | self._worker.ask("device")
        row["peak_mib"] = round(self._worker.peak_mib)
        if spec.kind == "ours":
            row |= self._stages(row["clips_per_s"], on_gpu="gpu_mib" in row)
            drop_from_cache(self._subset)
            (cold,) = interleaved({"cold": self.label_subset}, repeats=1)["cold"]
            row["cold_clips_per_s"] = round(cold, 1)
        return cast(BenchRow, row)

    def _accuracy(self, sources: dict[int, str]) -> dict[str, Any]:
        read = [row for row in self._rows if row.id in self.labels]
        right = np.array([self.labels[row.id] == row.label for row in read])
        low, high = bootstrap_interval(right, [sources[row.id] for row in read])
        return {
            "top1": float(right.mean()),
            "top1_interval": [low, high],
            "num_labelled": len(read),
        }

    def _stages(self, whole: float, *, on_gpu: bool) -> dict[str, Any]:
        rates = self._worker.ask("stages", self._subset, self._setting, STAGE_REPEATS, STAGE_S)
        stages = {name: summary(name, each)["clips_per_s"] for name, each in rates.items()}
        slowest = min(stages, key=lambda name: stages[name])
        result: dict[str, Any] = {
            "stages": stages,
            "bottleneck": slowest,
            "efficiency": round(whole / stages[slowest], 3),
        }
        if not on_gpu:
            result["bound"] = round(1 / sum(1 / rate for rate in stages.values()), 1)
            result["share_of_bound"] = round(whole / result["bound"], 3)
        return result


def _add_agreement(rows: list[BenchRow], pipelines: list[_Measured]) -> None:
    """Add the share of labels equal to those of the eager fp32 run with the same weights."""
    references: dict[str, _Measured] = {}
    for pipeline in pipelines:
        if pipeline.candidate.facts["backend"] == "eager":
            references.setdefault(pipeline.candidate.weights, pipeline)
    for row, pipeline in zip(rows, pipelines, strict=True):
        reference = references.get(pipeline.candidate.weights)
        if reference is not None:
            common = pipeline.labels.keys() & reference.labels.keys()
            equal = sum(pipeline.labels[number] == reference.labels[number] for number in common)
            row["agreement"] = equal / len(common)


def drop_from_cache(rows: list[Sample]) -> None:
    """Drop these files from the kernel's file cache."""
    for row in rows:
        for path in row.path.iterdir() if row.path.is_dir() else [row.path]:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def candidates_of(
    paths: list[Path], *, batches: list[int], views: list[tuple[int, int]], against: list[str]
) -> list[Candidate]:
    """Return our pipeline for each path and setting, then each baseline for each run."""
    settings = [
        Setting(batch=batch, num_clips=clips, num_crops=crops)
        for clips, crops in views
        for batch in batches
    ]
    ours = [_ours(name, path, settings) for name, path in short_names(paths).items()]
    runs = [candidate for candidate in ours if candidate.facts["backend"] == "eager"]
    single_view = [setting for setting in settings if setting.views == "1x1"] or [
        Setting(batch=batches[0])
    ]
    return ours + [
        Candidate(
            spec=PipelineSpec(
                name=kind if len(runs) == 1 else f"{kind}, {run.spec.name}",
                kind=kind,
                path=run.spec.path,
            ),
            weights=run.weights,
            facts=run.facts | {"backend": kind, "precision": "fp32"},
            settings=[Setting(batch=1)] if kind == "hf" else single_view,
        )
        for run in runs
        for kind in against
    ]


def _ours(name: str, path: Path, settings: list[Setting]) -> Candidate:
    from engine.predictor import find_checkpoint, is_artifact
    from engine.training import checkpoint
    from trt import artifact

    spec = PipelineSpec(name=name, kind="ours", path=path)
    if is_artifact(path):
        config = artifact.check(path)
        facts = {
            "model": config.model["family"],
            "frames": config.clip["num_frames"],
            "backend": config.backend,
            "precision": config.target.precision,
            "build_s": config.build.get("seconds"),
        }
        return Candidate(spec=spec, weights=config.source, facts=facts, settings=settings)
    checkpoint_path, _ = find_checkpoint(path)
    trained = checkpoint.load_config(checkpoint_path)
    facts = {
        "model": trained.model.family,
        "frames": trained.clip.num_frames,
        "backend": "eager",
        "precision": "fp32",
    }
    digest = artifact.digest(checkpoint_path / "model.safetensors")
    return Candidate(spec=spec, weights=digest, facts=facts, settings=settings)
