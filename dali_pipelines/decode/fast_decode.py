"""Faster decoding of the same frames, with slightly different pixels.

h264: the deblocking filter runs on keyframes only.
mjpeg: frames are decoded at a half, a quarter or an eighth of their size, if that isn't smaller
than the target.

All other codecs are decoded exactly. In MPEG-4, FFmpeg also offers reduced sizes, but then it
doesn't report damaged frames, and half the size takes longer than the full size. See
benchmarks/README.md.
"""

from typing import NamedTuple, Self

from av.video.codeccontext import VideoCodecContext

from dali_pipelines.spec import ClipSpec, FastCodec

MAX_HALVINGS = 3
"""Of FFmpeg's MJPEG decoder."""


class FastDecode(NamedTuple):
    """Which codecs to decode fast, for which target size."""

    codecs: tuple[FastCodec, ...]
    short: int
    """Short side to which the frames will be resized."""

    @classmethod
    def of(cls, spec: ClipSpec) -> Self | None:
        """None if all files are to be decoded exactly."""
        return cls(spec.fast_decode, spec.resize) if spec.fast_decode else None

    def set_up(self, context: VideoCodecContext) -> "Reduction | None":
        """Set the options of a decoder that hasn't decoded anything yet.

        Returns:
            The sizes of its frames, if they come at a reduced size.
        """
        if context.name not in self.codecs:
            return None
        if context.name == "h264":
            context.options = {**context.options, "skip_loop_filter": "nokey"}
            return None
        width, height = context.width, context.height
        halvings = num_halvings(width, height, self.short)
        if not halvings:
            return None
        context.options = {**context.options, "lowres": str(halvings)}
        return Reduction((width, height), (-(-width >> halvings), -(-height >> halvings)))


class Reduction(NamedTuple):
    """Sizes (width, height) of the frames of a file."""

    full: tuple[int, int]
    reduced: tuple[int, int]


class UnexpectedSize(Exception):
    """A frame doesn't have the reduced size that follows from the file's header."""


def num_halvings(width: int, height: int, short: int) -> int:
    """How often the size can be halved with the short side staying at least `short`."""
    return max(n for n in range(MAX_HALVINGS + 1) if n == 0 or min(width, height) >= short << n)
