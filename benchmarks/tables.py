"""Tables that `engine bench` prints: one for each stage, and one for comparisons."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import title_of
from benchmarks.rows import BenchRow

if TYPE_CHECKING:
    from benchmarks.comparison import Change


def print_loader(measured: dict[str, Any]) -> None:
    table = Table(title=f"Loading {measured['num_clips']:,} clips, {measured['threads']} threads")
    table.add_column("pipeline")
    for name in ("clips/s", "spread", "× plain torch", "share of bound"):
        table.add_column(name, justify="right")
    for row in measured["rows"]:
        table.add_row(
            row["name"],
            f"{row['clips_per_s']:,.0f}",
            _spread(row),
            f"{row['times_plain_torch']:.2f}",
            f"{row['share_of_bound']:.2f}",
        )
    Console().print(table)
    memory = measured["memory"]
    print(
        f"memory {memory['resident_mib'][1]:,.0f} MiB after two epochs, "
        f"{memory['growth_after_second_epoch']:+.1%} at most in the "
        f"{len(memory['resident_mib']) - 2} after them; open files "
        f"{memory['open_files'][1]} and {max(memory['open_files'])}"
    )


def print_model(measured: dict[str, Any]) -> None:
    table = Table(title=f"Model only, {measured['gflop_per_clip']:,.2f} GFLOP a clip")
    table.add_column("pipeline")
    for name in ("batch", "clips/s", "spread", "× eager", "share of peak"):
        table.add_column(name, justify="right")
    for row in measured["rows"]:
        share = row.get("share_of_peak")
        table.add_row(
            row["name"],
            str(row["batch"]),
            f"{row['clips_per_s']:,.1f}",
            _spread(row),
            f"{row['times_yardstick']:.2f}",
            "" if share is None else f"{share:.0%}",
        )
    Console().print(table)


def print_end_to_end(measured: dict[str, Any]) -> None:
    """Print the columns that fit a narrow terminal; rows on the Pareto front are bold."""
    table = Table(title=f"From files to labels, {measured['num_clips']:,} clips", padding=(0, 0))
    table.add_column("pipeline", overflow="fold")
    for name in ("clips/s", "spread", "top-1", "agrees", "p50 ms", "slowest", "eff."):
        table.add_column(name, justify="right", no_wrap=True)
    for row in measured["rows"]:
        if "error" in row:
            continue
        table.add_row(
            title_of(row),
            f"{row['clips_per_s']:,.1f}",
            _spread(row),
            f"{row['top1']:.1%}",
            f"{row['agreement']:.1%}" if "agreement" in row else "",
            f"{row['latency_ms']['p50']:,.0f}",
            row.get("bottleneck", ""),
            f"{row['efficiency']:.2f}" if "efficiency" in row else "",
            style="bold" if row["on_front"] else None,
        )
    Console().print(table)
    for row in measured["rows"]:
        if "error" in row:
            print(f"{row['name']}: {row['error']}")


def print_comparison(changes: "list[Change]", alone: list[str]) -> None:
    table = Table()
    table.add_column("pipeline")
    for name in ("before", "after", "ratio", "noise", "top-1", ""):
        table.add_column(name, justify="right")
    for change in changes:
        table.add_row(
            change.name,
            f"{change.before:,.1f}",
            f"{change.after:,.1f}",
            f"{change.ratio:.2f}",
            f"± {change.noise:.0%}",
            "" if change.points is None else f"{change.points:+.1f}",
            change.verdict,
            style="red" if change.is_regression else None,
        )
    Console().print(table)
    if alone:
        print(f"in only one of the two: {'; '.join(alone)}")


def _spread(row: BenchRow) -> str:
    return f"{row['spread']:.0%}{' wide' if row['wide'] else ''}"
