"""The chart of README.md and the tables of docs/people.md: accuracy on real people."""

from typing import Any

from benchmarks.scripts.people import PAIRS

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
        f"{_where(result)} {_source(result, path)}",
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
    for name, rows in result.get("leak", {}).items():
        lines += [
            f"| {name}, {rows[0]['num_clips']} test clips | seed | top-1 | 95% |",
            "|---|--:|--:|--:|",
        ]
        for row in sorted(rows, key=lambda row: (row["scheme"], row["seed"])):
            low, high = row["interval"]
            lines.append(
                f"| {row['scheme']} | {row['seed']} | {row['top1']:.1%} | {low:.0%} – {high:.0%} |"
            )
        lines.append("")
    return "\n".join([*lines, f"{_where(result)} {_source(result, path)}", ""])


def _where(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['num_cores']} cores of {machine['cpu']}, no GPU."


def _source(result: dict[str, Any], path: str) -> str:
    return f"Source: `{result['command']}`, in `{path}`."
