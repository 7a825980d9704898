"""What `engine watch` is made of: names of sources, windows that wait, events, slow decoders."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest

from dali_pipelines.augment import ClipView
from dali_pipelines.decode.backlog import Backlog
from dali_pipelines.decode.live_stream import LiveFrame
from dali_pipelines.decode.stream_source import StreamSource, without_credentials
from dali_pipelines.decode.wanted_frames import DecodedFrame
from dali_pipelines.errors import SpecError, Stopped
from dali_pipelines.frame_plan import FramePlan
from dali_pipelines.loaders.stream_windows import RollingWindows, StreamWindow
from dali_pipelines.spec import ClipSpec
from engine.errors import UserError
from engine.watching import pending
from engine.watching.events import EventFilter
from engine.watching.watch import StreamPrediction, parse_sources


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://bob:secret@door:554/a?b=1", "rtsp://***@door:554/a?b=1"),
        ("rtsp://bob:sec%40r@t@door/a", "rtsp://***@door/a"),
        ("https://token@host/live.ts", "https://***@host/live.ts"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("http://cam/v?user=bob&pwd=x&channel=2&flag", "http://cam/v?user=***&pwd=***&channel=2&flag"),
        ("http://cam/v?Access_Token=x#f", "http://cam/v?Access_Token=***#f"),
        ("rtsp://bob:secret@[cam/a", "rtsp://***"),
    ],
)  # fmt: skip
def test_names_have_no_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
    source = StreamSource.of(url)
    assert source.address == url
    assert source.name == shown
    assert "secret" not in repr(source)


def test_sources_are_recognized(tmp_path: Path) -> None:
    (tmp_path / "film.ts").touch()
    found = [StreamSource.of(text).kind for text in ("-", str(tmp_path / "film.ts"), "/dev/null")]
    assert found == ["pipe", "file", "camera"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}/none", "none: No such file"),
        ("{}", "is no camera, URL, pipe or file"),
        ("file:///etc/passwd", "starts with rtsp, "),
        ("concat://a|b", "starts with rtsp, "),
        ("ftp://bob:secret@host/a", r"ftp://\*\*\*@host/a: use a URL"),
    ],
)
def test_what_is_no_source_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        StreamSource.of(text.format(tmp_path))


def test_sources_are_needed_once() -> None:
    with pytest.raises(UserError, match="name a source"):
        parse_sources([])
    with pytest.raises(UserError, match="twice"):
        parse_sources(["-", "-"])


def window(number: int) -> StreamWindow:
    view = ClipView(plan=FramePlan.of_indices(np.arange(1)))
    return StreamWindow(float(number), number + 1.0, view, [], 0, float(number))


def numbers(taken: object) -> list[tuple[int, float]]:
    return [(each.source, each.window.start_s) for each in taken]  # type: ignore[attr-defined]


def test_windows_are_taken_from_all_sources_in_turn() -> None:
    waiting = pending.Pending(2)
    for number in range(3):
        waiting.put(0, window(number), may_drop=False)
    waiting.put(1, window(9), may_drop=False)
    assert numbers(waiting.take(3)) == [(0, 0), (1, 9), (0, 1)]
    assert numbers(waiting.take(3)) == [(0, 2)]
    waiting.finish()
    waiting.finish()
    assert list(waiting.take(3)) == []


def test_old_windows_of_live_sources_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, now = pending.Pending(1), 100.0
    monkeypatch.setattr(pending.time, "monotonic", lambda: now)
    for number in range(3):
        waiting.put(0, window(number), may_drop=True)
        now += 0.4
    assert numbers(waiting.take(1)) == [(0, 2)]  # 0.4 s old; the others 0.8 s and more
    assert waiting.dropped == [2]
    waiting.put(0, window(3), may_drop=True)
    now += 60
    assert numbers(waiting.take(1)) == [(0, 3)]  # there is no newer one
    for number in range(100):
        waiting.put(0, window(number), may_drop=True)
    assert waiting.dropped == [2 + 100 - pending.MAX_WINDOWS]


def test_other_windows_wait_for_a_place_until_the_end() -> None:
    waiting = pending.Pending(1)
    for number in range(pending.MAX_WINDOWS):
        waiting.put(0, window(number), may_drop=False)
    results: list[str] = []

    def put() -> None:
        try:
            waiting.put(0, window(99), may_drop=False)
        except Stopped:
            results.append("stopped")

    thread = threading.Thread(target=put)
    thread.start()
    waiting.stop()
    thread.join(timeout=60)
    assert results == ["stopped"]
    assert waiting.dropped == [0]


def test_an_unexpected_error_of_one_source_ends_all() -> None:
    waiting = pending.Pending(2)
    waiting.fail(MemoryError("no more"))
    with pytest.raises(MemoryError, match="no more"):
        waiting.take(1)


def prediction(start_s: float, label: str, confidence: float = 0.9, part: int = 0):
    return StreamPrediction(
        label=label, confidence=confidence, start_s=start_s, end_s=start_s + 2, source="a",
        time=datetime.now(UTC), delay_s=0.0, dropped=0, part=part,
    )  # fmt: skip


def events(filter_: EventFilter, labels: str, confidence: str = "") -> list[tuple[int, str | None]]:
    found = []
    for number, label in enumerate(labels):
        sure = float(f"0.{confidence[number]}") if confidence else 0.9
        event = filter_.add(prediction(number, label, sure))
        if event is not None:
            found.append((number, event.label))
    return found


def test_an_event_is_a_change_of_label() -> None:
    assert events(EventFilter(), "aaabba") == [(0, "a"), (3, "b"), (5, "a")]


def test_a_label_must_hold() -> None:
    assert events(EventFilter(hold_s=2), "aaabaabbbb") == [(2, "a"), (8, "b")]


def test_a_label_needs_confidence() -> None:
    found = events(EventFilter(min_confidence=0.5), "aabbb", "49419")
    assert found == [(1, "a"), (2, None), (4, "b")]


def test_an_event_says_since_when() -> None:
    watcher = EventFilter(hold_s=2)
    assert watcher.add(prediction(5, "a")) is None
    assert watcher.add(prediction(6, "a")) is None
    event = watcher.add(prediction(7, "a"))
    assert event is not None
    assert event.since_s == 5
    assert event.prediction.end_s == 9


def test_an_interruption_starts_holding_anew() -> None:
    watcher = EventFilter(hold_s=2)
    assert watcher.add(prediction(0, "a")) is None
    assert watcher.add(prediction(60, "a", part=1)) is None
    assert watcher.add(prediction(62, "a", part=1)) is not None


def live_frame(time_s: float, width: int = 32) -> LiveFrame:
    frame = av.VideoFrame.from_ndarray(np.zeros((24, width, 3), np.uint8), format="rgb24")
    return LiveFrame(DecodedFrame(0, frame, False), time_s, 0.0, 0.0, 0)


def test_a_part_goes_on_in_spite_of_small_disorder_only() -> None:
    rolling = RollingWindows(ClipSpec(resize=16, crop=16), window_s=1, stride_s=1, begins_s=7)
    found = []
    for time_s in (100.0, 100.2, 100.2, 100.1, 100.4, 100.6, 100.8, 101.0):
        assert rolling.continues(live_frame(time_s), 10)
        found += list(rolling.add(live_frame(time_s)))
    assert [(one.start_s, one.end_s) for one in found] == [(7, 8)]
    assert not rolling.continues(live_frame(90.0), 10)
    assert not rolling.continues(live_frame(112.0), 10)
    assert not rolling.continues(live_frame(101.2, width=48), 10)
    assert list(rolling.end(accepts_short=False))[-1].end_s == pytest.approx(8.2)


def test_a_decoder_that_loses_time_is_behind_until_it_has_to_wait() -> None:
    backlog, now = Backlog(), 0.0
    found = []
    for number in range(200):  # 25 frames per second, decoded at 20 per second
        found.append(backlog.is_behind(now, 0.0, number / 25))
        now += 0.05
    assert not any(found[:60])
    assert all(found[80:])
    assert not backlog.is_behind(now, 0.03, 9.0)
    assert not backlog.is_behind(now, 0.0, 9.04)


def test_a_burst_is_no_backlog() -> None:
    backlog = Backlog()
    for number in range(1000):  # decoded twice as fast as it was recorded
        assert not backlog.is_behind(number / 50, 0.0, number / 25)


def test_a_stream_that_is_waited_for_is_no_backlog() -> None:
    backlog = Backlog()
    for number in range(1000):  # sent at half the speed, for example by a slow server
        assert not backlog.is_behind(number / 12.5, 0.05, number / 25)
