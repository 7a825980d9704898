"""Artifacts on disk: sealing a finished folder, and checking and loading it."""

import dataclasses
import hashlib
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from trt.backends import BACKENDS
from trt.config import CONFIG, ArtifactConfig
from trt.errors import CompileError, RefusedError
from trt.probe import this_device, this_gpu, versions

if TYPE_CHECKING:
    import torch

    from trt.build_input import Run

PROOF = "proof.safetensors"
"""A few uint8 clips, their labels, and the logits of the fp32 model."""


class Artifact:
    """A compiled model: maps uint8 clips (B, T, C, H, W) to logits (B, classes), for any B.

    Attributes:
        config: Metadata of the artifact.
        on_gpu: Whether it runs on a GPU.
    """

    def __init__(self, config: ArtifactConfig, run: "Run", *, on_gpu: bool = False) -> None:
        self.config = config
        self.on_gpu = on_gpu
        self._run = run

    def __call__(self, clips: "torch.Tensor") -> "torch.Tensor":
        import torch

        batches = self.config.target.batches
        if self.on_gpu:
            clips = clips.cuda(non_blocking=True)
        return torch.cat([self._run_padded(part) for part in clips.split(batches.max)])

    def _run_padded(self, clips: "torch.Tensor") -> "torch.Tensor":
        """Run a batch; one that is too small is padded with its last clip."""
        import torch

        num_missing = self.config.target.batches.min - len(clips)
        if num_missing <= 0:
            return self._run(clips)
        filler = clips[-1:].expand(num_missing, *clips.shape[1:])
        return self._run(torch.cat([clips, filler]))[: len(clips)]


def seal(folder: Path, config: ArtifactConfig) -> ArtifactConfig:
    """Write the config of a finished folder, with the digest of every file in it."""
    files = {
        str(path.relative_to(folder)): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CONFIG
    }
    sealed = dataclasses.replace(config, files=files)
    sealed.write(folder)
    return sealed


def load(folder: Path) -> Artifact:
    """Load an artifact.

    Raises:
        CompileError: The artifact is damaged.
        RefusedError: A file was changed, or the artifact can't run on this machine.
    """
    config = check(folder)
    backend = BACKENDS[config.backend]
    status = backend.probe(this_gpu())
    if not status.usable:
        raise RefusedError(f"{folder} needs {config.backend}: {status.why}; {status.fix}.")
    _check_machine(folder, config)
    return Artifact(
        config, backend.load(folder, config), on_gpu=backend.runs_on(this_gpu()) == "cuda"
    )


def _check_machine(folder: Path, config: ArtifactConfig) -> None:
    backend = BACKENDS[config.backend]
    rebuild = "compile it for this one with `rebuild=True`."
    if "device" in backend.BOUND_TO and config.device != this_device():
        raise RefusedError(
            f"{folder} was built for {config.device}, not {this_device()}: {rebuild}"
        )
    if "versions" not in backend.BOUND_TO:
        return
    for package, number in versions(backend.PACKAGES).items():
        if config.versions.get(package) != number:
            raise RefusedError(
                f"{folder} was built with {package} {config.versions.get(package)}, but "
                f"{number} is installed: {rebuild}"
            )


def check(folder: Path) -> ArtifactConfig:
    """Check that an artifact's files are unchanged and complete, and return its config.

    Raises:
        CompileError: The config can't be read, or the backend is unknown.
        RefusedError: A file was changed, added or removed.
    """
    config = ArtifactConfig.read(folder)
    if config.backend not in BACKENDS:
        raise CompileError(f"{folder} was made by {config.backend!r}, which this version lacks.")
    if CONFIG in config.files or not config.files:
        raise RefusedError(
            f"{folder / CONFIG} lists no files with their digests: compile it again."
        )
    present = {path.name for path in folder.iterdir() if path.name[0] != "." and path.is_file()}
    if unknown := sorted(present - {CONFIG, *config.files}):
        raise RefusedError(
            f"{folder / unknown[0]} is not a file of the artifact: remove it, or compile again."
        )
    for name, expected in config.files.items():
        path = folder / name
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise RefusedError(f"{folder} lists {name}, outside itself: compile it again.")
        if not path.is_file():
            raise RefusedError(f"{folder} lacks {name}: compile it again.")
        if digest(path) != expected:
            raise RefusedError(
                f"{path} is not the file that was written (its digest differs): compile it again."
            )
    return config


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
