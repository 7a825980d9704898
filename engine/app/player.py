"""What the player gets of a video, and what the page says about it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.app import browser_video

MB = 2**20


@dataclass(frozen=True, kw_only=True)
class Playable:
    data: bytes
    mime: str
    note: str = ""


def playable(
    path: Path, size: int, *, most_mb: int, log: Callable[[float], None] = lambda second: None
) -> Playable:
    """The file itself where browsers play it and it isn't larger than uploads may be."""
    mime = browser_video.mime_of(path)
    if mime is not None and size <= most_mb * MB:
        return Playable(data=path.read_bytes(), mime=mime)
    converted = browser_video.convert(path, log=log)
    why = "browsers don't play this kind of file" if mime is None else "the file is large"
    note = f"Shown small and without sound, since {why}."
    if not converted.is_whole:
        note += f" The player has the first {converted.seconds / 60:.0f} minutes alone."
    return Playable(data=converted.data, mime="video/mp4", note=note)
