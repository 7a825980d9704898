"""The tables of docs/frames.md: correctness and cost of reading frames with each decoder."""

from typing import Any

from benchmarks.baselines.frame_readers import READERS
from benchmarks.scripts.decoding import DECODERS


def frames_table(result: dict[str, Any], kept_in: str) -> str:
    sets = result["sets"]
    titles = [f"{each['name']} ({_clips(each['num_files'])})" for each in sets]
    lines = [
        f"| {' | '.join(['wrong frames', *titles, 'wrong lengths'])} |",
        f"|---|{'--:|' * (len(sets) + 1)}",
    ]
    for name, reader in READERS.items():
        rows = [row for each in sets for row in each["rows"] if row["name"] == name]
        error = next((row["error"] for row in rows if "error" in row), None)
        words = f"**{reader.words}**" if reader.is_ours else reader.words
        cells = [error, *[""] * len(sets)] if error else [*map(_wrong, rows), _lengths(rows)]
        lines.append(f"| {' | '.join([words, *cells])} |")
    wanted = ", ".join(
        f"{max(row['equidistant']['wanted'] for row in each['rows'] if 'error' not in row):,}"
        for each in sets
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    broken = sum(len(each["broken"]) for each in sets)
    return "\n".join(
        [
            *lines,
            "",
            f"{result['num_frames']} frames of each clip were read, twice: spread from the first "
            "to the last (first number), and the middles of equal segments (second number). That "
            f"is {wanted} frames each time. A frame is wrong if it clearly matches another frame "
            "of the clip better; ours must be identical to the full decode, byte by byte. Wrong "
            "lengths: files with a wrong reported number of frames, of those that report one. "
            + (f"{_clips(broken)} that don't decode to their end were left out. " if broken else "")
            + f"{versions}. From `{result['command']}`, kept in `{kept_in}`.",
            "",
        ]
    )


def _wrong(row: dict[str, Any]) -> str:
    spread, middles = row["equidistant"], row["segments"]
    missing = spread["missing"] + middles["missing"]
    cell = f"{spread['wrong']:,} · {middles['wrong']:,}"
    return f"{cell} ({missing:,} missing)" if missing else cell


def _lengths(rows: list[dict[str, Any]]) -> str:
    wrong, stated = (
        sum(row[f"files_{each}"] for row in rows) for each in ("miscounted", "counted")
    )
    return f"{wrong:,} of {stated:,}"


def _clips(count: int) -> str:
    return f"{count:,} clip{'' if count == 1 else 's'}"


def decoding_table(result: dict[str, Any], kept_in: str) -> str:
    sets = [each for each in result["sets"] if each["num_files"]]
    words = {name: READERS[name].words for name in DECODERS} | {
        "ours": "**this project**",
        "against": f"this project at `{result['against']}`",
    }
    titles = [f"{each['name']} ({_clips(each['num_files'])})" for each in sets]
    lines = [f"| processor time | {' | '.join(titles)} |", f"|---|{'--:|' * len(sets)}"]
    for name in words:
        rows = [[row for row in each["core"] if row["name"] == name] for each in sets]
        if any(rows):
            lines.append(f"| {words[name]} | {' | '.join(map(_times, rows))} |")
    if any(each.get("loaders") for each in sets):
        lines += ["", f"| clips/s | {' | '.join(titles)} |", f"|---|{'--:|' * len(sets)}"]
    for name, loader in (
        ("ours", "**`DaliLoader`**"),
        ("plain", "`TorchLoader`: decodes every frame, torchvision, DataLoader"),
        ("against", f"`DaliLoader` at `{result['against']}`"),
    ):
        rows = [[row for row in each.get("loaders", []) if row["name"] == name] for each in sets]
        if any(rows):
            lines.append(f"| {loader} | {' | '.join(map(_rate, rows))} |")
    machine = result["machine"]
    frames = " and ".join(str(each) for each in sorted({r["frames"] for r in sets[0]["core"]}))
    return "\n".join(
        [
            *lines,
            "",
            f"{frames} frames from file to RGB at a short side of 128 in one thread: milliseconds "
            "per clip, and for other decoders the time relative to ours. clips/s, if given, are "
            "for whole epochs of 8 frames of 224², and for others relative to ours. "
            f"{machine['num_cores']} cores of {machine['cpu']}. Medians of interleaved rounds in "
            f"one run of `{result['command']}`, kept in `{kept_in}`.",
            "",
        ]
    )


def _times(rows: list[dict[str, Any]]) -> str:
    """Format the times of a decoder, sorted by the number of frames."""
    return " · ".join(map(_time, sorted(rows, key=lambda row: row["frames"])))


def _time(row: dict[str, Any]) -> str:
    if "error" in row:
        return "failed"
    return f"{row['ms_a_clip']:.1f} ms" if row["name"] == "ours" else f"{row['times_as_long']:.2f}×"


def _rate(rows: list[dict[str, Any]]) -> str:
    [row] = rows
    if "error" in row:
        return "failed"
    if row["name"] == "ours":
        return f"{row['clips_per_s']:.0f}"
    return f"{1 / row['times_as_long']:.2f}×"
