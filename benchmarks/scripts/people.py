"""Real people: `python -m benchmarks.scripts.people --clips UT-Interaction=FOLDER --weights FILE`.

Each set is a folder with `list.csv` (path, label, source). It is copied, split into folds by
source, and each model is trained and tested on all folds by `engine train --folds` and `engine
evaluate`.
The accuracy is pooled over all clips, each of which is tested once by the model of its fold; the
interval is resampled by source. Backbones start from the ImageNet weights that are named.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import file_name, fingerprint
from benchmarks.scripts.training import RESULTS, engine

BACKBONE = ("--option", "backbone=tf_efficientnet_lite0")
FOLDS = 10
MODELS: dict[str, tuple[object, ...]] = {
    f"{model}, {head} probe, {frames} × {size}²": (
        "--model", model, *BACKBONE, "--frames", frames, "--size", size,
        "--probe", head, "--probe-views", 4,
    )
    for model, head, frames, size in (
        ("cnn-lstm", "recurrent", 16, 160),
        ("cnn-lstm", "recurrent", 16, 224),
        ("cnn-lstm", "recurrent", 8, 160),
        ("cnn-birnn", "recurrent", 16, 160),
        ("cnn-lstm", "attentive", 16, 160),
        ("cnn-lstm", "linear", 16, 160),
    )
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--weights", type=Path, required=True, help="of the backbone")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = options.out / file_name("people", facts)
    result = json.loads(path.read_text()) if path.exists() else {"sets": {}}
    result |= {
        "command": "python -m benchmarks.scripts.people --clips NAME=FOLDER --weights "
        f"{options.weights.name}",
        **facts,
        "protocol": " ".join((__doc__ or "").split()),
    }
    for text in options.clips:
        name, _, folder = text.partition("=")
        rows = result["sets"].setdefault(name, {})
        with tempfile.TemporaryDirectory(prefix="engine-people-") as temporary:
            root = _prepare(Path(folder), Path(temporary) / "set")
            for model in options.models:
                if model not in rows:
                    out = Path(temporary) / model.replace(" ", "-")
                    rows[model] = _measure(root, out, MODELS[model], options.weights)
                    print(name, model, rows[model]["top1"], flush=True)
                    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def _prepare(source: Path, root: Path) -> Path:
    shutil.copytree(source, root, copy_function=shutil.copyfile)
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(0o755)
    engine("data", "index", root, "--list", root / "list.csv")
    engine("data", "split", root, "--scheme", "grouped", "--folds", FOLDS)
    return root


def _measure(root: Path, out: Path, settings: tuple[object, ...], weights: Path) -> dict[str, Any]:
    words = ("--folds", "all", "--out", out, "--weights", weights, *settings)
    seconds = engine("train", "--data", root, *words)
    engine("evaluate", out)
    pooled, *_ = json.loads((out / "evaluation" / "report.json").read_text())
    return {
        "settings": list(map(str, settings)),
        "top1": pooled["video"]["top1"],
        "interval": pooled["video"]["top1_interval"],
        "over_folds": pooled["over_folds"],
        "protocol": pooled["protocol"],
        "train_s": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
