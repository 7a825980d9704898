"""What is asked of a compiler, and the `config.json` that an artifact carries."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from trt.errors import CompileError

Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Bond = Literal["device", "versions"]
"""What an artifact may be bound to: the device that it was built on, and its libraries."""
FORMAT = 1
CONFIG = "config.json"
PROGRAM = "program.pt2"
"""The exported program in an artifact, from which an engine for another machine is built."""
INSTEAD: dict[Precision, tuple[Precision, ...]] = {
    "fp8": ("bf16", "fp16", "fp32"),
    "int8": ("bf16", "fp16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "bf16": ("fp32",),
    "tf32": ("fp32",),
}
"""What runs where a device doesn't execute a precision: never a less exact one."""


def nearest(asked: Precision, known: set[Precision], where: str) -> tuple[Precision, str]:
    """The precision that runs, and in words why it isn't the one that was asked for."""
    for precision in (asked, *INSTEAD.get(asked, ())):
        if precision in known:
            reason = "" if precision == asked else f"{where} doesn't compute in {asked}"
            return precision, reason
    raise AssertionError(f"{where} has no fp32")


@dataclass(frozen=True, kw_only=True)
class BatchRange:
    """The sizes that an artifact is made for; others are padded or split when they come."""

    min: int = 1
    opt: int = 8
    """For which it is fastest."""
    max: int = 32

    def __post_init__(self) -> None:
        if not all(isinstance(size, int) for size in (self.min, self.opt, self.max)):
            raise ValueError("the sizes of batches must be whole numbers")
        if not 1 <= self.min <= self.opt <= self.max:
            raise CompileError(
                f"--batches {self.min},{self.opt},{self.max} must rise, and begin at 1 or more."
            )


@dataclass(frozen=True, kw_only=True)
class Target:
    precision: Precision = "fp32"
    """What runs; see Backend.resolve_precision for what was asked for and can't."""
    batches: BatchRange = field(default_factory=BatchRange)
    fp32_layers: tuple[str, ...] = ()
    """Modules of the model that stay in fp32, by name."""
    workspace_gb: float | None = None
    optimization_level: int | None = None


@dataclass(frozen=True, kw_only=True)
class ArtifactConfig:
    """The facts of an artifact. The model and the clip are plain values here: data, not objects."""

    backend: str
    asked: Precision
    """The precision that the user asked for; `target` says what runs."""
    target: Target
    clip: dict[str, Any]
    model: dict[str, Any]
    class_names: list[str]
    source: str
    """SHA-256 of the checkpoint's weights."""
    chosen_by: str
    """Which figure of which part chose that checkpoint."""
    key: str
    device: str
    """What it was built for; an engine that is bound to it opens nowhere else."""
    versions: dict[str, str]
    parity: dict[str, Any] = field(default_factory=dict)
    partition: dict[str, Any] = field(default_factory=dict)
    build: dict[str, float] = field(default_factory=dict)
    """Seconds, and the peak of memory in MiB."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file of the artifact."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        """What is read from a file may be anything."""
        tables = (self.clip, self.model, self.versions, self.parity, self.partition, self.build)
        if not all(isinstance(each, dict) for each in (*tables, self.files)):
            raise ValueError("a table is none")
        if not isinstance(self.class_names, list):
            raise ValueError("class_names is no list")
        texts = [self.backend, self.source, self.chosen_by, self.key, self.device]
        for names in (self.class_names, *self.versions.items(), *self.files.items()):
            texts += names
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("a text is none")
        if {self.asked, self.target.precision} - set(PRECISIONS):
            raise ValueError(f"the precision is none of {', '.join(PRECISIONS)}")

    def write(self, folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        path = folder / CONFIG
        try:
            values = json.loads(path.read_text())
            if values["format"] != FORMAT:
                raise CompileError(
                    f"{folder} was written by another version of engine: compile it anew."
                )
            target = _with_new_names(values["target"])
            target["batches"] = BatchRange(**_with_new_names(target["batches"]))
            target["fp32_layers"] = tuple(target["fp32_layers"])
            return cls(**{**values, "target": Target(**target)})
        except FileNotFoundError as error:
            raise CompileError(f"{folder} is no artifact: it holds no {CONFIG}.") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CompileError(f"{path} is damaged ({error}): compile it anew.") from error


OLD_NAMES = {"kept": "fp32_layers", "least": "min", "best": "opt", "most": "max"}
"""In artifacts from before these were renamed."""


def _with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    return {OLD_NAMES.get(name, name): value for name, value in values.items()}
