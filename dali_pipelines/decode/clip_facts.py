"""What is known of a clip on disk: the facts a probe finds, and the health a full decode finds."""

from dataclasses import dataclass
from typing import Literal

TOLERATED_LOSS = 0.05
"""Share of a clip's frames that may be missing or damaged before the clip counts as bad."""


MAX_PIXELS = 16384 * 8192
"""Of a picture: what is larger is a damaged or malicious header, and would cost gigabytes."""


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    codec: str
    pixel_format: str
    width: int
    """As displayed: rotation is applied."""
    height: int
    rotation: int
    """Degrees, counter-clockwise, by which decoded frames must be turned for display."""
    bt601: bool
    """Whether its colors are coded by BT.601's matrix, as they are where a file states none."""
    fps: float
    """0 where the clip doesn't say (extracted frames)."""
    variable_rate: bool
    frames_claimed: int
    """What the container's header says; 0 where it says nothing."""
    frames: int
    """Frames that the file shows; from `check`, the frames that really decode."""
    gop: int
    """Most frames from one keyframe to the next."""
    is_packed: bool = False
    """A packed bitstream, as DivX and Xvid write it: packets are not frames. It is no damage."""
    num_streams: int = 1
    """Of video, of which the first is read."""

    def notes(self) -> list[str]:
        """What is unusual and no fault."""
        notes = []
        if self.is_packed:
            notes.append("packed bitstream")
        if self.num_streams > 1:
            notes.append(f"the first of {self.num_streams} videos is read")
        return notes


@dataclass(frozen=True, kw_only=True)
class ClipHealth:
    status: Literal["ok", "bad"]
    reason: str
    facts: ClipFacts | None
    """None where the clip can't be opened at all."""
    loaders: tuple[str, ...] = ()
    """Which of dali-gpu, dali-cpu and torch can read it."""


NVDEC_CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mjpeg"})
"""What `fn.decoders.video` documents for a GPU; what a card really opens, `engine info` tries."""


def judge(facts: ClipFacts, *, expected: int, damaged: int) -> ClipHealth:
    """`expected` frames should have decoded, `facts.frames` did, `damaged` of those with errors."""
    missing = max(0, expected - facts.frames)
    reasons = []
    if facts.frames == 0:
        reasons.append("no frame of it decodes")
    elif is_too_many(missing, expected):
        reasons.append(f"cut short: {facts.frames} of {expected} frames are there")
    if damaged and is_too_many(damaged + missing, expected):
        reasons.append(f"damaged: {damaged} frames of {expected} don't decode cleanly")
    if reasons:
        return ClipHealth(status="bad", reason="; ".join(reasons), facts=facts)
    return ClipHealth(status="ok", reason="", facts=facts, loaders=loaders_of(facts))


def is_too_many(lost: int, frames: int) -> bool:
    """Whether so many lost of so many frames make a clip bad."""
    return lost > max(1, int(frames * TOLERATED_LOSS))


def loaders_of(facts: ClipFacts) -> tuple[str, ...]:
    """On a CPU PyAV decodes for both loaders."""
    images = facts.codec in ("jpeg", "png")
    on_gpu = images or (facts.codec in NVDEC_CODECS and suits_dali(facts))
    return ("dali-gpu", "dali-cpu", "torch") if on_gpu else ("dali-cpu", "torch")


def suits_dali(facts: ClipFacts) -> bool:
    """Whether DALI's video decoder would give the right picture, if it has the codec.

    It takes 4:2:0 alone, turns nothing, and knows no matrix but BT.601's.
    """
    is_420 = "420" in facts.pixel_format or facts.pixel_format in ("nv12", "p010le")
    return is_420 and facts.rotation == 0 and facts.bt601
