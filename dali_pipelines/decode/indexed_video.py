"""An open video with its index: the pictures that a run of it needs, from memory or read again."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import av
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from dali_pipelines.decode.coded_pictures import PictureReader
from dali_pipelines.decode.packet_index import PacketIndex, Run
from dali_pipelines.decode.video_stream import demux, open_video

KEEP_BELOW = 16 * 2**20
"""Bytes up to which a file's packets are held in memory, so that it is read once."""
MAX_REMEMBERED = 6_000_000
"""Pictures in the indices that are kept for long files, over all files: about 256 MB."""
FILE_SIZE = 1000
"""What a file counts beside its pictures, so that millions of short ones aren't kept."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a walk over all of a file's packets found."""

    index: PacketIndex | None
    """None where the order of its frames can't be known without decoding them."""
    is_packed: bool
    """Whether it is a packed bitstream: some packets hold two pictures."""
    is_whole: bool
    """Whether it could be read to its end."""


class IndexedVideo:
    def __init__(
        self,
        path: Path,
        container: InputContainer,
        stream: VideoStream,
        known: Known,
        kept: list[av.Packet] | None,
    ) -> None:
        self.path = path
        self.container, self.stream = container, stream
        self.index = known.index
        self.is_packed, self.is_whole = known.is_packed, known.is_whole
        self._are_stored = stream.codec_context.name != "mpeg4"
        """Whether what is kept are the packets as they are stored."""
        self._kept = kept

    def run(self, run: Run) -> Iterator[av.Packet]:
        """Its pictures, stamped with their positions; fewer where they are not found again."""
        found = self._kept[run.start : run.stop] if self._kept is not None else self._seek(run)
        return self._stamped(found, run.start)

    def all(self) -> Iterator[av.Packet]:
        """Every picture from the first one on, stamped with its position."""
        if self._kept is not None:
            return self._stamped(self._kept, 0)
        self.container.seek(0)
        return self._stamped(PictureReader(self.container, self.stream), 0)

    @contextmanager
    def packets(self) -> Iterator[tuple[VideoCodecContext, Iterable[av.Packet | None]]]:
        """A fresh decoder, and the file's own packets from the first one on."""
        if self._kept is not None and self.index is None and self._are_stored:
            yield self.stream.codec_context, [*self._kept, None]
            return
        with open_video(self.path) as (container, stream):
            yield stream.codec_context, demux(container, stream)

    def _seek(self, run: Run) -> Iterator[av.Packet]:
        """Ends early where what is read isn't what the index knows."""
        index = self.index
        assert index is not None
        mark = index.marks[int(index.keyframes.searchsorted(run.start))]
        stamp = mark.pts if mark.dts is None else mark.dts  # the earlier one: behind is too late
        if stamp is None:
            return
        self.container.seek(stamp, stream=self.stream)
        position = run.start
        for packet in PictureReader(self.container, self.stream):
            fits = packet.size == index.sizes[position]
            if position == run.start:
                fits = fits and mark.fits(packet)
            elif not fits:
                return
            if fits:
                yield packet
                position += 1
                if position == run.stop:
                    return

    def _stamped(self, packets: Iterable[av.Packet], first: int) -> Iterator[av.Packet]:
        """A frame comes out of the decoder with its packet's stamp, whatever the file says.

        At the end, FFmpeg shows the last frame with the stamp of a picture behind it that isn't
        coded; so that one is stamped as the last frame is.
        """
        kinds = self.index.kinds if self.index else ""
        for position, packet in enumerate(packets, first):
            stamp = position
            if kinds[position : position + 1] == "N":
                stamp = max(first, *(kinds.rfind(kind, first, position) for kind in "IPS"))
            packet.pts = packet.dts = stamp
            yield packet


@contextmanager
def open_indexed(path: Path) -> Iterator[IndexedVideo]:
    with open_video(path) as (container, stream):
        kept: list[av.Packet] | None = [] if path.stat().st_size <= KEEP_BELOW else None
        known = _long_files.get(path) if kept is None else None
        if known is None:
            reader = PictureReader(container, stream)
            index = PacketIndex.of(reader, keep=kept)
            known = Known(index=index, is_packed=reader.is_packed, is_whole=reader.is_whole)
            if kept is None:
                _long_files.put(path, known)
        yield IndexedVideo(path, container, stream, known, kept)


class IndexMemory:
    """What is known of long files, so that each is walked through once and not for every sample."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[Path, int, int], Known] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def get(self, path: Path) -> Known | None:
        with self._lock:
            key = _key(path)
            if key in self._files:
                self._files.move_to_end(key)
            return self._files.get(key)

    def put(self, path: Path, known: Known) -> None:
        with self._lock:
            key = _key(path)
            if key in self._files:
                self._size -= _size(self._files.pop(key))
            self._files[key] = known
            self._size += _size(known)
            while self._size > MAX_REMEMBERED:
                _, oldest = self._files.popitem(last=False)
                self._size -= _size(oldest)


def _size(known: Known) -> int:
    return FILE_SIZE + (len(known.index.numbers) if known.index else 0)


def _key(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


_long_files = IndexMemory()
