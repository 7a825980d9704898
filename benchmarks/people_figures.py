"""The chart of README.md and the tables of docs/results.md: accuracy on real people."""

from statistics import fmean
from typing import Any

from benchmarks.scripts.people import PAIRS, SCHEMES

PUBLISHED = (
    "Published on this set: 98.3% (set 1) and 96.7% (set 2) by networks on the people's skeletons, "
    "which OpenPose found ([inter-rel-net](https://github.com/mauriciolp/inter-rel-net))."
)


def people_chart(result: dict[str, Any], path: str) -> str:
    """What the picture shows, in numbers."""
    rows = result["chart"][PAIRS]
    plain = {row["name"].rpartition(", ")[0]: row for row in rows if row["kind"] != "ours"}
    lines = [
        "| model | views | top-1 | clips/s, from files to labels | × plain PyTorch |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        if row["kind"] != "ours":
            continue
        base = plain[row["name"].rpartition(", ")[0]]["clips_per_s"]
        name = f"**{row['name']}**" if row["on_front"] else row["name"]
        lines.append(
            f"| {name} | {row['views']} | {row['top1']:.1%} | {row['clips_per_s']:.1f} "
            f"| {row['clips_per_s'] / base:.1f} |"
        )
    (of_set,) = (row["num_clips"] for row in result["models"][PAIRS][:1])
    lines += [
        "",
        f"UT-Interaction: {of_set} clips of two people and six actions, 10-fold cross-validation "
        "by recording, so every clip is tested by a model that saw no clip of its recording. Bold: "
        "no other is faster and more accurate. The 95% intervals are about ± 6 points with 16 "
        "frames, so 81% and 85% don't differ reliably. "
        "int8 was compiled with `--accept-drift 100`: by default, `engine compile` keeps layers in "
        "fp32, or writes nothing, if fewer than 99% of the labels stay. "
        f"2 cores of {rows[0]['machine']}, no GPU. {_source(result, path)}",
        "",
    ]
    return "\n".join(lines)


def people_table(result: dict[str, Any], path: str) -> str:
    lines = []
    for name, rows in result["models"].items():
        lines += [
            f"| {name}, {rows[0]['num_clips']} clips | top-1, pooled | 95% | over folds |",
            "|---|--:|--:|--:|",
        ]
        for row in rows:
            low, high = row["interval"]
            over = row["over_folds"]
            lines.append(
                f"| {row['name']} | {row['top1']:.1%} | {low:.0%} – {high:.0%} "
                f"| {over['mean']:.1%} ± {100 * over['std']:.1f} |"
            )
        lines += ["", *([PUBLISHED, ""] if name == PAIRS else [])]
    for name, rows in result.get("tune", {}).items():
        lines += [
            f"| {name}, small models from random weights | top-1 of validation | of training |",
            "|---|--:|--:|",
            *(f"| {row['name']} | {row['val_top1']:.1%} | {row['train_top1']:.1%} |"
              for row in sorted(rows, key=lambda row: -row["val_top1"])),
            "",
        ]  # fmt: skip
    for name, rows in result.get("leak", {}).items():
        lines += [
            f"| {name}, `{rows[0]['flags']}` | seed | test clips | top-1 | 95% |",
            "|---|--:|--:|--:|--:|",
        ]
        for row in sorted(rows, key=lambda row: (row["scheme"], row["seed"])):
            low, high = row["interval"]
            lines.append(
                f"| {row['scheme']} | {row['seed']} | {row['num_clips']} | {row['top1']:.1%} "
                f"| {low:.0%} – {high:.0%} |"
            )
        lines += [f"| {scheme} | mean | | {_mean(rows, scheme):.1%} | |" for scheme in SCHEMES]
        lines.append("")
    return "\n".join([*lines, f"Trained on {_machines(result)}. {_source(result, path)}", ""])


def _mean(rows: list[dict[str, Any]], scheme: str) -> float:
    return fmean(row["top1"] for row in rows if row["scheme"] == scheme)


def _machines(result: dict[str, Any]) -> str:
    """The processors and GPUs of the rows, with what was measured on each."""
    found: dict[str, set[str]] = {}
    for part in ("models", "tune", "leak"):
        for name, rows in result.get(part, {}).items():
            for row in rows:
                found.setdefault(row["machine"], set()).add(f"{name}: {part}")
    return "; ".join(f"{name} ({', '.join(sorted(what))})" for name, what in found.items())


def _source(result: dict[str, Any], path: str) -> str:
    return f"Source: `{result['command']}`, in `{path}`."
