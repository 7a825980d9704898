"""All GPU checks and measurements in one run: `python -m benchmarks.gpu_proof --out DIR`.

Makes 400 synthetic clips, then measures: the codecs that NVDEC opens; the GPU tests (`pytest -m
gpu`: same clips as the CPU loader, frame by frame); loading on GPU against loading on CPU, and
DALI's decoder alone, which gives the utilization of NVDEC; bytes per clip copied to the GPU;
training steps in bf16 against fp32; every compile backend and precision of two published sizes,
with error and share of the matrix peak; the demo. A part that fails is recorded with its error.
Writes gpu_<card>_<month>.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import interleaved, summary
from benchmarks.machine import file_name, fingerprint
from benchmarks.scripts import demo
from benchmarks.scripts.training import engine
from benchmarks.stages import backends
from benchmarks.stages import loader as loader_suite
from benchmarks.training_step import training_step
from dali_pipelines.augment import Augment
from dali_pipelines.decode.codec_support import CODECS, probe_codec
from dali_pipelines.decode.pixels import resized_size
from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
from dali_pipelines.spec import ClipSpec
from engine.data import manifest, synthetic
from engine.data.samples import samples_of
from engine.models import registry
from engine.parallel import run_each

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--clips", type=int, default=400, help="synthetic clips, in 8 classes")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    facts = fingerprint()
    if facts["machine"]["gpu"] is None:
        sys.exit(f"gpu_proof needs an NVIDIA GPU; here there is {facts['machine']['cuda']}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        synthetic.make_dataset(root, num_classes=8, clips_per_class=options.clips // 8, seed=0)
        rows, _ = samples_of(manifest.load(root))
        parts: dict[str, Callable[[], Any]] = {
            "codecs": _codecs,
            "tests": _tests,
            "loader": lambda: _loader(rows, options.repeats),
            "bytes_to_the_card": lambda: bytes_to_the_card(rows),
            "training": training_steps,
            "compiled": lambda: compiled(options.repeats),
            "demo": lambda: _demo(Path(folder) / "demo"),
        }
        result = {"command": "python -m benchmarks.gpu_proof", **facts}
        path = options.out / file_name("gpu", facts)
        for name, part in parts.items():
            try:
                result[name] = part()
            except Exception:  # record the error and continue
                result[name] = {"error": traceback.format_exc()}
            path.write_text(json.dumps(result, indent=2) + "\n")
            print(name, json.dumps(result[name], indent=2), flush=True)


def _codecs() -> dict[str, Any]:
    outcomes: Any = run_each(_probe, list(CODECS), title="Testing codecs", timeout_s=120)
    return {each.item: each.value or {"error": str(each.error)} for each in outcomes}


def _probe(codec: str) -> dict[Any, bool | None]:
    return probe_codec(codec, with_gpu=True)


def _tests() -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "REQUIRE_GPU": "1"}
    )
    return {"exit_code": ran.returncode, "last_lines": ran.stdout.splitlines()[-40:]}


def _loader(rows: list[Sample], repeats: int) -> dict[str, Any]:
    return loader_suite.measure(
        rows, ClipSpec(), batch_size=16, repeats=repeats, gpu=0, on_done=lambda: None
    )


def training_steps(
    preset: str = "base", batch_size: int = 8, repeats: int = 5
) -> list[dict[str, Any]]:
    """Measure clips per second of forward, backward and update, on the GPU if there is one."""
    import torch

    rows: list[dict[str, Any]] = []
    for family in registry.FAMILIES:
        spec, clip = registry.ModelSpec.of_preset(family, preset, 51)
        model = registry.build(spec, clip)
        clips = torch.randn(batch_size, *clip.shape)
        steps = {name: training_step(model, clips, model, name) for name in ("fp32", "bf16")}
        interleaved(steps, repeats=1)
        for name, rates in interleaved(steps, repeats=repeats).items():
            rows.append({"family": family, **summary(name, rates)})
    return rows


def compiled(repeats: int) -> list[dict[str, Any]]:
    return [
        backends.measure(family, "base", batch=batch, repeats=repeats)
        for family in ("timesformer", "cnn-lstm")
        for batch in (1, 32)
    ]


def _demo(out: Path) -> dict[str, Any]:
    seconds = engine("demo", "--out", out)
    return {"seconds": round(seconds, 1), **demo.read_results(out)}


def bytes_to_the_card(rows: list[Sample]) -> dict[str, float]:
    """Return bytes per clip as a file, for NVDEC, and as frames decoded by PyAV."""
    loader_config = LoaderConfig(spec=ClipSpec(), augment=Augment())
    sizes = [resized_size(row.width, row.height, loader_config.spec.resize) for row in rows]
    pixels = sum(width * height for width, height in sizes)
    return {
        "as_file": sum(row.path.stat().st_size for row in rows) / len(rows),
        "as_frames": loader_config.spec.num_frames * 3 * pixels / len(rows),
    }


if __name__ == "__main__":
    main()
