"""From video files on disk to labels: clips per second and accuracy of each way, side by side.

Every way runs in a process of its own, one at a time. It first labels all clips of the held-out
part: that warms it up, measures its accuracy, and meanwhile its memory is looked at. Then all ways
label clips in turn (A B A B), each as many as take it about as long as the others; the figure is
the median of the repeats, with warm file cache. A way that is many times slower therefore handles
fewer clips a repeat. `cold` is our way once more with the videos dropped from the file cache.
Latency is that of one file by itself, nothing running ahead. The stages of our way are timed by
themselves, each with all cores; efficiency is the whole's rate over that of its slowest stage, and
`bound` is what all stages together allow where they share the same cores: on a CPU.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import baselines
from benchmarks.budget import on_front
from benchmarks.harness import interleaved, summary
from benchmarks.pipeline import PipelineSpec, Setting
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
    """A way, and what is known of it before it runs."""

    spec: PipelineSpec
    weights: str
    """The digest of the weights it comes from: what shares it should answer alike."""
    facts: dict[str, Any]
    """For its rows: family, frames, backend, precision."""
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
    """`sources` maps a row's id to its source; `on_work` shows progress of a titled piece."""
    with contextlib.ExitStack() as stack:
        variants: dict[str, _Measured] = {}
        failed: list[dict[str, Any]] = []
        for candidate in candidates:
            name = candidate.spec.name
            try:
                worker = _open(candidate, rows[0], stack)
                for setting in candidate.settings:
                    with on_work(f"{name}: all clips", len(rows)) as advance:
                        measured = _Measured(candidate, setting, worker, rows, seconds)
                        measured.label_all(advance)
                    variants[measured.title] = measured
            except PipelineError as error:
                failed.append({"name": name, **candidate.facts, "error": str(error)})
        with on_work("In turn", repeats * len(variants)) as advance:
            rates = interleaved(
                {title: each.label_some for title, each in variants.items()},
                repeats=repeats,
                on_done=advance,
            )
        with on_work("Latency and stages", len(variants)) as advance:
            found = []
            done = []
            for title, each in variants.items():
                try:
                    found.append(each.row(rates[title], sources))
                    done.append(each)
                except PipelineError as error:
                    failed.append({"name": title, **each.candidate.facts, "error": str(error)})
                advance()
    _add_agreement(found, done)
    for row, front in zip(found, on_front(found), strict=True):
        row["on_front"] = front
    return {"num_clips": len(rows), "cores": num_cores(), "rows": found + failed}


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
    """One way under one setting."""

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
        self._some = rows
        self._note = ""

    def label_all(self, advance: Callable[[], None]) -> None:
        with self._worker.watched():
            answer = self._worker.ask("label", self._rows, self._setting, on_clip=advance)
        self.labels = {
            number: int(found.argmax()) for number, found in answer["probabilities"].items()
        }
        self._note = answer["note"]
        if not self.labels:
            raise PipelineError("it could read none of the clips")
        fitting = len(self._rows) / answer["seconds"] * self._seconds
        whole_batches = -(-fitting // self._setting.batch) * self._setting.batch
        self._some = self._rows[: max(2 * self._setting.batch, int(whole_batches))]

    def label_some(self) -> int:
        """Nothing where its process has died: `row` tells."""
        try:
            return len(self._worker.ask("label", self._some, self._setting)["probabilities"])
        except PipelineError:
            return 0

    def row(self, rates: list[float], sources: dict[int, str]) -> dict[str, Any]:
        spec = self.candidate.spec
        row = summary(spec.name, rates) | self.candidate.facts
        row |= {"kind": spec.kind, "batch": self._setting.batch, "views": self._setting.views}
        row["clips_a_repeat"] = len(self._some)
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
            drop_from_cache(self._some)
            (cold,) = interleaved({"cold": self.label_some}, repeats=1)["cold"]
            row["cold_clips_per_s"] = round(cold, 1)
        return row

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
        rates = self._worker.ask("stages", self._some, self._setting, STAGE_REPEATS, STAGE_S)
        stages = {name: summary(name, each)["clips_per_s"] for name, each in rates.items()}
        slowest = min(stages, key=lambda name: stages[name])
        found: dict[str, Any] = {
            "stages": stages,
            "bottleneck": slowest,
            "efficiency": round(whole / stages[slowest], 3),
        }
        if not on_gpu:
            found["bound"] = round(1 / sum(1 / rate for rate in stages.values()), 1)
            found["share_of_bound"] = round(whole / found["bound"], 3)
        return found


def _add_agreement(found: list[dict[str, Any]], measured: list[_Measured]) -> None:
    """With the run of the same weights, in fp32 and under its first setting, on the same clips."""
    yardsticks: dict[str, _Measured] = {}
    for each in measured:
        if each.candidate.facts["backend"] == "eager":
            yardsticks.setdefault(each.candidate.weights, each)
    for row, each in zip(found, measured, strict=True):
        other = yardsticks.get(each.candidate.weights)
        if other is not None:
            both = each.labels.keys() & other.labels.keys()
            alike = sum(each.labels[number] == other.labels[number] for number in both)
            row["agreement"] = alike / len(both)


def drop_from_cache(rows: list[Sample]) -> None:
    """Have the kernel forget what it holds of these files."""
    for row in rows:
        for path in row.path.iterdir() if row.path.is_dir() else [row.path]:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def candidates_of(
    paths: list[Path], *, batches: list[int], views: list[tuple[int, int]], against: list[str]
) -> list[Candidate]:
    """Ours for each path, in each setting; then each peer with the weights of each run."""
    settings = [
        Setting(batch=batch, num_clips=clips, num_crops=crops)
        for clips, crops in views
        for batch in batches
    ]
    ours = [_ours(name, path, settings) for name, path in short_names(paths).items()]
    runs = [each for each in ours if each.facts["backend"] == "eager"]
    once = [setting for setting in settings if setting.views == "1x1"] or [
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
            settings=[Setting(batch=1)] if kind == "hf" else once,
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
    found, _ = find_checkpoint(path)
    trained = checkpoint.load_config(found)
    facts = {
        "model": trained.model.family,
        "frames": trained.clip.num_frames,
        "backend": "eager",
        "precision": "fp32",
    }
    digest = artifact.digest(found / "model.safetensors")
    return Candidate(spec=spec, weights=digest, facts=facts, settings=settings)
