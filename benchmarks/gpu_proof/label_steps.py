"""From files to labels on the GPU, beside what people use today."""

import csv
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.decode_steps import RATED, drawn_video
from benchmarks.gpu_proof.step import Context, Step, engine
from benchmarks.gpu_proof.train_steps import dataset

NUM_CLIPS = 32
MAX_LABELLED = 48
"""Files to label on the CPU, too."""


def beside_others(context: Context) -> dict[str, Any]:
    """`engine bench` of a run and of its artifact, against plain PyTorch and transformers."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root, run, fast = _models(folder, context)
        few: tuple[object, ...] = ()
        if context.rehearse:
            few = ("--clips", 4, "--repeats", 1, "--seconds", 0.1)
        engine(
            "bench", run, fast, "--data", root, "--against", "torch,torch-compile,hf", *few,
            "--batches", "2" if context.rehearse else "1,8,32", "--out", folder / "bench",
        )  # fmt: skip
        (path,) = (folder / "bench").glob("*.json")
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def decoders(context: Context) -> list[dict[str, Any]]:
    """What `--decoder auto` measures, and torchcodec with the same device, on drawn videos."""
    from dali_pipelines.spec import ClipSpec
    from engine.labelling.decoder_choice import measure

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for codec, size in RATED[:1] if context.rehearse else RATED:
            paths = [drawn_video(Path(folder), codec, size, context)] * NUM_CLIPS
            rates = measure(paths, ClipSpec(num_frames=8), gpu=context.gpu)
            for kind, (by_nvdec, by_pyav) in rates.items():
                rows.append({"kind": kind, "size": size, "nvdec": by_nvdec, "pyav": by_pyav})
            rows.append({"codec": codec, "size": size, "torchcodec": _torchcodec(paths, context)})
    return rows


def _torchcodec(paths: list[Path], context: Context) -> float | str:
    """Clips per second in threads, frames decoded on the device and resized there."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError) as error:
        return f"torchcodec can't be used: {str(error).splitlines()[0]}"
    from torch.nn.functional import interpolate

    from dali_pipelines.cores import num_cores

    device = "cpu" if context.rehearse else "cuda"

    def clip(path: Path) -> None:
        decoder = VideoDecoder(path, device=device)
        assert decoder.metadata.num_frames is not None
        numbers = [number * decoder.metadata.num_frames // 8 for number in range(8)]
        frames = decoder.get_frames_at(numbers).data.float()
        interpolate(frames, size=(224, 224), mode="bilinear", antialias=True).cpu()

    try:
        with ThreadPoolExecutor(num_cores()) as pool:
            list(pool.map(clip, paths[: num_cores()]))
            started = time.perf_counter()
            list(pool.map(clip, paths))
            return len(paths) / (time.perf_counter() - started)
    except RuntimeError as error:
        return f"torchcodec can't decode it: {str(error).splitlines()[0]}"


def same_labels(context: Context) -> dict[str, Any]:
    """A folder labelled on the GPU and on the CPU: the share of equal labels."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root, run, fast = _models(folder, context)
        models = {"cpu": (run, "cpu"), "gpu": (run, context.device), "artifact": (fast, "auto")}
        paths = sorted(path for path in (root / "videos").rglob("*") if path.is_file())
        listed = folder / "list.txt"
        listed.write_text("\n".join(map(str, paths[:: max(1, len(paths) // MAX_LABELLED)])))
        labels = {}
        for name, (model, device) in models.items():
            out = folder / f"{name}.csv"
            engine(
                "label", listed, "--list", "--model", model, "--out", out,
                "--device", device,
            )  # fmt: skip
            with out.open() as file:
                labels[name] = {row["path"]: row["label"] for row in csv.DictReader(file)}
    expected = labels.pop("cpu")
    return {
        "num_files": len(expected),
        **{
            f"share_equal_{name}": sum(found[path] == label for path, label in expected.items())
            / len(expected)
            for name, found in labels.items()
        },
    }


def _models(folder: Path, context: Context) -> tuple[Path, Path, Path]:
    """A dataset, a run that was trained on it, and its artifact."""
    root, run, fast = dataset(folder / "set", context), folder / "run", folder / "fast"
    preset, epochs = ("small", 1) if context.rehearse else ("base", 3)
    engine(
        "train", "--data", root, "--model", "timesformer", "--preset", preset, "--weights", "none",
        "--epochs", epochs, "--batch-size", 2 if context.rehearse else 16, "--out", run,
    )  # fmt: skip
    engine(
        "compile", run, "--precision", "fp32" if context.rehearse else "bf16", "--out", fast,
        "--backend", "eager" if context.rehearse else "auto", "--accept-drift", 100,
        "--cache", folder / "cache",
    )  # fmt: skip
    return root, run, fast


STEPS: dict[str, Step] = {
    "decoders": decoders,
    "beside others": beside_others,
    "same labels": same_labels,
}
