"""The validated options of `engine label`."""

import math
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError, unknown_name

DECODERS = ("pyav", "nvdec", "auto")


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Options of the command line; raises UserError for values that make no sense."""

    videos: list[str]
    """A folder or an address; a list of paths and addresses; or results to merge."""
    model: Path | None
    out: Path
    format: str | None
    is_list: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    window_s: float | None
    stride_s: float | None
    segments: Path | None
    subtitles: Path | None
    smooth_s: float | None
    top_k: int
    min_confidence: float
    fresh: bool
    retry: bool
    mix: bool
    shard: str | None
    merge: bool
    cluster: bool
    workers: int | None
    watch: bool
    dry_run: bool
    batch_size: int
    timeout_s: float
    device: str
    decoder: str
    max_download_gb: float

    def __post_init__(self) -> None:
        for name, value in (("window", self.window_s), ("stride", self.stride_s)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"`{name}` takes seconds above 0, as in `{name}=2`, not {value:g}.")
        if self.smooth_s is not None and not 0 <= self.smooth_s < math.inf:
            raise UserError(f"`smooth` takes seconds from 0 up, not {self.smooth_s:g}.")
        if not 0 <= self.min_confidence <= 1:
            raise UserError(
                f"`min_confidence` takes a fraction from 0 to 1, not {self.min_confidence:g}."
            )
        if self.decoder not in DECODERS:
            raise unknown_name("decoder", self.decoder, list(DECODERS))
        if self.cluster and self.decoder == "auto":
            raise UserError("`decoder='auto'` measures one machine: name one with `cluster`.")
        if not 0 < self.max_download_gb < math.inf:
            raise UserError(
                f"`max_download` takes GB above 0, as in `max_download=20`, not "
                f"{self.max_download_gb:g}."
            )
        if not 1 <= self.timeout_s < math.inf:
            raise UserError(f"`timeout` takes seconds from 1 up, not {self.timeout_s:g}.")
