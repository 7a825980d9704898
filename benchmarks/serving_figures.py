"""The figures of docs/serving.md and docs/watching.md."""

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import pyplot

PERCENTILES = {"p50_ms": "half", "p95_ms": "95%", "p99_ms": "99%"}


def serving_table(result: dict[str, Any], path: str) -> str:
    machine, mixed = result["machine"], result["mixed"]
    lines = [
        "| clients | answers/s | half within | 95% within | 99% within |",
        "|--:|--:|--:|--:|--:|",
    ]
    for row in result["load"]:
        cells = " | ".join(f"{row[name]:.0f} ms" for name in PERCENTILES)
        lines.append(f"| {row['clients']} | {row['answers_per_s']:.0f} | {cells} |")
    shares = sorted(row["share"] for row in result["rate"])
    sound = mixed["right"] + mixed["wrong"] + mixed["other"]
    chart = Path(path).with_suffix(".png").as_posix()
    lines += [
        "",
        f"![latency by the number of clients](../{chart})",
        "",
        f"A small cnn-lstm in int8, synthetic clips, on {machine['num_cores']} cores of "
        f"{machine['cpu']}; the clients run on the same cores. With {result['rate'][0]['clients']} "
        f"clients, the server reaches {median(shares):.0%} of the rate of `engine label` on the "
        f"same clips (repeats: {', '.join(f'{share:.0%}' for share in shares)}).",
        "",
        f"Of {sound + mixed['broken'] + mixed['broken but answered']:,} uploads, "
        f"{mixed['right']:,} of {sound:,} sound ones got the answer of the Python API, "
        f"{mixed['wrong']:,} another; {mixed['broken']:,} broken ones were refused, and "
        f"{mixed['broken but answered']:,} labelled. The server's memory was "
        f"{mixed['mib_before']:,} MiB before and {mixed['mib_after']:,} MiB after. "
        f"Source: `{result['command']}`, in `{path}`.",
        "",
    ]
    return "\n".join(lines)


def latency_chart(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Draw the latency against the answered load, one curve per percentile."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    clients = [row["clients"] for row in rows]
    for name, words in PERCENTILES.items():
        axes.plot(clients, [row[name] for row in rows], "o-", label=f"{words} of the answers")
    axes.set_xscale("log", base=2)
    axes.set_xticks(clients, [f"{row['clients']}\n{row['answers_per_s']:.0f}/s" for row in rows])
    axes.set(xlabel="clients at a time, and answers per second", ylabel="latency, ms", ylim=0)
    axes.grid(alpha=0.25)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def watching_table(result: dict[str, Any], path: str) -> str:
    machine, soak = result["machine"], result["soak"]
    loads = {row["size"]: row for row in result["cameras"]}
    lines = [
        "| camera | seconds from the last frame of a window to its line | cameras per core |",
        "|---|--:|--:|",
    ]
    for row in result["latency"]:
        seconds, rate = row["seconds_to_line"], loads[row["size"]]["cameras_per_core"]
        lines.append(f"| {row['size']} | {seconds['median']:.2f} (most {seconds['max']:.2f}) "
                     f"| {rate:.0f} |")  # fmt: skip
    pinned = [row["on_one_core"] for row in loads.values()]
    counts = " and ".join(f"{each['cameras']} cameras" for each in pinned)
    dropped = sum(each["dropped"] for each in pinned)
    lines += [
        "",
        f"H.264 at 25 frames per second over HTTP, windows of 2 s each second, a small cnn-lstm in "
        f"int8, {machine['num_cores']} cores of {machine['cpu']}. Cameras per core come from the "
        f"processor time of four cameras; with {counts} on one core, {dropped} windows were "
        "dropped.",
        "",
        f"Over {soak['seconds'] / 60:.0f} minutes of a camera at {soak['fps']} frames per second, "
        f"the memory was at most {soak['peak_of_first_half_mib']:,} MiB in the first half and "
        f"{soak['peak_of_second_half_mib']:,} MiB in the second; of {soak['windows']:,} windows "
        f"{soak['dropped']:,} were dropped. Source: `{result['command']}`, in `{path}`.",
        "",
    ]
    return "\n".join(lines)
