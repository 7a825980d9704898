"""The result page of `engine demo`, made from the files that its commands wrote."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data.synthetic import Film
from engine.data.synthetic_video import FILM_PART_S
from engine.html import document, embed_png, table

if TYPE_CHECKING:
    from dali_pipelines.spec import ClipSpec

COLORS = (
    "#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#994455",
)  # fmt: skip
SHOWN = 4
Span = tuple[float, float, str, str]
"""Start and end in seconds, class, and tooltip."""


@dataclass(frozen=True, kw_only=True)
class Step:
    title: str
    command: str
    seconds: float
    status: int


def write(out: Path, steps: Sequence[Step], model: Path, film: Film) -> Path:
    from engine import atomic
    from engine.predictor import open_predictor

    report = json.loads((out / "run" / "evaluation" / "report.json").read_text())[0]
    (measured,) = (out / "bench").glob("end_to_end_*.json")
    predictor = open_predictor(model, "cpu")
    body = [
        "<h1>Results of the demo</h1>",
        _steps(steps),
        _accuracy(out, report),
        _speed(measured),
        _labels(out, predictor.clip),
        _film(out, film, predictor.class_names),
    ]
    with atomic.new_text(out / "steps.json") as file:
        json.dump([dataclasses.asdict(step) for step in steps], file, indent=2)
    page = out / "index.html"
    with atomic.new_text(page) as file:
        file.write(document("engine demo", body))
    return page


def _steps(steps: Sequence[Step]) -> str:

    rows = [(step.title, step.command, f"{step.seconds:,.0f} s") for step in steps]
    rows.append(("total", "engine demo", f"{sum(step.seconds for step in steps):,.0f} s"))
    return "<p>Each of these commands works the same on your own videos.</p>" + table(
        ("step", "command", "time"), rows
    )


def _accuracy(out: Path, report: dict[str, Any]) -> str:

    video, protocol = report["video"], report["protocol"]
    low, high = video["top1_interval"]
    matrix = embed_png(out / "run" / "evaluation" / report["name"] / "confusion.png")
    return (
        f"<h2>Accuracy: {video['top1']:.1%}</h2><p>Top-1 on {protocol['num_clips']:,} clips of the "
        f"{escape(protocol['split'])} split ({escape(protocol['scheme'])}); no source of these "
        f"clips was trained on. 95% interval over sources: {low:.1%} – {high:.1%}. The full "
        'report, with the misclassified clips: <a href="run/evaluation/report.html">'
        f'report.html</a>.</p><img alt="confusion matrix" src="{matrix}">'
    )


def _speed(measured: Path) -> str:

    rows = [row for row in json.loads(measured.read_text())["rows"] if "error" not in row]
    rows.sort(key=lambda row: row["clips_per_s"])
    cells = [
        (
            row["name"],
            f"{row['backend']}, {row['precision']}",
            f"{row['clips_per_s']:,.0f}",
            f"{row['clips_per_s'] / rows[0]['clips_per_s']:,.1f}",
            f"{row['top1']:.1%}",
        )
        for row in rows
    ]
    page = f"bench/{measured.with_suffix('.html').name}"
    return (
        "<h2>Speed: from files to labels</h2>"
        + table(("pipeline", "backend, precision", "clips/s", "× the slowest", "top-1"), cells)
        + f'<img alt="clips/s against accuracy" src="{embed_png(measured.with_suffix(".png"))}">'
        "<p>hf is Hugging Face's video pipeline, torch is plain PyTorch with PyAV and a "
        "DataLoader; all use the same weights and the same clips. Latency, stages and method: "
        f'<a href="{escape(page)}">{escape(page)}</a>.</p>'
    )


def _labels(out: Path, spec: "ClipSpec") -> str:
    """The first files with the frames that the model saw, all labels, and the failed files."""
    from dali_pipelines.decode import clip_file
    from dali_pipelines.loaders.loader_config import Sample
    from engine.evaluation import filmstrips
    from engine.labelling import writers

    labels = [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]
    with writers.failures_of(out / "labels.jsonl").open(newline="") as file:
        failures = list(csv.DictReader(file))
    strips = []
    for label in [label for label in labels if label["windows"] < 10][:SHOWN]:
        path = out / "videos" / label["path"]
        facts = clip_file.probe(path)
        row = Sample(id=0, path=path, label=0, frames=facts.frames, fps=facts.fps)
        strip = filmstrips.strip_as_jpeg(filmstrips.frames_of(row, spec))
        strips.append(
            f'<figure><img alt="frames" src="{strip}"><figcaption>{escape(label["path"])}: '
            f"{escape(label['label'])}, {label['confidence']:.0%} sure</figcaption></figure>"
        )
    rows = [
        (
            label["path"], label["label"], f"{label['confidence']:.0%}",
            f"{label['duration_s']:.1f} s",
        )
        for label in labels
    ]  # fmt: skip
    failed = [(failure["path"], failure["reason"]) for failure in failures]
    return (
        f"<h2>A labelled folder</h2>{''.join(strips)}"
        + table(("file", "label", "confidence", "length"), rows)
        + "<p>Files that can't be read don't stop a run; they are listed with the reason:</p>"
        + table(("file", "why it can't be read"), failed)
    )


def _film(out: Path, film: Film, class_names: list[str]) -> str:
    color_of = {name: COLORS[number % len(COLORS)] for number, name in enumerate(class_names)}
    true = [
        (number * FILM_PART_S, (number + 1) * FILM_PART_S, name, name)
        for number, name in enumerate(film.motions)
    ]
    with (out / "segments.csv").open(newline="") as file:
        segments: list[Span] = [
            (float(row["start_s"]), float(row["end_s"]), row["label"],
             f"{row['label']}, {float(row['confidence']):.0%} sure")
            for row in csv.DictReader(file)
            if row["path"] == film.name
        ]  # fmt: skip
    share = _overlap(true, segments) / true[-1][1]
    legend = " ".join(
        f'<span style="border-left: 1em solid {color}; padding: 0 1em 0 .4em">{escape(name)}</span>'
        for name, color in color_of.items()
    )
    return (
        f"<h2>Segments of a long film</h2><p>{escape(film.name)} shows one motion after the "
        f"other, {FILM_PART_S:g} s each, and is labelled in sliding windows of 3 s. The segments "
        f"are right for {share:.0%} of the time.</p>{_bar('ground truth', true, color_of)}"
        f"{_bar('prediction', segments, color_of)}<p class=note>{legend}</p>"
    )


def _bar(title: str, spans: Sequence[Span], color_of: dict[str, str]) -> str:
    end = max(span[1] for span in spans)
    parts = "".join(
        f'<span title="{escape(f"{start:.1f}–{stop:.1f} s: {text}")}" style="position: absolute; '
        f"left: {100 * start / end:.2f}%; width: {100 * (stop - start) / end:.2f}%; height: 100%; "
        f'background: {color_of[name]}"></span>'
        for start, stop, name, text in spans
    )
    return f'<p>{title}</p><div style="position: relative; height: 2em">{parts}</div>'


def _overlap(true: Sequence[Span], predicted: Sequence[Span]) -> float:
    """Seconds in which both have the same class."""
    return sum(
        max(0.0, min(stop, predicted_stop) - max(start, predicted_start))
        for start, stop, name, _ in true
        for predicted_start, predicted_stop, predicted_name, _ in predicted
        if name == predicted_name
    )
