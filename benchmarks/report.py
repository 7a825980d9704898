"""Reports of `engine bench`: a chart of clips/s against accuracy, CSV, and an HTML page."""

import csv
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.rows import BenchRow
from engine import atomic
from engine.html import document, embed_png

COLUMNS = (
    "name", "kind", "model", "frames", "backend", "precision", "batch", "views", "clips_per_s",
    "spread", "wide", "repeats", "clips_a_repeat", "cold_clips_per_s", "top1", "top1_interval",
    "agreement", "num_labelled", "latency_ms", "open_s", "first_label_s", "build_s", "peak_mib",
    "gpu_mib", "threads", "stages", "bottleneck", "efficiency", "bound", "share_of_bound",
    "on_front", "error",
)  # fmt: skip
STACKED = 10
"""Maximum number of stacked labels at points of similar accuracy."""
STAGE_COLORS = {
    "read": "#bbbbbb", "decode": "#4477aa", "preprocess": "#66ccee", "copy": "#ccbb44",
    "model": "#ee6677", "post": "#aa3377",
}  # fmt: skip


def write(result: dict[str, Any], path: Path) -> list[Path]:
    """Write charts, CSV and page beside the JSON file `path`; returns the written files."""
    rows = [row for row in result["rows"] if "error" not in row]
    written = [_write_csv(path.with_suffix(".csv"), result["rows"])]
    pictures = []
    if rows:
        pictures = [
            draw_front(path.with_suffix(".png"), rows),
            *draw_stages(path.with_name(f"{path.stem}_stages.png"), rows),
        ]
    page = path.with_suffix(".html")
    with atomic.new_text(page) as file:
        file.write(_page(result, pictures))
    return [*written, *pictures, page]


def title_of(row: BenchRow) -> str:
    setting = f"batch {row['batch']}" if row["views"] == "1x1" else f"{row['views']} views"
    return f"{row['name']} · {setting}"


