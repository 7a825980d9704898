"""Which video files DALI's decoder reads: by codec, by facts of the file, by what it rejected."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Self

from dali_pipelines.decode import video_file
from dali_pipelines.decode.clip_facts import NVDEC_CODECS, ClipFacts, suits_dali

DALI_ON_CPU = frozenset({"vp8", "vp9", "mjpeg"})
MAX_REFUSED = 2
"""Files of a kind that DALI may reject: after each, its pipeline is built anew. From then on, PyAV
decodes all files of this kind."""
SIZE_STEP = 512


class VideoKind(NamedTuple):
    """What decides whether a GPU can decode a video, and how fast."""

    codec: str
    pixel_format: str
    size: int
    """Longer side, in steps of SIZE_STEP pixels."""

    @classmethod
    def of(cls, facts: ClipFacts) -> Self:
        return cls(facts.codec, facts.pixel_format, max(facts.width, facts.height) // SIZE_STEP)

    def __str__(self) -> str:
        return f"{self.codec} {self.pixel_format} below {(self.size + 1) * SIZE_STEP}"


class VideoChoice:
    """Chooses files for DALI's video decoder.

    Args:
        for_gpu: Whether it decodes on a GPU.
        kinds: The only kinds to choose, as strings; None chooses all that it can decode.
    """

    def __init__(self, *, for_gpu: bool, kinds: Collection[str] | None = None) -> None:
        self._codecs = NVDEC_CODECS if for_gpu else DALI_ON_CPU
        self._only = kinds
        self._kinds: dict[Path, VideoKind | None] = {}
        """Of each file; None if DALI's video decoder doesn't decode it."""
        self._refused: Counter[VideoKind] = Counter()

    def takes(self, path: Path, codec: str | None = None) -> bool:
        """Whether DALI decodes the file.

        Args:
            path: The file; it is probed when it is asked for the first time.
            codec: Its codec, if it is known.

        Raises:
            VideoError: The file can't be read.
        """
        if codec is not None and codec not in self._codecs:
            return False
        kind = self.kind_of(path, codec)
        return kind is not None and self._refused[kind] < MAX_REFUSED

    def kind_of(self, path: Path, codec: str | None = None) -> VideoKind | None:
        """The kind of a file; None if DALI doesn't decode it, or isn't to.

        Args:
            path: The file.
            codec: Its codec, if it is known; otherwise it is checked, too.

        Raises:
            VideoError: The file can't be read.
        """
        if path not in self._kinds:
            self._kinds[path] = self._probe(path, is_known=codec is not None)
        return self._kinds[path]

    def refuse(self, path: Path) -> None:
        """DALI has rejected the file."""
        if (kind := self._kinds.get(path)) is not None:
            self._refused[kind] += 1
        self.leave_out(path)

    def leave_out(self, path: Path) -> None:
        """PyAV is to decode the file."""
        self._kinds[path] = None

    def _probe(self, path: Path, *, is_known: bool) -> VideoKind | None:
        facts = video_file.probe(path)
        if not suits_dali(facts) or not (is_known or facts.codec in self._codecs):
            return None
        kind = VideoKind.of(facts)
        return kind if self._only is None or str(kind) in self._only else None
