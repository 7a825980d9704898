"""Writes the tables of README.md and docs/ from the result files: `python -m benchmarks.readme`.

Sections between `<!-- figures: NAME -->` and `<!-- end of figures -->` are generated from the
newest `results/NAME_*.json`. Don't edit them by hand.
"""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.baselines import BASELINES
from benchmarks.frame_figures import decoding_table, frames_table

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
RESULTS = ROOT / "benchmarks" / "results"
OLD_WORDS = {
    "benchmarks.suites": "benchmarks.scripts",
    "colours": "colors",
    "optimiser": "optimizer",
}
"""Old names in result files, and their replacements."""
SECTION = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)

LOADERS = {
    "torch": "plain PyTorch: a Dataset that decodes every frame, torchvision, DataLoader",
    "bound": "PyAV in threads, decoding alone",
    "dali": "`DaliLoader`",
    "dali, colors shaken": "`DaliLoader`, with color jitter",
    "first epoch": "`DaliLoader`, writing its cache",
    "cached epoch": "`DaliLoader`, from its cache",
}


def main() -> None:
    for page in PAGES:
        page.write_text(render(page.read_text()))


def render(text: str) -> str:
    return SECTION.sub(lambda match: match[1] + SECTIONS[match[2]]() + match[4], text)


def _newest(theme: str) -> tuple[Path, dict[str, Any]]:
    path = max(RESULTS.glob(f"{theme}_*.json"), key=lambda file: file.stem.rsplit("_", 1)[-1])
    text = path.read_text()
    for old, new in OLD_WORDS.items():
        text = text.replace(old, new)
    return path, json.loads(text)


def _loader() -> str:
    path, result = _newest("loader")
    machine, spec = result["machine"], result["spec"]
    rows = {row["name"]: row for row in result["rows"]}
    lines = ["| | clips/s | × plain PyTorch |", "|---|--:|--:|"]
    for name, words in LOADERS.items():
        row = rows[name]
        lines.append(f"| {words} | {row['clips_per_s']:.0f} | {row['times_plain_torch']:.1f} |")
    lines += [
        "",
        f"{result['data']}, {spec['num_frames']} frames of {spec['crop']}², "
        f"{machine['num_cores']} cores of {machine['cpu']}, "
        f"{'no GPU' if machine['gpu'] is None else machine['gpu']['name']}; medians of "
        f"{len(result['rows'][0]['repeats'])} interleaved repeats in one run of "
        f"`{result['command']}`, kept in `{path.relative_to(ROOT)}`.",
        "",
    ]
    return "\n".join(lines)


def _training() -> str:
    path, result = _newest("training")
    machine = result["machine"]
    lines = [
        "| small preset | trained in | test top-1 | frames shuffled |",
        "|---|--:|--:|--:|",
    ]
    for row in result["families"]:
        minutes, seconds = divmod(round(row["train_seconds"]), 60)
        lines.append(
            f"| `{row['model']}` | {minutes} min {seconds:02} s | {row['test_top1']:.1%} "
            f"| {row['test_top1_shuffled']:.1%} |"
        )
    waits = ", ".join(
        f"{row['loader']} {row['waiting_share'][0]:.0%} and {row['waiting_share'][1]:.0%}"
        for row in result["waiting"]
    )
    ratios = " and ".join(
        f"{row['times_transformers']:.2f}× ({row['model']})" for row in result["step"]
    )
    lines += [
        "",
        f"{result['num_clips']:,} synthetic clips of 8 motions (a dataset that nothing was tuned "
        "on) with the grouped split, trained from scratch on "
        f"{machine['num_cores']} cores of {machine['cpu']}; tested with the best checkpoint on the "
        "validation split. The drop with shuffled frames shows that "
        f"motion was learned. Share of training `cnn-lstm` spent waiting for data, first and "
        f"second epoch: {waits}. A training step of `timesformer` against `transformers`' own: "
        f"{ratios} as fast. From `{result['command']}`, kept in `{path.relative_to(ROOT)}`.",
        "",
    ]
    return "\n".join(lines)


