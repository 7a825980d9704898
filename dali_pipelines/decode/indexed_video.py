"""An open video file with its packet index; packets are kept in memory or read again."""

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
"""Largest file in bytes whose packets are kept in memory, so that it is read only once."""
MAX_REMEMBERED = 6_000_000
"""Largest number of pictures in all cached indices: about 256 MB."""
FILE_SIZE = 1000
"""Overhead of a cached file, counted as pictures; limits the number of short files."""


@dataclass(frozen=True, kw_only=True)
class FileScan:
    """Result of reading all packets of a file."""

    index: PacketIndex | None
    """None if the display order can't be determined without decoding."""
    is_packed: bool
    """Whether it is a packed bitstream: some packets hold two pictures."""
    is_whole: bool
    """Whether the file could be read to its end."""


class IndexedVideo:
    """An open video file and its packet index; see open_indexed."""

    def __init__(
        self,
        path: Path,
        container: InputContainer,
        stream: VideoStream,
        scan: FileScan,
        kept: list[av.Packet] | None,
    ) -> None:
        self.path = path
        self.container, self.stream = container, stream
        self.index = scan.index
        self.is_packed, self.is_whole = scan.is_packed, scan.is_whole
        self._are_stored = stream.codec_context.name != "mpeg4"
        """Whether the kept packets equal those in the file."""
        self._kept = kept

    def run(self, run: Run) -> Iterator[av.Packet]:
        """Yield the pictures of a run, with their positions as timestamps.

        Stops early if the file no longer matches the index.
        """
        packets = self._kept[run.start : run.stop] if self._kept is not None else self._seek(run)
        return self._stamped(packets, run.start)

    def all(self) -> Iterator[av.Packet]:
        """Yield all pictures, with their positions as timestamps."""
        if self._kept is not None:
            return self._stamped(self._kept, 0)
        self.container.seek(0)
        return self._stamped(PictureReader(self.container, self.stream), 0)

    @contextmanager
    def packets(self) -> Iterator[tuple[VideoCodecContext, Iterable[av.Packet | None]]]:
        """Return a new decoder and all original packets of the file."""
        if self._kept is not None and self.index is None and self._are_stored:
            yield self.stream.codec_context, [*self._kept, None]
            return
        with open_video(self.path) as (container, stream):
            yield stream.codec_context, demux(container, stream)

    def _seek(self, run: Run) -> Iterator[av.Packet]:
        """Read the pictures of a run; stops early if the file doesn't match the index."""
        index = self.index
        assert index is not None
        seek_point = index.seek_points[int(index.keyframes.searchsorted(run.start))]
        # dts is the earlier one; seeking to a later time would miss the keyframe.
        stamp = seek_point.pts if seek_point.dts is None else seek_point.dts

        if stamp is None:
            return
        self.container.seek(stamp, stream=self.stream)
        position = run.start
        for packet in PictureReader(self.container, self.stream):
            matches = packet.size == index.sizes[position]
            if position == run.start:
                matches = matches and seek_point.matches(packet)
            elif not matches:
                return
            if matches:
                yield packet
                position += 1
                if position == run.stop:
                    return

    def _stamped(self, packets: Iterable[av.Packet], first: int) -> Iterator[av.Packet]:
        """Replace the timestamps by positions, which the decoder passes on to the frames.

        FFmpeg gives the last frame the timestamp of a not-coded picture after it, so a not-coded
        picture gets the timestamp of the reference frame before it.
        """
        kinds = self.index.kinds if self.index else ""
        for position, packet in enumerate(packets, first):
            stamp = position
            if kinds[position : position + 1] == "N":
                stamp = max(first, *(kinds.rfind(kind, first, position) for kind in "IPS"))
            packet.pts = packet.dts = stamp
            yield packet


@contextmanager
def open_indexed(path: Path, opened: IndexedVideo | None = None) -> Iterator[IndexedVideo]:
    """Open a video file and index its packets; the indices of large files are cached.

    Args:
        path: The video file.
        opened: The same file, if the caller has opened it already: it is yielded, and stays open.

    Raises:
        VideoError: The file can't be read.
    """
    if opened is not None:
        yield opened
        return
    with open_video(path) as (container, stream):
        kept: list[av.Packet] | None = [] if path.stat().st_size <= KEEP_BELOW else None
        scan = _long_files.get(path) if kept is None else None
        if scan is None:
            reader = PictureReader(container, stream)
            index = PacketIndex.of(reader, keep=kept)
            scan = FileScan(index=index, is_packed=reader.is_packed, is_whole=reader.is_whole)
            if kept is None:
                _long_files.put(path, scan)
        yield IndexedVideo(path, container, stream, scan, kept)


class IndexMemory:
    """Cache of the scans of large files, so that a file is not scanned again for every sample."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[Path, int, int], FileScan] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def get(self, path: Path) -> FileScan | None:
        with self._lock:
            key = _key(path)
            if key in self._files:
                self._files.move_to_end(key)
            return self._files.get(key)

    def put(self, path: Path, scan: FileScan) -> None:
        with self._lock:
            key = _key(path)
            if key in self._files:
                self._size -= _size(self._files.pop(key))
            self._files[key] = scan
            self._size += _size(scan)
            while self._size > MAX_REMEMBERED:
                _, oldest = self._files.popitem(last=False)
                self._size -= _size(oldest)


def _size(scan: FileScan) -> int:
    return FILE_SIZE + (len(scan.index.numbers) if scan.index else 0)


def _key(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


_long_files = IndexMemory()
