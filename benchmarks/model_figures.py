"""The table of models in docs/models.md."""

from typing import Any, NamedTuple


class Published(NamedTuple):
    """What the authors of a preset's weights state about them."""

    top1: str
    """On Kinetics-400, unless it names another dataset."""
    license: str


PUBLISHED = {
    "timesformer base": Published("77.9", "CC BY-NC 4.0"),
    "vivit base": Published("79.9", "MIT"),
    "hf videomae": Published("80.9", "CC BY-NC 4.0"),
    "hf timesformer": Published("77.9", "CC BY-NC 4.0"),
    "hf vivit": Published("79.9", "MIT"),
    "hf vjepa2": Published("73.7, Something-Something v2", "MIT"),
    "hf videoprism": Published("82.9, frozen", "CC BY 4.0"),
    "x3d s": Published("73.3", "Apache 2.0"),
    "x3d m": Published("75.9", "Apache 2.0"),
}
"""By preset. Accuracies are of several views, from the README or the model card of the weights."""


def models_table(result: dict[str, Any], path: str) -> str:
    lines = [
        "| `--model`, `--preset` | clip | parameters | multiply-adds | clips/s, fp32 "
        "| clips/s, int8 | published top-1 | license |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, row in result["rows"].items():
        if "rates" not in row:
            continue
        family, preset = name.split()
        published = PUBLISHED.get(name, Published("", ""))
        if family == "torchvision":
            published = Published(f"{row['published']:.1f}", "not stated")
        cells = [
            f"`{family}`, `{preset}`",
            f"{row['frames']} × {row['size']}²",
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['multiply_adds'] / 1e9:.1f} G",
            _rate(row["rates"], "eager fp32"),
            _rate(row["rates"], "openvino int8"),
            published.top1,
            published.license,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    machine = result["machine"]
    lines += [
        "",
        "Clips/s are those of the model alone, one clip at a time, on "
        f"{machine['num_cores']} cores of {machine['cpu']} ({', '.join(machine['cpu_extras'])}): "
        "eager PyTorch in fp32, and OpenVINO in int8. One multiply-add is two operations; "
        "`engine bench` counts operations. Weights are random, which doesn't affect speed. "
        f"Source: `{result['command']}`, in `{path}`.",
        "",
    ]
    return "\n".join(lines)


def _rate(rates: dict[str, float], name: str) -> str:
    return f"{rates[name]:.3g}" if name in rates else "–"
