"""Latency, cameras per core and memory of `engine watch`, on streams at their own pace.

Run `python -m benchmarks.scripts.watch --artifact ARTIFACT`. Cameras are HTTP connections of this
machine that send H.264 without B-frames as MPEG-TS, each packet when it is due, at 25 frames per
second. The command runs as a whole in its own process, with windows of 2 s every second. Select
parts with `--only`:

latency: seconds from sending the last frame of a window to reading its line, for one camera. The
window is closed by the next frame, which comes 0.04 s later.
cameras: processor time of the command per second of one camera, measured with some cameras at once;
`cameras_per_core` is the inverse. Then the command is pinned to one core with four fifths as many
cameras, and `dropped` counts the windows that it drops of `windows`.
soak: memory over time, with one camera at five frames per second.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.machine import command_line, fingerprint, result_file
from benchmarks.scripts.training import RESULTS
from benchmarks.worker import memory_mib

PARTS = ("latency", "cameras", "soak")
SIZES = ((320, 240), (1280, 720))
WINDOW_S, STRIDE_S = 2.0, 1.0
FPS, SOAK_FPS = 25, 5
FILM_S = 8
WARM_UP_LINES = 3
BITS_PER_PIXEL = 0.1
"""About what network cameras send."""
POINTS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=30, help="of latency and of cameras")
    parser.add_argument("--cameras", type=int, default=4, help="cameras at once")
    parser.add_argument("--soak-seconds", type=float, default=600)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = result_file(options.out, "watch", facts)
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= {"command": command_line("benchmarks.scripts.watch"), **facts}
    result["protocol"] = " ".join((__doc__ or "").split())
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as temporary:
        folder = Path(temporary)
        for part in options.only:
            if part == "soak":
                film = write_film(folder / "soak.ts", SIZES[0], SOAK_FPS)
                measured: Any = soak(options.artifact, film, options.soak_seconds)
                print(json.dumps(measured), flush=True)
            else:
                measured = []
                for size in SIZES:
                    film = write_film(folder / f"{size[0]}.ts", size, FPS)
                    if part == "latency":
                        row = latency(options.artifact, film, options.seconds)
                    else:
                        row = cameras(options.artifact, film, options.cameras, options.seconds)
                    measured.append({"size": f"{size[0]}×{size[1]}", **row})
                    print(json.dumps(measured[-1]), flush=True)
            result[part] = measured
            path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def write_film(path: Path, size: tuple[int, int], fps: int) -> Path:
    """Write some seconds of moving waves under noise."""
    width, height = size
    rng = np.random.default_rng(0)
    x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    with av.open(str(path), "w") as container:
        encoder: Any = container.add_stream("libx264", rate=fps, options={"preset": "veryfast"})
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.codec_context.max_b_frames, encoder.codec_context.gop_size = 0, 2 * fps
        encoder.bit_rate = int(BITS_PER_PIXEL * width * height * fps)
        for number in range(FILM_S * fps):
            phase = number / fps * 3 + np.array([0, 1, 2])
            waves = np.sin(x / 37 + phase) * np.cos(y / 29 - phase)
            noise = rng.integers(-6, 7, (height, width, 1))
            pixels = np.clip(128 + 80 * waves + noise, 0, 255).astype(np.uint8)
            container.mux(encoder.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(encoder.encode(None))
    return path


class Cameras:
    """Serves a film again and again to any number of connections, each packet when it is due."""

    def __init__(self, film: Path) -> None:
        self.sent: dict[str, list[float]] = {}
        """Path of a connection → when each of its frames was sent."""
        with av.open(str(film)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            self.fps = float(stream.average_rate or FPS)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "video/mp2t")
                self.end_headers()
                try:
                    owner._send(self.path, self.wfile, film, len(packets))
                except (OSError, av.FFmpegError):  # the command was stopped
                    return

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def urls(self, count: int) -> list[str]:
        port = self._server.server_address[1]
        return [f"http://127.0.0.1:{port}/{number}" for number in range(count)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _send(self, path: str, out: Any, film: Path, num_frames: int) -> None:
        sent = self.sent[path] = []
        started = time.monotonic()
        with av.open(out, "w", format="mpegts", options={"flush_packets": "1"}) as target:
            copy: Any = None
            number = 0
            while True:
                with av.open(str(film)) as source:
                    stream = source.streams.video[0]
                    copy = copy or target.add_stream_from_template(stream)
                    for packet in source.demux(stream):
                        if not packet.size or stream.time_base is None:
                            continue
                        due_s = number / self.fps
                        packet.pts = packet.dts = round(due_s / stream.time_base)
                        packet.stream = copy
                        time.sleep(max(0.0, started + due_s - time.monotonic()))
                        target.mux(packet)
                        sent.append(time.time())
                        number += 1


@contextmanager
def watching(artifact: Path, urls: list[str], *before: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the command; it is stopped at the end."""
    command = [*before, sys.executable, "-m", "engine", "watch", *urls, "--model", str(artifact)]
    command += ["--window", str(WINDOW_S), "--stride", str(STRIDE_S)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def summary_of(process: "subprocess.Popen[str]") -> dict[str, int]:
    """Stop the command, and return the counts that it reports."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    found = re.search(r"([\d,]+) windows labelled, ([\d,]+) dropped", errors)
    assert found, errors
    windows, dropped = (int(number.replace(",", "")) for number in found.groups())
    return {"windows": windows, "dropped": dropped}


def lines_of(process: "subprocess.Popen[str]", seconds: float) -> Iterator[tuple[float, Any]]:
    """Lines of the command and when they were read, for some time after the first ones."""
    assert process.stdout is not None
    ends_at = float("inf")
    for number, text in enumerate(process.stdout):
        if number == WARM_UP_LINES:
            ends_at = time.monotonic() + seconds
        if number >= WARM_UP_LINES:
            yield time.time(), json.loads(text)
        if time.monotonic() > ends_at:
            return


def latency(artifact: Path, film: Path, seconds: float) -> dict[str, Any]:
    server = Cameras(film)
    delays, total = [], []
    (url,) = server.urls(1)
    with watching(artifact, [url]) as process:
        for read_at, line in lines_of(process, seconds):
            (sent,) = server.sent.values()
            last = round(line["end"] * server.fps) - 1
            total.append(read_at - sent[last])
            delays.append(line["delay"])
        counts = summary_of(process)
    server.close()
    return {
        "seconds_to_line": _spread(total),
        "delay_of_line": _spread(delays),
        **counts,
    }


def cameras(artifact: Path, film: Path, count: int, seconds: float) -> dict[str, Any]:
    server = Cameras(film)
    with watching(artifact, server.urls(count)) as process:
        lines = lines_of(process, seconds)
        next(lines)
        started, before_s = time.monotonic(), _processor_s(process.pid)
        for _ in lines:
            pass
        passed_s, used_s = time.monotonic() - started, _processor_s(process.pid) - before_s
        counts = summary_of(process)
    server.close()
    per_camera = used_s / passed_s / count
    measured = {
        "cameras": count,
        "processor_s_per_camera_s": round(per_camera, 3),
        "cameras_per_core": round(1 / per_camera, 1),
        **counts,
    }
    on_one_core = max(1, int(0.8 / per_camera))
    server = Cameras(film)
    with watching(artifact, server.urls(on_one_core), "taskset", "-c", "0") as process:
        for _ in lines_of(process, seconds):
            pass
        counts = summary_of(process)
    server.close()
    return {**measured, "on_one_core": {"cameras": on_one_core, **counts}}


def soak(artifact: Path, film: Path, seconds: float) -> dict[str, Any]:
    server = Cameras(film)
    curve: list[tuple[float, float]] = []
    with watching(artifact, server.urls(1)) as process:
        for number, (_, _line) in enumerate(lines_of(process, seconds)):
            curve.append((number * STRIDE_S, memory_mib(process.pid)))
        counts = summary_of(process)
    server.close()
    half, step = len(curve) // 2, max(1, len(curve) // POINTS)
    return {
        "seconds": round(curve[-1][0]),
        "fps": SOAK_FPS,
        "peak_of_first_half_mib": round(max(mib for _, mib in curve[:half])),
        "peak_of_second_half_mib": round(max(mib for _, mib in curve[half:])),
        "curve_s_mib": [(at, round(mib)) for at, mib in curve[::step]],
        **counts,
    }


def _processor_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "p95": round(float(np.percentile(values, 95)), 3),
        "max": round(max(values), 3),
    }


if __name__ == "__main__":
    main()