def _studies() -> str:
    path, result = _newest("studies")
    lines = ["| | varied | test top-1 | 95% | published, HMDB51 |", "|---|---|--:|--:|--:|"]
    for part, words in (
        ("sampling", "frames"),
        ("lengthening", "short clips"),
        ("optimizer", "optimizer, one rate"),
    ):
        for row in result[part]:
            lines.append(
                f"| {words} | {row['varied'].split(' ', 1)[1]} | {float(row['top1']):.1f} "
                f"| {float(row['low']):.0f}–{float(row['high']):.0f} "
                f"| {row['published'].removeprefix('top1 ')} |"
            )
    for row in result["leak"]:
        low, high = row["top1_interval"]
        lines.append(
            f"| one still frame, split | {row['scheme'].split()[0]} | {100 * row['top1']:.1f} "
            f"| {100 * low:.0f}–{100 * high:.0f} | |"
        )
    rare = {row["way"]: f"{row['recall_of_rare']:.0%}" for row in result["balance"]}
    alone = [row["top1"] for row in result["teacher"] if row["way"] == "student alone"]
    taught = [row["top1"] for row in result["teacher"] if row["way"] == "student, taught"]
    lines += [
        "",
        "If three of eight classes keep a tenth of their clips, their recall is "
        + ", ".join(f"{share} ({way})" for way, share in rare.items())
        + ". If two in five training labels are wrong, a student's top-1 is "
        f"{_spread(alone)} without and {_spread(taught)} with distillation from a teacher that was "
        f"trained on correct labels ({len(alone)} seeds).",
        "",
        f"{result['num_clips']:,} synthetic clips of 8 motions, small presets, grouped split "
        "except for the still frames. Intervals are wide, because they are bootstrapped over few "
        "sources. "
        "Published results are TimeSformer's on HMDB_simp, a different task; only their order is "
        f"comparable. From `{result['command']}`, kept in `{path.relative_to(ROOT)}`.",
        "",
    ]
    return "\n".join(lines)


def _spread(shares: list[float]) -> str:
    return f"{statistics.mean(shares):.1%} ± {100 * statistics.stdev(shares):.1f}"


