"""The inputs of `engine compile`: the trained model, its logits and its clips."""

import dataclasses
import hashlib
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dali_pipelines.loaders.loader_config import Batch, LoaderConfig, Sample
from dali_pipelines.spec import FastCodec
from engine.compilation.request import CompileRequest
from engine.data.manifest import Manifest
from engine.errors import UserError
from engine.evaluation.clips import find_clips
from engine.predictor import as_uint8_input, find_checkpoint
from engine.progress import progress_bar
from trt import artifact
from trt.parity import Logits, answers

if TYPE_CHECKING:
    import torch

    from engine.training.checkpoint import CheckpointConfig
    from trt.program import Uint8Input

BATCH_SIZE = 8
"""Batch size of the parity check."""


class CompileSource:
    """The trained model and its clips, loaded lazily and once."""

    def __init__(self, request: CompileRequest) -> None:
        self._request = request
        self.checkpoint, self.chosen_by = find_checkpoint(request.run)
        self._merged: tuple[float, Uint8Input, str] | None = None

    @cached_property
    def digest(self) -> str:
        return artifact.digest(self.checkpoint / "model.safetensors")

    @cached_property
    def _loaded(self) -> "tuple[Uint8Input, CheckpointConfig]":
        from engine.training import checkpoint

        model, config = checkpoint.load_model(self.checkpoint)
        return as_uint8_input(model, config.clip), config

    @property
    def model(self) -> "Uint8Input":
        """The model as it was trained: the reference."""
        return self._loaded[0]

    @cached_property
    def folded(self) -> "Uint8Input":
        """The model to compile, with constants folded."""
        from trt.folding import folded

        return folded(self.model, self.proof[0].clips[:1])

    def merged(self, share: float) -> "tuple[Uint8Input, str]":
        """The folded model with a share of its tokens merged, and what is merged in words.

        Raises:
            UserError: It has no tokens that can be merged.
        """
        from engine.models.merged_model import with_merged_tokens

        if not share:
            return self.folded, ""
        if self._merged is None or self._merged[0] != share:
            family = self.config.model.family
            model, words = with_merged_tokens(self.folded.model, share, family=family)
            self._merged = share, as_uint8_input(model, self.config.clip), words
        return self._merged[1:]

    def require_tokens(self) -> None:
        """Raise UserError if the model has no tokens that can be merged."""
        from engine.models.merged_model import require_tokens

        require_tokens(self.model.model, self.config.model.family)

    @cached_property
    def config(self) -> "CheckpointConfig":
        from engine.training import checkpoint

        return checkpoint.load_config(self.checkpoint)

    @cached_property
    def clips(self) -> tuple[Manifest, str]:
        clips = find_clips(self._request.run, self._request.data, self.config.class_names)
        return clips.listed, clips.scheme

    @cached_property
    def proof_rows(self) -> list[Sample]:
        """Held-out clips for the parity check."""
        return self._sample(["test", "val"], self._request.num_proof_clips)

    @cached_property
    def calibration_rows(self) -> list[Sample]:
        return self._sample(["train"], self._request.num_calibration_clips)

    def _sample(self, splits: list[Any], max_clips: int) -> list[Sample]:
        """Random clips of these splits."""
        from engine.data.samples import samples_of

        listed, _ = self.clips
        present = {clip.split for clip in listed.clips}
        rows = [row for split in splits if split in present for row in samples_of(listed, split)[0]]
        if not rows:
            raise UserError(
                f"{listed.root} has no {' or '.join(splits)} split: make one with "
                "`engine data split`."
            )
        random.Random(0).shuffle(rows)
        return rows[:max_clips]

    @cached_property
    def proof(self) -> list[Batch]:
        return list(self._read(self.proof_rows, BATCH_SIZE, "Reading held-out clips"))

    def proof_decoded_fast(self) -> Iterator[Batch]:
        """The batches of `proof`, decoded fast where that is possible."""
        title = "Decoding held-out clips fast"
        return self._read(self.proof_rows, BATCH_SIZE, title, fast_decode=get_args(FastCodec))

    def calibration(self) -> "Iterator[torch.Tensor]":
        batches = self._read(self.calibration_rows, 1, "Reading training clips")
        return (batch.clips for batch in batches)

    def _read(
        self,
        rows: list[Sample],
        batch_size: int,
        title: str,
        *,
        fast_decode: tuple[FastCodec, ...] = (),
    ) -> Iterator[Batch]:
        from engine.data.loading import default_loader, make_loader

        spec = dataclasses.replace(self.config.clip, fast_decode=fast_decode)
        loader_config = LoaderConfig(spec=spec, batch_size=batch_size, values="uint8")
        loader = make_loader(default_loader(), rows, loader_config)
        with progress_bar(title, total=-(-len(rows) // batch_size), unit="batches") as advance:
            for batch in loader:
                yield batch
                advance()

    @cached_property
    def reference(self) -> Logits:
        """Logits of the uncompiled model in fp32, cached for builds in other precisions."""
        import numpy as np

        facts = ["fp32", self.digest, self.config.clip.to_dict(), row_facts(self.proof_rows)]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        path = self._request.cache / f"{name}.npy" if self._request.cache else None
        if path is not None and path.is_file():
            logits: Logits = np.load(path, allow_pickle=False)
            return logits
        logits = self.predict_in_fp32(self.model, "Running the fp32 model")
        if path is not None:
            try:
                with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                    np.save(file, logits)
                Path(file.name).replace(path)
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"{path.parent} can't be written to ({reason}).") from error
        return logits

    def predict_in_fp32(self, model: "Uint8Input", title: str) -> Logits:
        """Logits of the held-out clips by a model that is not compiled."""
        import torch

        from trt.tf32 import with_tf32

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(device)
        try:
            run = with_tf32(lambda clips: model(clips.to(device)), allowed=False)
            return self.predict(run, title)
        finally:
            model.to("cpu")

    def predict(self, run: "Callable[[torch.Tensor], torch.Tensor]", title: str) -> Logits:
        """Logits of the held-out clips."""
        with progress_bar(title, total=len(self.proof), unit="batches") as advance:
            return answers(run, _counted((batch.clips for batch in self.proof), advance))

    @cached_property
    def labels(self) -> Any:
        import numpy as np

        return np.concatenate([batch.labels.numpy() for batch in self.proof])


def row_facts(rows: list[Sample]) -> list[Any]:
    """Facts that identify clips, for cache keys."""
    return [[row.path.name, row.label, row.frames, row.path.stat().st_size] for row in rows]


def _counted(items: Iterable[Any], advance: Callable[[], None]) -> Iterator[Any]:
    for item in items:
        yield item
        advance()
