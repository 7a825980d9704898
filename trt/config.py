"""Compile settings (Target), and the `config.json` of an artifact (ArtifactConfig)."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from trt.errors import CompileError

Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Bond = Literal["device", "versions"]
"""What must match to load an artifact: the device it was built for, or the library versions."""
FORMAT = 1
CONFIG = "config.json"
PROGRAM = "program.pt2"
"""The exported program in an artifact; engines for other machines are built from it."""
FALLBACKS: dict[Precision, tuple[Precision, ...]] = {
    "fp8": ("bf16", "fp16", "fp32"),
    "int8": ("bf16", "fp16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "bf16": ("fp32",),
    "tf32": ("fp32",),
}
"""Fallbacks for precisions that a device doesn't support: always a more exact precision."""


def nearest(requested: Precision, supported: set[Precision], where: str) -> tuple[Precision, str]:
    """Choose a supported precision.

    Args:
        requested: The precision that the user requested.
        supported: Precisions that the device supports.
        where: Name of the device, for the reason.

    Returns:
        The precision to use, and why it isn't the requested one (empty if it is).
    """
    for precision in (requested, *FALLBACKS.get(requested, ())):
        if precision in supported:
            reason = "" if precision == requested else f"{where} doesn't compute in {requested}"
            return precision, reason
    raise AssertionError(f"{where} has no fp32")


@dataclass(frozen=True, kw_only=True)
class BatchRange:
    """Batch sizes that an artifact supports; other batches are padded or split."""

    min: int = 1
    opt: int = 8
    """Batch size to optimize for."""
    max: int = 32

    def __post_init__(self) -> None:
        if not all(isinstance(size, int) for size in (self.min, self.opt, self.max)):
            raise ValueError("the batch sizes must be whole numbers")
        if not 1 <= self.min <= self.opt <= self.max:
            raise CompileError(
                f"`batches` {self.min},{self.opt},{self.max} must be ascending and at least 1."
            )


@dataclass(frozen=True, kw_only=True)
class Target:
    """Compile settings."""

    precision: Precision = "fp32"
    """The precision that runs, as returned by Backend.resolve_precision."""
    batches: BatchRange = field(default_factory=BatchRange)
    fp32_layers: tuple[str, ...] = ()
    """Names of the modules that stay in fp32."""
    workspace_gb: float | None = None
    optimization_level: int | None = None
    merged_tokens: float = 0.0
    """Share of a transformer's tokens that are merged by its last layer."""

    @property
    def in_words(self) -> str:
        """The precision, and how many tokens are merged."""
        if not self.merged_tokens:
            return self.precision
        return f"{self.precision} with {self.merged_tokens:.0%} of the tokens merged"


@dataclass(frozen=True, kw_only=True)
class ArtifactConfig:
    """Metadata of an artifact. The model and the clip settings are plain values, not objects."""

    backend: str
    asked: Precision
    """The precision that the user requested; `target` has the one that runs."""
    target: Target
    clip: dict[str, Any]
    model: dict[str, Any]
    class_names: list[str]
    source: str
    """SHA-256 of the checkpoint's weights."""
    chosen_by: str
    """Metric and split that selected the checkpoint."""
    key: str
    device: str
    """Device it was built for; some engines run only there."""
    versions: dict[str, str]
    parity: dict[str, Any] = field(default_factory=dict)
    partition: dict[str, Any] = field(default_factory=dict)
    build: dict[str, float] = field(default_factory=dict)
    """Build time in seconds, and peak memory in MiB."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file of the artifact."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Validate the types, because the file may hold anything."""
        tables = (self.clip, self.model, self.versions, self.parity, self.partition, self.build)
        if not all(isinstance(table, dict) for table in (*tables, self.files)):
            raise ValueError("a table was expected")
        if not isinstance(self.class_names, list):
            raise ValueError("class_names is not a list")
        strings = [self.backend, self.source, self.chosen_by, self.key, self.device]
        for names in (self.class_names, *self.versions.items(), *self.files.items()):
            strings += names
        if not all(isinstance(string, str) for string in strings):
            raise ValueError("a string was expected")
        if not isinstance(self.target.merged_tokens, float | int):
            raise ValueError("the share of merged tokens is not a number")
        if {self.asked, self.target.precision} - set(PRECISIONS):
            raise ValueError(f"the precision is not one of {', '.join(PRECISIONS)}")

    def write(self, folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the config of an artifact.

        Raises:
            CompileError: The folder is not an artifact, or its config is damaged or too old.
        """
        path = folder / CONFIG
        try:
            values = json.loads(path.read_text())
            if values["format"] != FORMAT:
                raise CompileError(
                    f"{folder} was written by another version of engine: compile it again."
                )
            target = _with_new_names(values["target"])
            target["batches"] = BatchRange(**_with_new_names(target["batches"]))
            target["fp32_layers"] = tuple(target["fp32_layers"])
            return cls(**{**values, "target": Target(**target)})
        except FileNotFoundError as error:
            raise CompileError(f"{folder} is not an artifact: it has no {CONFIG}.") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CompileError(f"{path} is damaged ({error}): compile it again.") from error


OLD_NAMES = {"kept": "fp32_layers", "least": "min", "best": "opt", "most": "max"}
"""Old key → new key, for artifacts of earlier versions."""


def _with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    return {OLD_NAMES.get(name, name): value for name, value in values.items()}
