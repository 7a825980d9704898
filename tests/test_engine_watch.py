"""Live streams: the same labels as for files, whatever happens to the connection."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import torch
import videos
from streams import HttpServer, RtspServer, multipart, paced, pipe, stalled, whole

import engine
from engine.watching.watch import StreamPrediction, WatchTally, default_window_s
from engine.watching.watch import watch as watch_streams

TIMEOUT_S = 1.0
SIZE = (96, 72)
SMALLER = (64, 80)


@pytest.fixture(scope="module")
def model(run: Path) -> Any:
    return engine.load(run)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of H.264 with B-frames."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return make(path, "h264", SIZE, seconds=8, seed=1)


def make(path: Path, codec: str, size: tuple[int, int], *, seconds: int, seed: int) -> Path:
    draw = videos.noise(seed)
    return videos.write_video(path, codec=codec, frames=25 * seconds, fps=25, size=size, draw=draw)


def as_ts(path: Path) -> bytes:
    return videos.remux(path, path.with_suffix(".ts")).read_bytes()


def finished(path: Path) -> Path:
    """As if it was written long ago."""
    os.utime(path, (0, 0))
    return path


def facts(prediction: engine.Prediction) -> tuple[Any, ...]:
    return prediction.start_s, prediction.end_s, prediction.label, prediction.top


def expected(model: Any, path: Path, **windows: float) -> list[tuple[Any, ...]]:
    found = model.predict_windows(path, batch_size=1, **windows)
    return [facts(prediction) for prediction in found]


def until(predictions: Iterator[StreamPrediction], enough: Any) -> list[StreamPrediction]:
    found: list[StreamPrediction] = []
    for prediction in predictions:
        found.append(prediction)
        if enough(found):
            break
    predictions.close()  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("h264", ".ts"), ("h264", ".mkv"), ("hevc", ".ts"), ("mpeg2video", ".ts"), ("mpeg4", ".mkv"),
     ("vp9", ".mkv"), ("mjpeg", ".mkv"), ("h264", ".avi")],
)  # fmt: skip
def test_a_pipe_gets_the_labels_of_the_file(
    codec: str, suffix: str, model: Any, tmp_path: Path
) -> None:
    film = tmp_path / f"film{suffix}"
    if suffix == ".avi":
        make(film, codec, SIZE, seconds=5, seed=2)
    else:
        videos.remux(make(tmp_path / "source", codec, SIZE, seconds=5, seed=2), film)
    with pipe(tmp_path / "pipe", film.read_bytes()) as path:
        found = [facts(one) for one in model.watch(str(path), window_s=1.5, stride_s=0.6)]
    assert len(found) == 7
    assert found == expected(model, film, window_s=1.5, stride_s=0.6)
    assert len({str(one[3]) for one in found}) > 1


def test_a_short_pipe_is_one_window(model: Any, film: Path, tmp_path: Path) -> None:
    data = film.with_suffix(".ts")
    data.write_bytes(as_ts(film))
    with pipe(tmp_path / "pipe", data.read_bytes()) as path:
        (found,) = model.watch(str(path), window_s=20)
    assert facts(found) == expected(model, data, window_s=20)[0]


@pytest.mark.parametrize("stride", [0.04, 2.5])
def test_windows_may_overlap_much_or_not_at_all(
    stride: float, model: Any, film: Path, tmp_path: Path
) -> None:
    short = make(tmp_path / "short.mp4", "h264", SIZE, seconds=3, seed=4)
    source = short if stride < 1 else film
    data = as_ts(source)
    with pipe(tmp_path / "pipe", data) as path:
        found = [facts(one) for one in model.watch(str(path), window_s=1, stride_s=stride)]
    assert found == expected(model, source.with_suffix(".ts"), window_s=1, stride_s=stride)


@pytest.mark.parametrize("codec", ["mpeg4", "h264", "packed"])
def test_a_finished_file_gets_the_labels_of_the_file(
    codec: str, model: Any, tmp_path: Path
) -> None:
    if codec == "packed":
        path = videos.write_packed(tmp_path / "film", frames=60, draw=videos.noise(1))
    else:
        path = make(tmp_path / "film", codec, SIZE, seconds=3, seed=1)
    found = [facts(one) for one in model.watch(str(finished(path)), window_s=1)]
    assert found == expected(model, path, window_s=1, stride_s=0.5)


def test_a_growing_file_is_followed(model: Any, film: Path, tmp_path: Path) -> None:
    data, path = as_ts(film), tmp_path / "growing.ts"
    path.write_bytes(data[:20_000])
    arrived = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            for start in range(20_000, len(data), 10_000):
                arrived.wait(0.05)
                file.write(data[start : start + 10_000])

    writer = threading.Thread(target=grow)
    writer.start()
    found = [facts(one) for one in model.watch(str(path), window_s=2, timeout_s=TIMEOUT_S)]
    writer.join()
    assert found == expected(model, finished(path), window_s=2, stride_s=1)


def test_a_file_that_cannot_be_read_while_it_grows_is_read_when_it_is_finished(
    model: Any, film: Path, tmp_path: Path
) -> None:
    path = tmp_path / "new.mp4"  # its index is at its end
    path.write_bytes(film.read_bytes())
    said: list[str] = []
    watched = model.watch(str(path), window_s=2, timeout_s=TIMEOUT_S, on_status=said.append)
    assert [facts(one) for one in watched] == expected(model, path, window_s=2, stride_s=1)
    assert any("waiting until it is finished" in text for text in said)


def test_a_file_over_http_ends(model: Any, film: Path) -> None:
    data = as_ts(film)
    with HttpServer(whole(data), size=len(data)) as server:
        found = [facts(one) for one in model.watch(server.url, window_s=2, stride_s=1)]
    assert server.count == 1
    assert found == expected(model, film.with_suffix(".ts"), window_s=2, stride_s=1)


@pytest.mark.slow
def test_a_live_stream_comes_back_after_a_cut_and_a_stall_with_another_codec(
    model: Any, film: Path, tmp_path: Path
) -> None:
    data = as_ts(film)
    other = make(tmp_path / "other.ts", "mpeg2video", SMALLER, seconds=8, seed=5).read_bytes()
    stop, said = threading.Event(), []
    with HttpServer(
        whole(data[: len(data) // 2]), stalled(data[: len(data) // 3], stop), whole(other)
    ) as server:
        watched = model.watch(
            server.url, window_s=1, timeout_s=TIMEOUT_S, on_status=said.append, batch_size=8
        )
        found = until(watched, lambda found: found[-1].part == 2 and len(said) > 5)
        stop.set()
    assert {one.part for one in found} == {0, 1, 2}
    assert all(one.end_s - one.start_s == pytest.approx(1) for one in found)
    ends = {part: max(one.end_s for one in found if one.part == part) for part in range(3)}
    starts = {part: min(one.start_s for one in found if one.part == part) for part in range(3)}
    assert ends[0] <= starts[1]
    assert ends[1] <= starts[2]
    assert "h264, 96×72, 25 fps" in said[0]
    assert "connecting again in 0.5 s" in said[1]
    assert f"for {TIMEOUT_S:g} s; connecting again in 0.5 s" in said[3]
    assert "mpeg2video, 64×80" in said[4]


def test_a_server_that_is_away_is_tried_again_later_and_later(model: Any, film: Path) -> None:
    with HttpServer(whole(b"")) as away:
        pass
    said: list[str] = []
    stop = threading.Event()

    def note(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            stop.set()

    url = away.url.replace("//", "//bob:secret@") + "?token=abc&channel=2"
    watched = model.watch([url, str(film)], timeout_s=TIMEOUT_S, on_status=note)
    thread = threading.Thread(target=lambda: stop.wait(60) and watched.close())
    for _ in watched:  # the labels of the file
        if stop.wait(60):
            break
    thread.start()
    thread.join()
    about = [text for text in said if "channel=2" in text]
    assert ["in 0.5 s" in about[0], "in 1 s" in about[1]] == [True, True]
    assert "secret" not in str(said)
    assert "bob" not in str(said)
    assert "abc" not in str(said)
    assert "Connection refused" in about[0]


def test_the_size_may_change_within_a_stream(model: Any, film: Path, tmp_path: Path) -> None:
    first = make(tmp_path / "first.mp4", "h264", SIZE, seconds=3, seed=6)
    second = make(tmp_path / "second.mp4", "h264", SMALLER, seconds=3, seed=7)
    data = as_ts(first) + as_ts(second)
    with pipe(tmp_path / "pipe", data) as path:
        found = list(model.watch(str(path), window_s=1, stride_s=1))
    tops = [one.top for one in found]
    for path in (first, second):
        of_file = model.predict_windows(path.with_suffix(".ts"), window_s=1, batch_size=1)
        assert [one.top for one in of_file] == tops[:3]
        del tops[:3]
    assert tops == []
    assert [one.part for one in found] == [0, 0, 0, 1, 1, 1]


def test_the_codec_may_change_within_a_stream(model: Any, tmp_path: Path) -> None:
    first = make(tmp_path / "first.ts", "mpeg2video", SIZE, seconds=4, seed=6)
    second = make(tmp_path / "second.ts", "h264", SMALLER, seconds=8, seed=7)
    said: list[str] = []
    with pipe(tmp_path / "pipe", first.read_bytes() + second.read_bytes()) as path:
        found = list(model.watch(str(path), window_s=1, stride_s=1, on_status=said.append))
    assert "mpeg2video" in said[0]
    assert "h264" in said[-1]
    assert {one.part for one in found} >= {0, 1}
    of_file = model.predict_windows(first, window_s=1, batch_size=1)
    assert [one.top for one in found][:3] == [one.top for one in of_file][:3]


@pytest.mark.slow
def test_motion_jpeg_of_a_camera_is_timed_by_its_arrival(model: Any, tmp_path: Path) -> None:
    film = make(tmp_path / "film", "mjpeg", SIZE, seconds=2, seed=8)
    with av.open(str(film)) as container:
        pictures = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    answer = multipart(pictures, 0.1)
    with HttpServer(answer, kind="multipart/x-mixed-replace; boundary=frame") as server:
        started = time.monotonic()
        found = until(model.watch(server.url, window_s=1), lambda found: len(found) == 3)
        passed_s = time.monotonic() - started
    assert [one.part for one in found] == [0, 0, 0]
    assert found[-1].end_s == pytest.approx(2, abs=0.01)
    assert passed_s > 1.9


def test_two_streams_are_labelled_in_one_process(model: Any, film: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other.mp4", "h264", SMALLER, seconds=6, seed=9)
    with pipe(tmp_path / "a", as_ts(film)) as a, pipe(tmp_path / "b", as_ts(other)) as b:
        found = list(model.watch([str(a), str(b)], window_s=1, stride_s=1))
    for path, source in ((film, a), (other, b)):
        of_file = list(model.predict_windows(path.with_suffix(".ts"), window_s=1, batch_size=1))
        of_stream = [one for one in found if one.source == str(source)]
        assert [one.label for one in of_stream] == [one.label for one in of_file]
        for one, other_one in zip(of_stream, of_file, strict=True):
            assert one.top == pytest.approx(other_one.top, abs=1e-5)


class Slow:
    """A model that takes its time."""

    def __init__(self, model: Any, seconds: float) -> None:
        self.clip, self.class_names, self.device = model.clip, model.class_names, model.device
        self._model, self._seconds = model, seconds

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        time.sleep(self._seconds)
        return self._model(clips)


@pytest.mark.slow
def test_a_slow_model_drops_windows_of_a_live_stream(model: Any, film: Path) -> None:
    tally = WatchTally()
    with HttpServer(paced(film)) as server:
        watched = watch_streams(
            Slow(model, 0.7), [server.url], window_s=1, stride_s=0.2, tally=tally
        )
        found = until(watched, lambda found: len(found) == 5)
    assert found[-1].dropped > 2
    assert tally.dropped >= found[-1].dropped
    assert found[-1].end_s > 3  # without dropping it would be 1.8


@pytest.mark.slow
def test_a_slow_model_drops_nothing_of_a_pipe(model: Any, film: Path, tmp_path: Path) -> None:
    with pipe(tmp_path / "pipe", as_ts(film)) as path:
        watched = watch_streams(Slow(model, 0.05), [str(path)], window_s=1, stride_s=0.4)
        found = [facts(one) for one in watched]
    assert found == expected(model, film.with_suffix(".ts"), window_s=1, stride_s=0.4)


@pytest.mark.slow
def test_rtsp_gets_the_labels_of_the_file(model: Any, tmp_path: Path) -> None:
    film = make(tmp_path / "film.mp4", "h264", SIZE, seconds=4, seed=1)
    said: list[str] = []
    with RtspServer(film, user=("bob", "secret")) as server:
        watched = model.watch(server.url, window_s=1, stride_s=0.5, on_status=said.append)
        found = until(watched, lambda found: found[-1].end_s >= 3.9)
    of_file = expected(model, film, window_s=1, stride_s=0.5)
    assert [facts(one) for one in found] == of_file[: len(found)]
    assert "secret" not in str(said) + str(found)
    assert all(one.delay_s < 60 for one in found)


@pytest.mark.slow
def test_an_rtsp_server_that_is_killed_comes_back(model: Any, film: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other.mp4", "h264", SMALLER, seconds=8, seed=5)
    said: list[str] = []
    server = RtspServer(film)
    try:
        watched = model.watch(server.url, window_s=1, timeout_s=3, on_status=said.append)
        assert next(watched).part == 0
        server.kill()
        server = RtspServer(other, port=server.port)
        assert until(watched, lambda found: found[-1].part > 0)
    finally:
        server.kill()
    assert "connecting again" in said[1]
    assert "64×80" in said[-1]


def test_the_default_window_is_what_a_clip_spans() -> None:
    whole = engine.ClipSpec(sampling="equidistant")
    assert default_window_s(whole) == 2
    fixed = engine.ClipSpec(sampling="uniform", num_frames=16, stride=4, fps=15)
    assert default_window_s(fixed) == pytest.approx(16 * 4 / 15, abs=0.01)