def draw_front(
    path: Path,
    rows: list[BenchRow],
    *,
    label: Callable[[BenchRow], str] = title_of,
    title: str = "",
) -> Path:
    """Draw speed against accuracy, with the Pareto front.

    Rows off the front are faded, baselines are hollow. Error bars show the 95% interval of the
    accuracy, and the slowest and fastest repeat.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    front = sorted((row for row in rows if row["on_front"]), key=lambda row: row["clips_per_s"])
    axes.step(
        [row["clips_per_s"] for row in front], [100 * row["top1"] for row in front],
        where="pre", color="#888888", linewidth=1, linestyle="--", zorder=1,
    )  # fmt: skip
    for row in rows:
        ours, x, y = row["kind"] == "ours", row["clips_per_s"], 100 * row["top1"]
        color = "#0b6e4f" if ours else "#b5482a"
        faded = 1.0 if row["on_front"] else 0.4
        low, high = (100 * each for each in row["top1_interval"])
        axes.errorbar(
            x, y, yerr=[[max(0, y - low)], [max(0, high - y)]],
            xerr=[[max(0, x - min(row["repeats"]))], [max(0, max(row["repeats"]) - x)]],
            fmt="o", color=color, alpha=faded, capsize=2, linewidth=0.8,
            markerfacecolor=color if ours else "white", zorder=2,
        )  # fmt: skip
    _write_names(axes, rows, label)
    axes.set_xscale("log")
    rates = [row["clips_per_s"] for row in rows]
    lowest = min(100 * row["top1_interval"][0] for row in rows)
    highest = max(100 * row["top1_interval"][1] for row in rows)
    axes.set(
        xlabel="clips per second, from files to labels", ylabel="top-1, %", title=title,
        xlim=(min(rates) / 1.6, max(rates) * 4), ylim=(max(0, lowest - 6), highest + 6),
    )  # fmt: skip
    for kind, face in (("ours", "#0b6e4f"), ("baselines", "white")):
        edge = "#0b6e4f" if kind == "ours" else "#b5482a"
        axes.plot([], [], "o", color=edge, markerfacecolor=face, label=kind)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_formatter("{x:g}")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _write_names(axes: Any, rows: list[BenchRow], label: Callable[[BenchRow], str]) -> None:
    """Write labels beside the points; labels of close points are stacked to avoid overlaps."""
    num_labels: dict[float, int] = {}
    for row in sorted(rows, key=lambda each: (round(each["top1"], 2), each["clips_per_s"])):
        level = round(row["top1"], 2)
        num_labels[level] = num_labels.get(level, 0) + 1
        height = 8 + 11 * ((num_labels[level] - 1) % STACKED)
        axes.annotate(
            label(row), (row["clips_per_s"], 100 * row["top1"]), xytext=(4, height),
            textcoords="offset points", fontsize=7, alpha=1 if row["on_front"] else 0.6,
        )  # fmt: skip


def draw_stages(path: Path, rows: list[BenchRow]) -> list[Path]:
    """Draw milliseconds per clip of each stage, and of the whole pipeline."""
    rows = [row for row in rows if "stages" in row]
    if not rows:
        return []
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.45 * len(rows)), layout="constrained")
    for position, row in enumerate(reversed(rows)):
        start = 0.0
        for stage, rate in row["stages"].items():
            axes.barh(position, 1e3 / rate, left=start, color=STAGE_COLORS[stage], height=0.6)
            start += 1e3 / rate
        axes.plot([1e3 / row["clips_per_s"]] * 2, [position - 0.4, position + 0.4], color="black")
    handles = [plt.Rectangle((0, 0), 1, 1, color=each) for each in STAGE_COLORS.values()]
    handles.append(plt.Line2D([], [], color="black"))
    axes.legend(handles, [*STAGE_COLORS, "whole pipeline"], fontsize=7, ncols=7, loc="lower center",
                bbox_to_anchor=(0.5, 1.0), frameon=False)  # fmt: skip
    axes.set_yticks(range(len(rows)), [title_of(row) for row in reversed(rows)], fontsize=8)
    axes.set_xlabel(
        "milliseconds per clip on all cores; the line is the whole pipeline, stages overlapped"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return [path]


def pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["text.parse_math"] = False  # names of runs may contain $
    from matplotlib import pyplot as plt

    return plt


def _write_csv(path: Path, rows: list[BenchRow]) -> Path:
    with atomic.new_text(path) as file:
        table = csv.DictWriter(file, COLUMNS, restval="", extrasaction="raise")
        table.writeheader()
        table.writerows(rows)
    return path


def _page(result: dict[str, Any], pictures: list[Path]) -> str:
    machine = result["machine"]
    gpu = machine["gpu"]["name"] if machine["gpu"] else "no GPU"
    where = f"{result['cores']} cores of {machine['cpu']}, {gpu}"
    body = [
        "<h1>From video files to labels</h1>",
        f"<p>{result['num_clips']:,} clips of {escape(result['data'])} "
        f"({escape(result['split'])}), on {escape(where)}.</p>",
        *(f'<img src="{embed_png(each)}" alt="{escape(each.stem)}">' for each in pictures),
        f"<h2>Results</h2><div class=wide>{_table(result['rows'])}</div>",
        f"<h2>Protocol</h2><p>{escape(result['protocol'])}</p>",
        f"<p class=note>{escape(result['command'])}<br>commit {escape(result['commit'])}, "
        f"{escape(result['date'])}; "
        + escape(", ".join(f"{name} {each}" for name, each in machine["libraries"].items()))
        + "; largest product, GFLOP/s: "
        + escape(", ".join(f"{k} {each:,}" for k, each in result["matrix_peak_gflops"].items()))
        + "; copying memory, GB/s: "
        + escape(", ".join(f"{k} {each:,}" for k, each in result["copy_peak_gb_s"].items()))
        + "</p>",
    ]
    return document("Bench", body)


HEADS = (
    "pipeline", "model", "backend", "precision", "batch", "views", "clips/s", "spread", "top-1",
    "95%", "agreement", "p50 ms", "p95", "p99", "first label s", "MiB", "bottleneck", "efficiency",
)  # fmt: skip


def cells_of(row: BenchRow) -> list[str]:
    """Return the cells of a row of the page's table."""
    if "error" in row:
        return [row["name"], row["model"], row["backend"], row["error"]]
    latency = row["latency_ms"]
    low, high = row["top1_interval"]
    return [
        row["name"],
        row["model"],
        row["backend"],
        row["precision"],
        str(row["batch"]),
        row["views"],
        f"{row['clips_per_s']:,.1f}",
        f"{row['spread']:.0%}{' wide' if row['wide'] else ''}",
        f"{row['top1']:.1%}",
        f"{low:.0%}–{high:.0%}",
        f"{row['agreement']:.1%}" if "agreement" in row else "",
        *(f"{latency[each]:,.0f}" for each in ("p50", "p95", "p99")),
        f"{row['first_label_s']:.1f}",
        f"{row['peak_mib']:,}",
        row.get("bottleneck", ""),
        f"{row['efficiency']:.2f}" if "efficiency" in row else "",
    ]


def _table(rows: list[BenchRow]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADS)
    lines = []
    for row in rows:
        cells = cells_of(row)
        wide = f' colspan="{len(HEADS) - len(cells) + 1}"' if "error" in row else ""
        last = f"<td{wide}>{escape(cells[-1])}</td>"
        lines.append(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells[:-1]) + last + "</tr>"
        )
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"
