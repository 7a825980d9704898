"""Computes the features of clips with a frozen encoder, and gives them to the training loop.

Shape letters: B batch, T frames, C channels, H height, W width.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dali_pipelines.loaders.loader_config import (
    Batch,
    ClipLoader,
    LoaderConfig,
    LoaderReport,
    Sample,
    make_batch,
)
from dali_pipelines.spec import ClipSpec
from engine.errors import UserError
from engine.progress import progress_bar
from engine.training.feature_store import FeatureStore
from trt.errors import CompileError
from trt.program import Uint8Input

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Encode = Callable[[Tensor], Tensor]
"""Maps uint8 clips (B, T, C, H, W) to features, on the CPU."""
NewLoader = Callable[[Sequence[Sample], LoaderConfig], ClipLoader]
View = tuple[int, int]
"""Id and repeat of a sample."""
NUM_WORTH_COMPILING = 48
"""Views from which on compiling the encoder takes less time than it saves on a CPU."""


class FeatureLoader(ClipLoader):
    """Batches of features instead of clips, from memory.

    Args:
        rows: The samples.
        config: Batch size, shuffling and seed.
        features: Features of each sample, which have the same shape for all.
    """

    def __init__(
        self, rows: Sequence[Sample], config: LoaderConfig, features: dict[View, Tensor]
    ) -> None:
        super().__init__(rows, config)
        self.features = features

    def _load(self, batches: list[list[Sample]]) -> Iterator[Batch]:
        for rows in batches:
            stacked = torch.stack([self.features[row.id, row.repeat] for row in rows])
            yield make_batch(stacked, rows, self.config)


def views_of(rows: Sequence[Sample], num_views: int) -> list[Sample]:
    """Repeat each sample for its views; the first of them is the plain view of testing."""
    return [
        dataclasses.replace(row, repeat=row.repeat * num_views + view)
        for row in rows
        for view in range(num_views)
    ]


class FeatureSource:
    """Reads features from a store, and computes the missing ones.

    Features of damaged files are not stored, so that each run reports these files.

    Args:
        store: Keeps the features.
        num_views: Views of each sample, as in `views_of`.
        new_loader: Creates a loader of clips.
        make_encode: Creates the encoder, when it is first needed for this number of views.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        num_views: int,
        new_loader: NewLoader,
        make_encode: Callable[[int], Encode],
    ) -> None:
        self._store = store
        self._num_views = num_views
        self._new_loader = new_loader
        self._make_encode = make_encode
        self._encode: Encode | None = None
        self.num_computed = 0
        self.num_found = 0

    def loader(self, rows: Sequence[Sample], config: LoaderConfig) -> FeatureLoader:
        """Create a loader of the features of all samples that can be read.

        Raises:
            UserError: None of them can be read, or the store can't be written to.
        """
        features: dict[View, Tensor] = {}
        missing = []
        for row in rows:
            found = self._store.get(row, self._view_config(row, config))
            if found is None:
                missing.append(row)
            else:
                features[row.id, row.repeat] = torch.from_numpy(found)
        self.num_found += len(features)
        report = LoaderReport()
        if missing:
            features |= self._compute(missing, config, report)
        present = [row for row in rows if (row.id, row.repeat) in features]
        if not present:
            path, reason = next(iter(report.failures.items()))
            raise UserError(f"none of the clips can be read ({path}: {reason}).")
        loader = FeatureLoader(present, config, features)
        loader.report = report
        return loader

    def _view_config(self, row: Sample, config: LoaderConfig) -> LoaderConfig:
        """Settings of the loader that reads this view; the first view is that of testing."""
        is_plain = row.repeat % self._num_views == 0
        augment = None if is_plain else config.augment
        return dataclasses.replace(config, augment=augment, shuffle=False, values="uint8")

    def _compute(
        self, rows: list[Sample], config: LoaderConfig, report: LoaderReport
    ) -> dict[View, Tensor]:
        """Compute features; each repeat has its own loader, in which an id means one sample."""
        features: dict[View, Tensor] = {}
        if self._encode is None:
            self._encode = self._make_encode(len(rows))
        encode = self._encode
        rows = sorted(rows, key=lambda row: row.repeat)
        with progress_bar("Computing features", total=len(rows), unit="clips") as advance:
            for repeat, group in groupby(rows, key=lambda row: row.repeat):
                row_of = {row.id: row for row in group}
                view_config = self._view_config(next(iter(row_of.values())), config)
                loader = self._new_loader(list(row_of.values()), view_config)
                for batch in loader:
                    for id_, clip in zip(batch.ids.tolist(), encode(batch.clips), strict=True):
                        row = row_of[id_]
                        features[id_, repeat] = clip.clone()
                        report_ = loader.report
                        if row.path not in {*report_.damaged_frames, *report_.flaws}:
                            self._store.put(row, view_config, clip.numpy())
                        advance()
                report.merge_from(loader.report)
        self.num_computed += len(features)
        return features


def make_encoder(
    encoder: torch.nn.Module,
    spec: ClipSpec,
    fabric: "Fabric",
    *,
    precision: str,
    num_clips: int,
    log: Callable[[str], None],
) -> Encode:
    """The encoder as a function of uint8 clips, compiled if that is faster for `num_clips`."""
    from trt.backends import BACKENDS

    module = Uint8Input(encoder, mean=spec.mean, std=spec.std).eval().to(fabric.device)
    is_on_cpu = fabric.device.type == "cpu"
    if is_on_cpu and num_clips >= NUM_WORTH_COMPILING and BACKENDS["openvino"].probe(None).usable:
        try:
            run = _with_openvino(module, spec, precision)
            log("computing features with OpenVINO")
            return run
        except CompileError as error:
            log(f"{error} PyTorch computes the features")
    log("computing features with PyTorch")

    def encode(clips_BTCHW: Tensor) -> Tensor:
        clips_BTCHW = clips_BTCHW.to(fabric.device)
        with torch.inference_mode(), fabric.autocast():
            if is_on_cpu:  # one clip at a time, whose maps fit into the processor's cache
                return torch.cat([module(clip) for clip in clips_BTCHW.split(1)]).float()
            return module(clips_BTCHW).float().cpu()

    return encode


def _with_openvino(module: Uint8Input, spec: ClipSpec, precision: Any) -> Encode:
    from trt import backends
    from trt.build_input import BuildInput
    from trt.config import ArtifactConfig, BatchRange, Target

    target = Target(precision=precision, batches=BatchRange())
    example = torch.zeros(1, *spec.shape, dtype=torch.uint8)
    config = ArtifactConfig(
        backend="openvino", asked=precision, target=target, clip={}, model={}, class_names=[],
        source="", chosen_by="", key="", device="", versions={},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        inputs = BuildInput(model=module, example=example, target=target)
        backends.build("openvino", inputs, Path(folder))
        run: Encode = backends.BACKENDS["openvino"].load(Path(folder), config)
    return run
