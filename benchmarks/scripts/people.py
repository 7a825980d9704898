"""Real people: `python -m benchmarks.scripts.people --clips UT-Interaction=FOLDER --weights FILE`.

Each set is a folder with `list.csv` (path, label, source). It is copied and divided into folds by
source, and each model is trained and tested on all folds by `engine train --folds` and `engine
evaluate`: each clip is tested once, by a model that has seen no clip of its source. The accuracy is
pooled over all clips, and its interval is resampled by source. There are three parts:

models: models with `--weights` (of EfficientNet-Lite0), probed or trained as a whole, and small
presets from random weights.
chart: clips per second from files to labels against that accuracy, for a few of these models in
fp32 and int8 (each fold is compiled and tested), beside plain PyTorch with the same weights.
leak: the same model on a stratified split, in which clips of one source are in training and in
test, and on a grouped one; several seeds.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import file_name, fingerprint
from benchmarks.report import draw_front
from benchmarks.scripts.training import RESULTS, engine

PARTS = ("models", "chart", "leak")
FOLDS = {"UT-Interaction": 10, "EgoGestAR": 6}
"""Sets of `models` and `chart`, and their folds."""
LEAK_FOLDS = "J-HMDB silhouettes"
SEEDS = (0, 1, 2)


class Model(NamedTuple):
    words: str
    """For tables."""
    settings: tuple[object, ...]
    """Flags of `engine train`."""
    has_weights: bool = True


def _backbone(family: str, frames: int, size: int) -> tuple[object, ...]:
    return (
        "--model", family, "--option", "backbone=tf_efficientnet_lite0", "--frames", frames,
        "--size", size,
    )  # fmt: skip


def _probe(family: str, head: str, frames: int, size: int, *more: object) -> Model:
    return Model(
        f"{family}, {head} probe, {frames} × {size}²",
        (*_backbone(family, frames, size), "--probe", head, *more),
    )


def _whole(family: str, frames: int, size: int, *more: object) -> Model:
    return Model(
        f"{family}, fine-tuned, {frames} × {size}²", (*_backbone(family, frames, size), *more)
    )


def _small(family: str, *more: object) -> Model:
    settings = ("--model", family, "--preset", "small", *more)
    return Model(f"{family}, small preset, random weights", settings, has_weights=False)
