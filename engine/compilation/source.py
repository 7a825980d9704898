"""What `engine compile` builds from: what was asked for, the trained model, and its clips."""

import hashlib
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dali_pipelines.loaders.loader_config import Batch, LoaderConfig, Sample
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
"""Of the clips that prove an artifact."""


class CompileSource:
    """The trained model and its clips, each read once and only when they are needed."""

    def __init__(self, request: CompileRequest) -> None:
        self._asked = request
        self.checkpoint, self.chosen_by = find_checkpoint(request.run)

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
        """As it was trained: the reference."""
        return self._loaded[0]

    @cached_property
    def folded(self) -> "Uint8Input":
        """What is compiled: the same, with everything folded that can be."""
        from trt.folding import folded

        return folded(self.model, self.proof[0].clips[:1])

    @cached_property
    def config(self) -> "CheckpointConfig":
        from engine.training import checkpoint

        return checkpoint.load_config(self.checkpoint)

    @cached_property
    def clips(self) -> tuple[Manifest, str]:
        found = find_clips(self._asked.run, self._asked.data, self.config.class_names)
        return found.listed, found.scheme

    @cached_property
    def proof_rows(self) -> list[Sample]:
        """Clips that the model did not learn from."""
        return self._some(["test", "val"], self._asked.num_proof_clips)

    @cached_property
    def calibration_rows(self) -> list[Sample]:
        return self._some(["train"], self._asked.num_calibration_clips)

    def _some(self, parts: list[Any], most: int) -> list[Sample]:
        from engine.data.samples import samples_of

        listed, _ = self.clips
        present = {clip.split for clip in listed.clips}
        rows = [row for part in parts if part in present for row in samples_of(listed, part)[0]]
        if not rows:
            raise UserError(
                f"{listed.root} has no {' or '.join(parts)} part: `engine data split` makes them."
            )
        random.Random(0).shuffle(rows)
        return rows[:most]

    @cached_property
    def proof(self) -> list[Batch]:
        return list(self._read(self.proof_rows, BATCH_SIZE, "Reading held-out clips"))

    def calibration(self) -> "Iterator[torch.Tensor]":
        batches = self._read(self.calibration_rows, 1, "Reading training clips")
        return (batch.clips for batch in batches)

    def _read(self, rows: list[Sample], batch_size: int, title: str) -> Iterator[Batch]:
        from engine.data.loading import default_loader, make_loader

        loader_config = LoaderConfig(spec=self.config.clip, batch_size=batch_size, values="uint8")
        loader = make_loader(default_loader(), rows, loader_config)
        with progress_bar(title, total=-(-len(rows) // batch_size), unit="batches") as advance:
            for batch in loader:
                yield batch
                advance()

    @cached_property
    def reference(self) -> Logits:
        """What the model answers uncompiled, in fp32; kept for the next precision."""
        import numpy as np
        import torch

        facts = [self.digest, self.config.clip.to_dict(), row_facts(self.proof_rows)]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        path = self._asked.cache / f"{name}.npy" if self._asked.cache else None
        if path is not None and path.is_file():
            found: Logits = np.load(path, allow_pickle=False)
            return found
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = self.model.to(device)
        found = self.ask(lambda clips: model(clips.to(device)), "Asking the fp32 model")
        self.model.to("cpu")
        if path is not None:
            try:
                with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                    np.save(file, found)
                Path(file.name).replace(path)
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"{path.parent} can't be written to ({reason}).") from error
        return found

    def ask(self, run: "Callable[[torch.Tensor], torch.Tensor]", title: str) -> Logits:
        with progress_bar(title, total=len(self.proof), unit="batches") as advance:
            return answers(run, _counted((batch.clips for batch in self.proof), advance))

    @cached_property
    def labels(self) -> Any:
        import numpy as np

        return np.concatenate([batch.labels.numpy() for batch in self.proof])


def row_facts(rows: list[Sample]) -> list[Any]:
    """What tells clips from others, for the keys of what is kept."""
    return [[row.path.name, row.label, row.frames, row.path.stat().st_size] for row in rows]


def _counted(items: Iterable[Any], advance: Callable[[], None]) -> Iterator[Any]:
    for item in items:
        yield item
        advance()
