"""A run of each video model labels a folder, as random as it is."""

import csv
from pathlib import Path
from typing import Any

import pytest
from hf_configs import CONFIGS
from odd_videos import FILES
from runs import random_run
from typer.testing import CliRunner

from dali_pipelines.spec import ClipSpec
from engine.cli import app
from engine.models.registry import PRESETS

CLIP = ClipSpec(num_frames=8, resize=72, crop=64)
CLASSES = ["fall", "run", "wave"]
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{f"hf {kind}": ("hf", "small", {"config": {"model_type": kind, **CONFIGS[kind]}})
       for kind in CONFIGS},
    **{f"{family} {preset}": (family, preset, {})
       for family in ("torchvision", "x3d")
       for preset in PRESETS[family] if preset not in ("base", "small")},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("h264", "mpeg4", "vp9"):
        FILES[name](folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_run_of_each_model_labels_a_folder(name: str, folder: Path, tmp_path: Path) -> None:
    family, preset, options = MODELS[name]
    run = random_run(tmp_path / "run", CLASSES, family, preset, clip=CLIP, **options)
    out = tmp_path / "labels.csv"
    words = ["label", str(folder), "--model", str(run), "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(folder.iterdir()))
    assert {row["label"] for row in rows} <= set(CLASSES)