def _compiled() -> str:
    path, result = _newest("compiled")
    machine = result["machine"]
    lines = [
        "| published size | GFLOP a clip | precision | × eager, 1 clip | × eager, 8 clips "
        "| share of peak |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for model, measured in result["speed"].items():
        for name in measured["build"]:
            one, eight = (row for row in measured["rows"] if row["name"] == name)
            lines.append(
                f"| `{model}` | {measured['gflop_per_clip']:.1f} | {one['precision']} "
                f"| {one['times_yardstick']:.1f} | {eight['times_yardstick']:.1f} "
                f"| {eight['share_of_peak']:.0%} |"
            )
    lines += [
        "",
        "MobileNetV2 and MNASNet 0.5 with 16 frames, ViT-S and TimeSformer-B with 8, of 224², "
        f"compiled by OpenVINO on {machine['num_cores']} cores of {machine['cpu']}; eager PyTorch "
        "in fp32, channels-first, got the same clips in the same run. Share of peak: FLOP/s "
        "relative to PyTorch's largest matrix product in that precision.",
        "",
        "| trained small preset | precision | same label | top-1, fp32 | top-1 | in fp32 |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for model, precisions in result["agreement"].items():
        for precision, row in precisions.items():
            cells = (
                "failed the parity check | | |"
                if "refused" in row
                else f"{row['agreement']:.2%} of {row['num_clips']} "
                f"| {row['reference_accuracy']:.1%} | {row['accuracy']:.1%} "
                f"| {len(row['kept'])} layers"
            )
            lines.append(f"| `{model}` | {precision} | {cells} |")
    lines += [
        "",
        f"Trained on synthetic clips with the grouped split. From `{result['command']}`, kept in "
        f"`{path.relative_to(ROOT)}`.",
        "",
    ]
    return "\n".join(lines)


def _deployed() -> str:
    path, result = _newest("deployed")
    machine = result["machine"]
    lines = [
        "| from files to labels | clips/s | × | top-1 | same label | p50 | slowest | efficiency |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    for model, measured in result["table"].items():
        rows = [row for row in measured["rows"] if "error" not in row]
        reference = "hf" if any(row["kind"] == "hf" for row in rows) else "torch"
        base = next(row["clips_per_s"] for row in rows if row["kind"] == reference)
        for row in rows:
            words = (
                BASELINES[row["kind"]].words
                if row["kind"] in BASELINES
                else f"**{row['precision']}**"
            )
            if row["kind"] == "ours" and row["backend"] == "eager":
                words = "our loader, eager PyTorch"
            cells = [
                f"`{model}`, {words}",
                f"{row['clips_per_s']:.1f}",
                f"{row['clips_per_s'] / base:.1f}",
                f"{row['top1']:.1%}",
                f"{row['agreement']:.1%}",
                f"{row['latency_ms']['p50']:,.0f} ms",
                row.get("bottleneck", ""),
                f"{row['efficiency']:.2f}" if "efficiency" in row else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        ", ".join(f"`{model}` on {rows['num_clips']}" for model, rows in result["table"].items())
        + f" clips of {measured['data']} ({measured['split']}), "
        f"{machine['num_cores']} cores of {machine['cpu']}, warm file cache, batches of 8 (the "
        "Hugging Face pipeline takes one). × is relative to that pipeline if it has the model, and "
        "to plain PyTorch otherwise. No published weights were available, so all layers except the "
        "last one are random. That explains the accuracy, and labels that change with the smallest "
        "difference; artifacts of trained models keep every label (docs/compiling.md, and the "
        "chart above). "
        f"From `{result['command']}`, kept in "
        f"`{path.relative_to(ROOT)}`.",
        "",
        "| `cnn-lstm`, int8 | clips/s | MiB |",
        "|---|--:|--:|",
    ]
    for row in result["scaling"]:
        lines.append(
            f"| {row['value']:,} {row['varied']} | {row['clips_per_s']:.1f} | {row['peak_mib']:,} |"
        )
    return "\n".join([*lines, ""])


def _chart() -> str:
    path, result = _newest("end_to_end")
    machine = result["machine"]
    return (
        f"Trained small presets, {result['num_clips']} held-out synthetic clips, "
        f"{machine['num_cores']} cores of {machine['cpu']}, "
        f"{'no GPU' if machine['gpu'] is None else machine['gpu']['name']}; all with the same "
        f"weights and clips, in one run of `{result['command']}`, kept in "
        f"`{path.relative_to(ROOT)}`.\n"
    )


def _demo() -> str:
    path, result = _newest("demo")
    machine = result["machine"]
    rows = {row["name"]: row for row in result["rows"]}
    fastest = max(rows.values(), key=lambda row: row["clips_per_s"])
    minutes, seconds = divmod(round(result["seconds"]), 60)
    low, high = result["top1_interval"]
    lines = ["| step | took |", "|---|--:|"]
    lines += [f"| {step['title']} | {step['seconds']:.0f} s |" for step in result["steps"]]
    lines += [
        "",
        f"{minutes} min {seconds:02} s in all on {machine['num_cores']} cores of {machine['cpu']}. "
        f"Top-1 {result['top1']:.1%} ({low:.0%}–{high:.0%}) on {result['num_tested']} clips of "
        f"unseen sources; the artifact gives {fastest['agreement']:.1%} of them the same label "
        f"and goes from files to labels at {fastest['clips_per_s']:.0f} clips/s, "
        f"{fastest['clips_per_s'] / rows['torch']['clips_per_s']:.1f}× plain PyTorch and "
        f"{fastest['clips_per_s'] / rows['hf']['clips_per_s']:.1f}× Hugging Face's pipeline. From "
        f"`{result['command']}`, kept in `{path.relative_to(ROOT)}`.",
        "",
    ]
    return "\n".join(lines)


def _labelling() -> str:
    path, result = _newest("labelling")
    rate, many, film = result["rate"], result["files"], result["film"]
    by_name: dict[str, list[float]] = {}
    for row in result["cluster"]:
        by_name.setdefault(row["name"], []).append(row["num_files"] / row["whole_s"])
    lines = ["| `engine label`, whole command | files/s |", "|---|--:|"]
    lines += [f"| {name} | {statistics.median(rates):.0f} |" for name, rates in by_name.items()]
    ours = statistics.median(run["files_per_s"] for run in rate["ours"])
    theirs = statistics.median(rate["hf_clips_per_s"])
    lines += [
        "",
        f"{result['cluster'][0]['num_files']:,} clips, a small TimeSformer in int8, including "
        f"start-up. Without start-up, {rate['num_files']} clips are labelled at {ours:.0f} "
        f"clips/s, and at {theirs:.0f} by Hugging Face's pipeline with the same weights in the "
        "same run: "
        f"{ours / theirs:.1f}×. Peak memory over 10,000 files: {many['peak_of_first_half_mib']:,} "
        f"MiB in the first half, {many['peak_of_second_half_mib']:,} in the second; over a "
        f"film of two hours in windows of 10 s: {film['peak_of_first_half_mib']:,} and "
        f"{film['peak_of_second_half_mib']:,}. From `{result['command']}`, kept in "
        f"`{path.relative_to(ROOT)}`.",
        "",
    ]
    return "\n".join(lines)


def _frames() -> str:
    path, result = _newest("frames")
    return frames_table(result, path.relative_to(ROOT).as_posix())


def _decoding() -> str:
    path, result = _newest("decoding")
    return decoding_table(result, path.relative_to(ROOT).as_posix())


SECTIONS: dict[str, Callable[[], str]] = {
    "chart": _chart,
    "demo": _demo,
    "labelling": _labelling,
    "loader": _loader,
    "frames": _frames,
    "decoding": _decoding,
    "training": _training,
    "studies": _studies,
    "compiled": _compiled,
    "deployed": _deployed,
}


if __name__ == "__main__":
    main()
