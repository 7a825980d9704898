"""Videos of every codec and of every oddity that decoding must get right, by name."""

from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import videos

UNEVEN = np.cumsum(np.random.default_rng(0).integers(5, 90, 60)).tolist()


def _gaps(folder: Path) -> Path:
    slots = [slot for slot in range(90) if slot % 3 and slot % 7]
    return videos.write_video(folder / "gaps.avi", frames=len(slots), slots=slots)


def _cut(folder: Path) -> Path:
    whole = videos.write_video(folder / "whole.mp4", codec="h264", frames=60, gop=25)
    return videos.cut_without_recoding(whole, folder / "cut.mp4", 17)


def _unpacked_with_gaps(folder: Path) -> Path:
    """N-VOPs between the frames, as Xvid writes where a frame is dropped."""
    packed = videos.write_packed(folder / "packed", frames=60)
    path = folder / "gaps.avi"
    with av.open(str(packed)) as source, av.open(str(path), "w") as output:
        stream: Any = source.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        time = 0
        for packet in source.demux(stream):
            for number in range(2 if 0 < packet.size < 19 else bool(packet.size)):
                single = av.Packet(bytes(packet))
                single.stream, single.time_base = copy, packet.time_base
                single.pts = single.dts = time
                single.is_keyframe = packet.is_keyframe and not number
                output.mux(single)
                time += 1
    return path


def _interlaced(folder: Path) -> Path:
    path = folder / "interlaced.mp4"
    with av.open(str(path), "w") as container:
        options = {"x264-params": "interlaced=1:log-level=none", "bf": "2"}
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        for index in range(60):
            frame = av.VideoFrame.from_ndarray(videos.numbered(index, 160, 128), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def _with_hidden_frames(folder: Path) -> Path:
    """libvpx codes frames that are only referred to; here a bit says so of two in sixty-two."""
    whole = videos.write_video(folder / "whole", codec="vp8", frames=62)
    path = folder / "hidden.webm"
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        copy: Any = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                data = bytearray(bytes(packet))
                data[0] &= 0xEF if number in (20, 41) else 0xFF
                hidden = av.Packet(bytes(data))
                hidden.stream, hidden.time_base = copy, packet.time_base
                hidden.pts, hidden.dts = packet.pts, packet.dts
                hidden.is_keyframe = packet.is_keyframe
                output.mux(hidden)
    return path


FILES: dict[str, Any] = {
    codec: lambda folder, codec=codec: videos.write_video(folder / "clip", codec=codec, frames=60)
    for codec in videos.CODECS
}
FILES["variable rate"] = lambda folder: videos.write_video(
    folder / "vfr.mp4", codec="h264", frames=60, pts=UNEVEN
)
FILES["no time stamps"] = lambda folder: videos.write_video(
    folder / "h264.avi", codec="h264", frames=60
)
FILES["time stamps that count packets"] = lambda folder: videos.remux(
    videos.write_video(folder / "h264.avi", codec="h264", frames=60), folder / "copy.mkv"
)
FILES["dropped frames"] = _gaps
FILES["edit list"] = _cut
FILES["packed, one B-frame in a row"] = lambda folder: videos.write_packed(
    folder / "packed", frames=60, references={20, 21, 33}
)
FILES["packed, two B-frames in a row"] = lambda folder: videos.write_packed(
    folder / "packed", frames=60, max_b_frames=2, gop=20, references={9}
)
FILES["packed, open GOPs"] = lambda folder: videos.write_packed(
    folder / "packed", frames=60, gop=12, closed_gop=False, size=(161, 97)
)
for suffix in (".mkv", ".mp4"):
    FILES[f"packed in {suffix}"] = lambda folder, suffix=suffix: videos.remux(
        videos.write_packed(folder / "packed", frames=60, gop=15), folder / f"copy{suffix}"
    )
FILES["packed, its last packet lost"] = lambda folder: videos.remux(
    videos.write_packed(folder / "packed", frames=61), folder / "copy.avi", without={61}
)
FILES["packed, title not in UTF-8"] = lambda folder: videos.write_packed(
    folder / "packed", frames=60, title="Película".encode("latin-1")
)
FILES["frames that are not coded"] = lambda folder: _unpacked_with_gaps(folder)
FILES["340 × 256"] = lambda folder: videos.write_video(
    folder / "kinetics.mp4", codec="h264", frames=60, size=(340, 256)
)
FILES["interlaced"] = lambda folder: _interlaced(folder)
FILES["hidden VP8 frames"] = lambda folder: _with_hidden_frames(folder)
FILES["turned"] = lambda folder: videos.turn_clockwise(
    videos.write_video(folder / "turned.mp4", codec="h264", frames=60)
)

ORDER_UNKNOWN = {"no time stamps", "time stamps that count packets"}

COLOR_MATRIX = {"601": (6, 0.299, 0.114), "709": (1, 0.2126, 0.0722)}
RGB = (200, 60, 90)


def write_color(path: Path, codec: str, matrix: str, full: bool) -> Path:
    """A video of one color, coded by a matrix and range that it states."""
    tag, red, blue = COLOR_MATRIX[matrix]
    encoder, suffix, pixel_format, options = videos.CODECS[codec]
    path = path.with_suffix(suffix)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 96, pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, 2 if full else 1
        for number in range(8):
            frame = av.VideoFrame(96, 96, "yuv420p")
            for plane, value in zip(frame.planes, _planes(RGB, red, blue, full), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.colorspace, frame.color_range = tag, 2 if full else 1
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


COLORS = list(product(["h264", "vp9"], COLOR_MATRIX, [True, False]))


def _planes(rgb: tuple[int, int, int], red: float, blue: float, full: bool) -> list[int]:
    """A color in Y'CbCr, by the definition of the matrices."""
    r, g, b = (value / 255 for value in rgb)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    if full:
        return [round(255 * y), round(255 * cb + 128), round(255 * cr + 128)]
    return [round(219 * y + 16), round(224 * cb + 128), round(224 * cr + 128)]
