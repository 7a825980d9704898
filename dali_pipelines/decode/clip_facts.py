"""Metadata of a clip from a probe (ClipFacts), and the result of a full decode (ClipHealth)."""

from dataclasses import dataclass
from typing import Literal

TOLERATED_LOSS = 0.05
"""Share of a clip's frames that may be missing or damaged before the clip counts as bad."""


MAX_PIXELS = 16384 * 8192
"""Largest frame that is decoded: more comes from a damaged or malicious header."""


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """Metadata of a clip."""

    codec: str
    pixel_format: str
    width: int
    """Width as displayed, after rotation."""
    height: int
    rotation: int
    """Counter-clockwise rotation of decoded frames for display, in degrees."""
    bt601: bool
    """Whether the colors use the BT.601 matrix, the default for files that name none."""
    fps: float
    """Frame rate; 0 if unknown (extracted frames)."""
    variable_rate: bool
    frames_claimed: int
    """Frame count in the container's header; 0 if missing."""
    frames: int
    """Displayed frames; from `check`, the frames that decode."""
    gop: int
    """Largest distance between keyframes, in frames."""
    is_packed: bool = False
    """Whether it is a packed bitstream of DivX or Xvid, whose packets are not frames. Not an error.
    """
    num_streams: int = 1
    """Number of video streams; the first one is read."""

    def notes(self) -> list[str]:
        """Unusual properties that are not errors."""
        notes = []
        if self.is_packed:
            notes.append("packed bitstream")
        if self.num_streams > 1:
            notes.append(f"the first of {self.num_streams} videos is read")
        return notes


@dataclass(frozen=True, kw_only=True)
class ClipHealth:
    """Result of decoding a whole clip."""

    status: Literal["ok", "bad"]
    reason: str
    facts: ClipFacts | None
    """None if the clip can't be opened."""
    loaders: tuple[str, ...] = ()
    """Loaders that can read it: any of dali-gpu, dali-cpu and torch."""


NVDEC_CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "mpeg4"})
"""Codecs that `fn.decoders.video` decodes on a GPU, if the GPU does; `engine info` tests that."""


def judge(facts: ClipFacts, *, expected: int, damaged: int) -> ClipHealth:
    """Decide whether a clip is good enough for training.

    Args:
        facts: Metadata, with `frames` the number of frames that decoded.
        expected: Number of frames that should decode.
        damaged: Number of decoded frames with errors.
    """
    missing = max(0, expected - facts.frames)
    reasons = []
    if facts.frames == 0:
        reasons.append("no frame decodes")
    elif is_too_many(missing, expected):
        reasons.append(f"cut short: {facts.frames} of {expected} frames are there")
    if damaged and is_too_many(damaged + missing, expected):
        reasons.append(f"damaged: {damaged} frames of {expected} don't decode cleanly")
    if reasons:
        return ClipHealth(status="bad", reason="; ".join(reasons), facts=facts)
    return ClipHealth(status="ok", reason="", facts=facts, loaders=loaders_of(facts))


def is_too_many(lost: int, frames: int) -> bool:
    """Whether a clip of `frames` frames counts as bad when `lost` of them are lost."""
    return lost > max(1, int(frames * TOLERATED_LOSS))


def loaders_of(facts: ClipFacts) -> tuple[str, ...]:
    """Loaders that can read the clip. On a CPU both loaders decode with PyAV."""
    images = facts.codec in ("jpeg", "png")
    on_gpu = images or (facts.codec in NVDEC_CODECS and suits_dali(facts))
    return ("dali-gpu", "dali-cpu", "torch") if on_gpu else ("dali-cpu", "torch")


def suits_dali(facts: ClipFacts) -> bool:
    """Whether DALI's video decoder would decode the frames correctly, if it has the codec.

    It supports only 4:2:0, ignores rotation, and always uses the BT.601 matrix.
    """
    is_420 = "420" in facts.pixel_format or facts.pixel_format in ("nv12", "p010le")
    return is_420 and facts.rotation == 0 and facts.bt601
