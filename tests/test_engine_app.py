"""`engine app`, for real: a server in its own process, and headless Chromium in front of it."""

import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import videos
from app_server import PICKED, SECRET, Server, end, home, listing, serve, server

__all__ = ["home", "server"]

LONG_S = 16
WAIT_MS = 60_000


def scenes(index: int, width: int, height: int) -> Any:
    """Four of them, four seconds each, which the random network of `run` tells apart."""
    return videos.noise((1, 9, 5, 28)[index // 40 % 4])(index % 20, width, height)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser: apt-get install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs Playwright: pip install playwright"
    )
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Any]:
    """Open; at the end it must have asked this server alone."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1400})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    yield page
    context.close()
    own = (server.url, server.url.replace("http", "ws"), "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []


def upload(page: Any, file: Path | dict[str, Any]) -> None:
    page.locator("input[type=file]").set_input_files(file)


def wait_for_answer(page: Any, name: str) -> str:
    """To the video of this name, all of it; what was there before stays until then."""
    page.locator("h3", has_text=name).wait_for()
    page.locator('[data-test-script-state="notRunning"]').wait_for()
    page.get_by_text("Time per stage").wait_for()
    page.get_by_text(re.compile(r"% sure$")).first.wait_for()  # drawn by code that loads late
    return str(page.inner_text("body"))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_MS / 1000
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def seconds_in_player(page: Any) -> tuple[float, float]:
    """Where it stands, and how long the video is; -1 while nothing is loaded."""
    found = page.evaluate(
        "() => { const v = document.querySelector('video');"
        " return v && v.readyState ? [v.currentTime, v.duration] : [-1, -1] }"
    )
    return float(found[0]), float(found[1])


@pytest.mark.browser
@pytest.mark.slow
def test_an_upload_gets_frames_label_bars_player_and_timing(
    page: Any, server: Server, run: Path, tmp_path: Path
) -> None:
    from engine.app.answer import answer
    from engine.predictor import open_predictor

    clip = videos.write_packed(tmp_path / "my *clip*.avi", draw=videos.noise(3))
    upload(page, clip)
    text = wait_for_answer(page, clip.name)
    predictor = open_predictor(run)
    expected = answer(clip, predictor, predictor.clip, window_s=2.0)
    names = predictor.class_names
    shares = re.findall(r"(\w+) · ([\d.]+)%", text)
    assert [name for name, _ in shares] == [names[each] for each, _ in expected.top]
    assert [float(share) / 100 for _, share in shares] == pytest.approx(
        [share for _, share in expected.top], abs=0.001
    )
    assert re.search(rf"This video\s+{shares[0][0]}\s+{shares[0][1]}% sure", text)
    assert page.locator("[role=progressbar]").count() == len(names)
    pictures = page.locator('img[alt^="frame "]')
    assert pictures.count() == predictor.clip.num_frames
    assert pictures.first.evaluate("image => image.complete && image.naturalWidth > 50")
    assert "my *clip*.avi" in text  # as it is, not as Markdown
    for stage in ("opening the model", "finding frames", "decoding", "model", "player"):
        assert re.search(rf"{stage}\s+[\d.]+ m?s", text), stage
    assert "without sound, because browsers don't play this kind of file" in text
    wait_until(lambda: seconds_in_player(page)[1] > 0)
    assert seconds_in_player(page)[1] == pytest.approx(1.0, abs=0.1)
    assert list(server.temporary.iterdir()) == []


@pytest.mark.browser
@pytest.mark.slow
def test_bad_files_get_a_message_that_names_them_and_no_traceback(
    page: Any, server: Server, tmp_path: Path
) -> None:
    whole = videos.write_video(tmp_path / "whole.mp4", codec="h264", frames=60).read_bytes()
    song = videos.write_audio(tmp_path / "song.wav").read_bytes()
    bad = {
        "text.mp4": (b"no video at all, [but](http://x) text\n" * 50, "can't be opened as video"),
        "empty.mp4": (b"", "the file is empty"),
        "cut.mp4": (whole[: len(whole) // 2], "can't be opened as video"),
        "song.mp4": (song, "it holds no video stream"),
        "list.mp4": (
            f"ffconcat version 1.0\nfile {PICKED}\n".encode(), "can't be opened as video",
        ),
    }  # fmt: skip
    for name, (data, reason) in bad.items():
        path = tmp_path / name
        path.write_bytes(data)
        upload(page, path)
        alert = page.locator("[data-testid=stAlert]", has_text=name)
        alert.wait_for()
        assert reason in alert.inner_text()
        assert "Choose another file, or repair it." in alert.inner_text()
        assert "/proc" not in alert.inner_text()
        body = page.inner_text("body")
        assert "Traceback" not in body
        assert "sure" not in body
    path = videos.write_video(tmp_path / "sound.webm", codec="vp9", frames=20)
    upload(page, path)  # and a good one is answered after all that
    wait_for_answer(page, path.name)
    assert page.locator("[data-testid=stAlert]").count() == 0
    too_large = tmp_path / "large.mp4"
    too_large.write_bytes(bytes(2**20 + 1))
    upload(page, too_large)
    page.get_by_text(re.compile("must be 1.*MB or smaller")).wait_for()
    assert list(server.temporary.iterdir()) == []


@pytest.mark.browser
@pytest.mark.slow
def test_a_long_video_has_segments_that_make_the_player_jump(page: Any, tmp_path: Path) -> None:
    path = videos.write_video(
        tmp_path / "long", codec="mpeg4", frames=10 * LONG_S, fps=10, size=(96, 72), draw=scenes
    )
    upload(page, path)
    assert f"{LONG_S}.0 s of video in {LONG_S - 1} windows" in wait_for_answer(page, path.name)
    buttons = page.get_by_role("button", name=re.compile(r"^\d+:\d\d "))
    buttons.first.wait_for()
    names = buttons.all_inner_texts()
    assert len(names) >= 2
    starts = [60 * int(name[:-3]) + int(name[-2:]) for name in (n.split(" ")[0] for n in names)]
    assert starts == sorted(starts)
    wait_until(lambda: seconds_in_player(page) == (0, LONG_S))
    last = len(names) - 1
    for place in (last, 0, last):
        buttons.nth(place).click()
        wait_until(lambda start=starts[place]: seconds_in_player(page)[0] == start)
    page.evaluate("document.querySelector('video').currentTime = 0.5")
    buttons.nth(last).click()  # again
    wait_until(lambda: seconds_in_player(page)[0] == starts[last])
    label = names[last].split(" ", 1)[1]
    page.locator("p", has_text=re.compile(f"^{label}$")).first.wait_for()
    bars = page.locator("[aria-roledescription=bar]")
    clicked = page.locator("[data-clicked]")  # each click draws a new chart
    for place in (0, 0, last):  # the same one twice
        page.evaluate("document.querySelector('video').currentTime = 0.5")
        wait_until(lambda: bars.count() == len(names) and not clicked.count())
        bars.evaluate_all("bars => bars.forEach(bar => { bar.dataset.clicked = 'yes' })")
        bars.nth(place).click()
        wait_until(lambda start=starts[place]: seconds_in_player(page)[0] == start)


@pytest.mark.browser
@pytest.mark.slow
def test_a_pick_is_one_of_the_folder_whatever_the_browser_sends(page: Any, server: Server) -> None:
    page.get_by_text("folder", exact=True).click()
    page.get_by_role("combobox", name="Video").click()
    options = page.locator("[role=option]")
    options.first.wait_for()
    assert options.all_inner_texts() == [PICKED]  # not where the link leads
    options.first.click()  # the control
    wait_for_answer(page, PICKED)
    assert "browsers don't play" not in page.inner_text("body")

    forged = page.context.new_page()
    forged.set_default_timeout(WAIT_MS)
    wrong = f"../{SECRET}".encode()
    assert len(wrong) == len(PICKED)

    meddled = []

    def meddle(socket: Any) -> None:
        upstream = socket.connect_to_server()

        def forge(sent: bytes) -> None:
            if PICKED.encode() in sent:
                meddled.append(True)
            upstream.send(sent.replace(PICKED.encode(), wrong))

        socket.on_message(forge)

    forged.route_web_socket(re.compile("_stcore/stream"), meddle)
    forged.goto(server.url)
    forged.get_by_text("folder", exact=True).click()
    forged.get_by_role("combobox", name="Video").click()
    forged.locator("[role=option]").first.click()
    deadline = time.monotonic() + 900
    while not meddled:
        forged.wait_for_timeout(50)
        assert time.monotonic() < deadline
    forged.wait_for_timeout(2000)  # the control above took less
    assert forged.locator("h3").count() == 0
    assert "sure" not in forged.inner_text("body")


@pytest.mark.browser
@pytest.mark.slow
def test_the_name_of_an_upload_is_never_a_path(page: Any, server: Server, tmp_path: Path) -> None:
    clip = videos.write_video(tmp_path / "clip.mp4", codec="h264", frames=20).read_bytes()
    before = listing(server.home)
    for name in (f"../../{SECRET}", str(server.home / SECRET), f"..\\{SECRET}"):
        upload(page, {"name": name, "mimeType": "video/mp4", "buffer": clip})
        wait_for_answer(page, SECRET)
        page.locator("[data-testid=stFileChipDeleteBtn] button").click()
        page.get_by_text("Time per stage").wait_for(state="detached")
    assert listing(server.home) == before


@pytest.mark.browser
@pytest.mark.slow
def test_a_server_that_is_ended_midway_leaves_nothing(
    run: Path, chromium: Any, tmp_path: Path
) -> None:
    (tmp_path / "films").mkdir()
    path = videos.write_video(
        tmp_path / "films" / "long", codec="mpeg4", frames=3000, fps=10, size=(96, 72), draw=scenes
    )
    served = serve(run, tmp_path)
    try:
        page = chromium.new_page()
        page.goto(served.url)
        upload(page, path)
        page.get_by_text(re.compile(r"\d+ of 299 windows")).wait_for(timeout=WAIT_MS)
        assert list(served.temporary.iterdir()) == []  # there is a file, but it has no name
        end(served, signal.SIGTERM)
        page.close()
    finally:
        served.process.kill()
    assert list(served.temporary.iterdir()) == []
