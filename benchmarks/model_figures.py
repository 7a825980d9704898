"""The table of the models in docs/models.md, from the results of `benchmarks.scripts.models`."""

from typing import Any

LICENSES = {
    "hf videomae": "CC BY-NC 4.0",
    "hf vivit": "MIT",
    "vivit base": "MIT",
}
"""Of the published weights, where their model card says so."""
PUBLISHED = {"x3d s": 73.3, "x3d m": 75.9}
"""Top-1 accuracy on Kinetics-400 by PyTorchVideo's list of models, 30 views."""


def models_table(result: dict[str, Any]) -> list[str]:
    """One row for each preset."""
    lines = [
        "| model | clip | parameters (M) | multiply-adds (G) | clips/s, eager fp32 | clips/s, int8 "
        "by OpenVINO | Kinetics-400, published | license of the weights |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for name, row in result["rows"].items():
        if "error" in row:
            continue
        rates = row["rates"]
        published = row["published"] or PUBLISHED.get(name)
        cells = [
            " ".join(f"`{word}`" for word in name.split()),
            f"{row['frames']} × {row['size']}²",
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['multiply_adds'] / 1e9:.1f}",
            f"{rates['eager fp32']:.2f}",
            f"{rates['openvino int8']:.2f}" if "openvino int8" in rates else "–",
            f"{published:.1f}%" if published else "",
            LICENSES.get(name, ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    failed = {name: row["error"] for name, row in result["rows"].items() if "error" in row}
    if failed:
        lines += ["", f"Not measured: {', '.join(failed)}."]
    return lines
