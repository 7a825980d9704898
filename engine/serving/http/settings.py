"""Settings of the server."""

from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    models: dict[str, Path]
    """Names, and runs or artifacts. The first one is the default."""
    device: str = "auto"
    roots: tuple[Path, ...] = ()
    """Folders whose files a request may name by `path`."""
    hosts: tuple[str, ...] = ()
    """Hosts, as HOST or HOST:PORT, from which a request may name a file by `url`."""
    api_key: str = ""
    """What requests have to send in the header `Authorization: Bearer KEY`; empty for no check."""
    max_batch: int = 8
    max_wait_ms: float = 50.0
    """How long the first clip of a batch waits for others, while others are being decoded."""
    queue: int = 64
    """Requests that are decoded or wait; further ones are refused with status 429."""
    timeout_s: float = 60.0
    """For a whole request, with its upload. For windows: from one window to the next."""
    max_upload_mb: float = 200.0
    max_duration_s: float = 3600.0
    """Longest video."""
    reload_s: float = 2.0
    """Seconds between two looks at the models' folders."""

    def __post_init__(self) -> None:
        if not self.models:
            raise UserError("name at least one run or artifact.")
        for name in ("max_batch", "queue", "timeout_s", "max_upload_mb", "max_duration_s"):
            if getattr(self, name) <= 0:
                raise UserError(f"`{name}` must be above 0, not {getattr(self, name)}.")
        if self.max_wait_ms < 0:
            raise UserError(f"`max_wait_ms` must be at least 0, not {self.max_wait_ms}.")
        for root in self.roots:
            if not root.is_dir():
                raise UserError(f"{root} is not a folder: `allow_folder` takes folders of videos.")
