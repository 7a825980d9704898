"""Tests a model on clips that its run didn't train on."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from dali_pipelines.loaders.loader_config import LoaderConfig
from engine.data.loading import default_loader, make_loader
from engine.data.manifest import Split
from engine.data.samples import samples_of
from engine.evaluation.clips import find_clips, parse_views
from engine.evaluation.metrics import measure_levels
from engine.evaluation.predict import predict
from engine.evaluation.results import Evaluated, Protocol
from engine.memory import keep_freed_memory
from engine.predictor import open_predictor
from engine.progress import progress_bar


class HeldOutTest:
    """An evaluation that is ready to run; wrong settings raise an error on construction.

    Args:
        run: A run, checkpoint or artifact.
        data: A dataset's folder; None for the run's dataset.
        split: `train`, `val` or `test`.
        views: Clips and crops of each video, as in `10x3`.
        name: Name of the run in the report; its folder's name by default.
        loader: `dali` or `torch`; None uses DALI if it is installed.
        batch_size: Views in each batch.
        device: `auto`, `gpu` or `cpu`.

    Raises:
        UserError: A setting is wrong, or the dataset doesn't fit the model.
    """

    def __init__(
        self,
        run: Path,
        *,
        data: Path | None = None,
        split: str = "test",
        views: str = "1x1",
        name: str = "",
        loader: str | None = None,
        batch_size: int = 16,
        device: str = "auto",
    ) -> None:
        num_clips, num_crops = parse_views(views)
        self._name = name or run.name
        self._split = cast(Split, split)
        self._model = model = open_predictor(run, device)
        if model.device.type == "cpu":
            keep_freed_memory()
        self._listed, self._scheme, self.are_own = find_clips(run, data, model.class_names)
        rows, self._num_bad = samples_of(self._listed, self._split)
        self._loader_config = LoaderConfig(
            spec=model.clip,
            batch_size=batch_size,
            num_clips=num_clips,
            num_crops=num_crops,
            values="uint8",
        )
        self._loader = make_loader(
            loader or default_loader(), rows, self._loader_config, gpu=model.device.index
        )
        self.num_clips = len(rows)
        self.note = self._loader.note

    def run(self, on_clip: Callable[[], None] = lambda: None) -> Evaluated:
        """Predict all clips and compute the metrics; `on_clip` is called after each clip."""
        model, clip = self._model, self._model.clip
        with progress_bar(f"Testing {self._name}", total=self.num_clips, unit="clips") as advance:

            def after_clip() -> None:
                advance()
                on_clip()

            predictions = predict(model, self._loader, after_clip)
        source_of = {number: entry.source for number, entry in enumerate(self._listed.clips)}
        sources = [source_of[row.id] for row in predictions.rows]
        return Evaluated(
            name=self._name,
            class_names=model.class_names,
            levels=measure_levels(predictions.probabilities_NVC, predictions.labels_N, sources),
            predictions=predictions,
            sources=sources,
            spec=clip,
            are_own_clips=self.are_own,
            protocol=Protocol(
                split=self._split,
                scheme=self._scheme,
                num_clips=len(predictions.rows),
                num_failed=self._num_bad + len(predictions.failures),
                views=f"{self._loader_config.num_clips} × {self._loader_config.num_crops}",
                frames=f"{clip.num_frames} {clip.sampling}, {clip.crop}²",
                checkpoint=str(model.path),
                chosen_by=model.chosen_by,
                device=model.runs_on,
            ),
        )
