"""`engine serve`: its answers equal those of the Python API; what is bad gets a clear status."""

import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import videos
from http_server import Http, served, start
from odd_videos import FILES
from runs import random_run
from waiting import wait_for

import engine
from engine.client import Client, ServerError
from engine.errors import UserError
from engine.serving.http.settings import ServeSettings

CLASSES = ["fall", "run", "wave"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of different lengths, one with many windows, and a file that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for name in ("h264", "mpeg4", "packed, two B-frames in a row", "vp9", "340 × 256"):
        FILES[name](folder)
    for number in range(6):
        videos.write_video(
            folder / f"clip{number}.mp4", codec="h264", size=(96, 72), frames=20 + 5 * number,
            draw=videos.noise(number),
        )  # fmt: skip
    videos.write_video(folder / "film.mp4", codec="h264", size=(96, 72), frames=300)
    (folder / "none.mp4").write_bytes(b"no video" * 1000)
    return folder


@pytest.fixture(scope="module")
def server(run: Path, clips: Path) -> Iterator[Http]:
    settings = ServeSettings(models={"run": run}, roots=(clips,), max_upload_mb=5)
    with served(settings) as http:
        yield http


@pytest.fixture(scope="module")
def model(run: Path) -> engine.Predictor:
    return engine.load(run)


def readable(clips: Path) -> list[Path]:
    return sorted(path for path in clips.iterdir() if path.name != "none.mp4")


def test_uploads_and_paths_get_the_labels_of_the_python_api(
    server: Http, clips: Path, model: engine.Predictor
) -> None:
    for path in readable(clips):
        expected = model.predict(path, top_k=3)
        for answer in (
            server.upload(path, "/v1/predict?top_k=3"),
            server.name("/v1/predict?top_k=3", path=str(path)),
            server.name("/v1/predict?top_k=3", path=path.name),
        ):
            assert answer.status == 200, answer
            assert answer.body["label"] == expected.label
            assert list(answer.body["top"]) == list(expected.top)
            assert list(answer.body["top"].values()) == pytest.approx(
                list(expected.top.values()), abs=1e-4
            )
            assert answer.body["end_s"] == expected.end_s


def test_windows_get_the_labels_of_the_python_api(
    server: Http, clips: Path, model: engine.Predictor
) -> None:
    path = clips / "film.mp4"
    expected = list(model.predict_windows(path, window_s=1.0, stride_s=0.5))
    answer = server.upload(path, "/v1/windows?window=1&stride=0.5")
    streamed = list(Client(server.url).predict_windows(path, window_s=1.0, stride_s=0.5))
    assert len(expected) > 10
    for rows in (answer.body["windows"], streamed):
        assert [row["label"] for row in rows] == [row.label for row in expected]
        assert [row["start_s"] for row in rows] == [row.start_s for row in expected]
        assert [row["end_s"] for row in rows] == [row.end_s for row in expected]


def test_many_clients_get_their_own_answers(server: Http, clips: Path) -> None:
    """Each length is that of the client's own file; broken uploads between them change nothing."""
    paths = readable(clips)
    lengths = {path: server.upload(path).body["end_s"] for path in paths}

    def ask(number: int) -> bool:
        path = paths[number % len(paths)]
        if number % 20 == 7:
            return server.upload(path.read_bytes()[: 100 + number]).status == 422
        answer = server.upload(path)
        return answer.status == 200 and answer.body["end_s"] == lengths[path]

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(120)))
    text = server.ask("GET", "/metrics").body.decode()
    sizes = [line for line in text.splitlines() if line.startswith("engine_batch_size_bucket")]
    counts = [float(line.rpartition(" ")[2]) for line in sizes]
    assert counts[-1] > counts[0]  # some batches had several clips
    assert "engine_queue 0.0" in text


@pytest.mark.parametrize(
    ("status", "words", "target", "values"),
    [
        (404, "there is no model 'other'", "/v1/predict?model=other", {"path": "film.mp4"}),
        (403, "not below a folder", "/v1/predict", {"path": "/etc/passwd"}),
        (403, "not below a folder", "/v1/predict", {"path": "../clips0/../../x"}),
        (404, "there is no file", "/v1/predict", {"path": "absent.mp4"}),
        (400, "must be the path of a file", "/v1/predict", {"path": "a\0b"}),
        (400, "must be the path of a file", "/v1/predict", {"path": 3}),
        (400, "the request has no video", "/v1/predict", {}),
        (400, "the request has no video", "/v1/predict", {"path": "a", "url": "b"}),
        (422, "can't be opened as video", "/v1/predict", {"path": "none.mp4"}),
        (422, "can't be opened as video", "/v1/windows?window=1", {"path": "none.mp4"}),
        (422, "can't be opened as video", "/v1/windows?window=1&stream=1", {"path": "none.mp4"}),
        (403, "not an allowed host", "/v1/predict", {"url": "http://example.com/a.mp4"}),
        (400, "must start with http", "/v1/predict", {"url": "file:///etc/passwd"}),
    ],
)  # fmt: skip
def test_a_bad_request_gets_one_sentence(
    server: Http, status: int, words: str, target: str, values: dict[str, Any]
) -> None:
    answer = server.name(target, **values)
    assert answer.status == status
    assert words in answer.body["error"]
    assert "Traceback" not in answer.body["error"]


def test_bad_bodies(server: Http) -> None:
    kind = {"Content_Type": "multipart/form-data"}
    assert server.ask("POST", "/v1/predict", b"x", **kind).status == 400
    assert server.ask("POST", "/v1/predict", b"x", Content_Type="text/plain").status == 415
    assert server.ask("POST", "/v1/predict", b"{", Content_Type="application/json").status == 400
    assert server.ask("POST", "/v1/predict", b"[" * 60_000, Content_Type="application/json"
                      ).status == 400  # fmt: skip
    assert server.upload(b"\0" * 6_000_000).status == 413
    assert server.upload(b"").status == 422
    assert server.ask("POST", "/v1/windows", b"", **kind).status == 422  # no window


def test_links_out_of_a_folder_are_not_followed(server: Http, clips: Path, tmp_path: Path) -> None:
    videos.write_video(tmp_path / "secret.mp4", codec="h264", size=(96, 72), frames=5)
    link = clips / "link.mp4"
    link.symlink_to(tmp_path / "secret.mp4")
    try:
        assert server.name(path="link.mp4").status == 403
    finally:
        link.unlink()


def test_pages_models_and_health(server: Http, run: Path) -> None:
    assert server.ask("GET", "/healthz").status == 200
    assert server.ask("GET", "/readyz").status == 200
    (listed,) = server.ask("GET", "/v1/models").body["models"]
    assert listed["name"] == "run"
    assert listed["classes"] == CLASSES
    paths = server.ask("GET", "/openapi.json").body["paths"]
    assert {"/v1/predict", "/v1/windows", "/v1/models"} <= set(paths)
    assert server.ask("GET", "/docs").status == 200


@pytest.mark.slow
def test_a_full_queue_refuses_and_the_client_waits(run: Path, clips: Path) -> None:
    settings = ServeSettings(models={"run": run}, queue=1, max_wait_ms=300)
    path = clips / "clip0.mp4"
    with served(settings) as http, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.upload(path), range(8)))
        refused = [answer for answer in answers if answer.status == 429]
        assert {answer.status for answer in answers} == {200, 429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        client = Client(http.url, retries=100)
        labels = list(pool.map(lambda _: client.predict(path)["label"], range(4)))
        assert len(set(labels)) == 1


def test_limits_of_time_and_duration(run: Path, clips: Path) -> None:
    settings = ServeSettings(models={"run": run}, max_duration_s=2.0, timeout_s=0.5)
    with served(settings) as http:
        answer = http.upload(clips / "film.mp4")
        assert answer.status == 422
        assert "is allowed" in answer.body["error"]
        with closing(socket.create_connection(("127.0.0.1", http.port))) as slow:
            slow.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=a\r\n\r\n--a\r\n"
            )
            assert slow.recv(100).startswith(b"HTTP/1.1 408")


def threads() -> list[str]:
    """All but those of asyncio's own pool, whose number is limited."""
    names = [thread.name for thread in threading.enumerate()]
    return sorted(name for name in names if not name.startswith("asyncio"))


@pytest.mark.slow
def test_slow_uploads_leave_no_thread_and_no_place_taken(run: Path, clips: Path) -> None:
    settings = ServeSettings(models={"run": run}, queue=8, timeout_s=5.0)
    with served(settings, limit_concurrency=100) as http:
        assert http.upload(clips / "clip0.mp4").status == 200
        before = threads()
        slow = [socket.create_connection(("127.0.0.1", http.port)) for _ in range(300)]
        for connection in slow:
            connection.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=a\r\n\r\n--a\r\n"
            )
        replies = {connection.recv(12) for connection in slow}
        for connection in slow:
            connection.close()
        assert b"HTTP/1.1 408" in replies
        assert replies - {b"HTTP/1.1 408"} <= {b"HTTP/1.1 429", b"HTTP/1.1 503"}
        assert len(replies) > 1
        # the server has yet to see that the connections were closed
        wait_for(lambda: threads() == before)
        wait_for(lambda: http.upload(clips / "clip0.mp4").status == 200)


def test_an_api_key_is_required_where_one_is_set(run: Path, clips: Path) -> None:
    path = clips / "clip0.mp4"
    with served(ServeSettings(models={"run": run}, api_key="secret")) as http:
        assert http.upload(path).status == 401
        assert http.upload(path, Authorization="Bearer secre").status == 401
        assert http.ask("GET", "/v1/models").status == 401
        assert http.ask("GET", "/healthz").status == 200
        assert http.upload(path, Authorization="Bearer secret").status == 200
        assert Client(http.url, api_key="secret").predict(path)["model"] == "run"
        with pytest.raises(ServerError, match="API key"):
            Client(http.url).predict(path)


def is_over(futures: list[Any]) -> bool:
    """So that a failed thread doesn't let a test wait in vain."""
    return any(future.done() for future in futures)


def test_a_replaced_model_is_used_and_a_broken_one_is_not(clips: Path, tmp_path: Path) -> None:
    """Every answer during the change belongs to one of the two models, with that model's name."""
    run = random_run(tmp_path / "run", CLASSES)
    other = random_run(tmp_path / "other", ["sit", "stand", "walk"], "cnn-lstm")
    path = clips / "clip0.mp4"
    seen: list[tuple[str, str]] = []
    with served(ServeSettings(models={"run": run}, reload_s=0.05)) as http:
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answer = http.upload(path)
                assert answer.status == 200, answer
                seen.append((answer.body["digest"], answer.body["label"]))

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask) for _ in range(3)]
            wait_for(lambda: len(seen) > 5 or is_over(asking))
            run.rename(tmp_path / "old")
            other.rename(run)
            wait_for(lambda: len({digest for digest, _ in seen}) == 2 or is_over(asking))
            broken = run.rename(tmp_path / "new")
            shutil.copytree(broken, run)
            for weights in run.rglob("model.safetensors"):
                weights.write_bytes(b"broken")
            for config in run.rglob("config.json"):
                config.touch()
            wait_for(lambda: b'outcome="failed"' in http.ask("GET", "/metrics").body)
            assert not is_over(asking)
            stop.set()
            for each in asking:
                each.result()
        assert http.upload(path).body["digest"] == seen[-1][0]
    first, last = seen[0][0], seen[-1][0]
    assert first != last
    assert {label in CLASSES for digest, label in seen if digest == first} == {True}
    assert {label in CLASSES for digest, label in seen if digest == last} == {False}


class _Site(BaseHTTPRequestHandler):
    """Gives a video, or redirects to where a request has no business."""

    video = b""
    target = ""
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", self.target)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.video)))
        self.end_headers()
        self.wfile.write(self.video[: -100 if self.path == "/cut" else None])

    def log_message(self, *words: Any) -> None: ...


@pytest.fixture
def site(clips: Path) -> Iterator[tuple[type[_Site], int]]:
    handler = type("Site", (_Site,), {"video": (clips / "clip1.mp4").read_bytes(), "seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield handler, httpd.server_port
        httpd.shutdown()
        thread.join()


def test_urls_reach_allowed_hosts_only(
    run: Path, clips: Path, site: tuple[type[_Site], int], model: engine.Predictor
) -> None:
    handler, port = site
    other = ThreadingHTTPServer(("127.0.0.1", 0), type("Other", (_Site,), {"seen": []}))
    with closing(other.socket):
        hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        settings = ServeSettings(models={"run": run}, hosts=hosts, max_upload_mb=1)
        with served(settings) as http:
            answer = http.name(url=f"http://127.0.0.1:{port}/a.mp4")
            assert answer.status == 200, answer
            assert answer.body["label"] == model.predict(clips / "clip1.mp4").label
            for target, status, words in (
                (f"http://127.0.0.1:{other.server_port}/", 403, "not an allowed host"),
                ("http://169.254.169.254/latest", 403, "not an allowed host"),
                ("file:///etc/passwd", 400, "must start with http"),
                (f"http://127.0.0.1:{port}/away", 502, "redirects more than"),
            ):
                handler.target = target
                answer = http.name(url=f"http://127.0.0.1:{port}/away")
                assert answer.status == status, answer
                assert words in answer.body["error"]
            answer = http.name(url=f"http://localhost:{port}/a.mp4")
            assert answer.status == 403
            assert "private address" in answer.body["error"]
            assert http.name(url=f"http://127.0.0.1:{port}/cut").status == 502
            assert http.name(url="http://127.0.0.1:99999999/").status == 400
            handler.video = b"\0" * 2_000_000
            assert http.name(url=f"http://127.0.0.1:{port}/large").status == 413


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_server_after_its_answers(
    run: Path, clips: Path, number: signal.Signals
) -> None:
    process, http = start(run, "--max-wait-ms", "3000", "--max-batch", "64")
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(http.upload, clips / "clip0.mp4") for _ in range(4)]
        wait_for(lambda: is_over(asking) or b"engine_queue 4.0" in http.ask("GET", "/metrics").body)
        process.send_signal(number)
        assert [each.result().status for each in asking] == [200] * 4
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    with pytest.raises(OSError, match="refused"):
        http.ask("GET", "/healthz")


@pytest.mark.slow
def test_clients_survive_a_killed_and_restarted_server(run: Path, clips: Path) -> None:
    process, http = start(run)
    answers: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(Client(http.url, retries=0).predict(clips / "clip0.mp4")["label"])
            except ServerError as error:
                answers.append(error)
                time.sleep(0.05)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        wait_for(lambda: len(answers) > 10 or is_over(asking))
        process.kill()
        process.wait()
        wait_for(lambda: isinstance(answers[-1], ServerError))
        again = subprocess.Popen(process.args, stdout=subprocess.PIPE, text=True)
        failed = len(answers)
        wait_for(lambda: len(answers) > failed and isinstance(answers[-1], str))
        stop.set()
        for each in asking:
            each.result()
    again.terminate()
    assert again.wait(300) == 0
    errors = [answer for answer in answers if isinstance(answer, ServerError)]
    assert len({answer for answer in answers if isinstance(answer, str)}) == 1
    assert {error.status for error in errors} == {0}
    assert all("can't be reached" in str(error) for error in errors)


@pytest.mark.slow
def test_a_taken_port_and_a_missing_model_are_told(run: Path, run_engine: Any) -> None:
    pytest.importorskip("fastapi", reason="needs FastAPI: pip install -e '.[serve]'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_engine("serve", run, "--port", port)
        assert done.returncode == 2
        assert "can't be listened on" in done.stderr
        assert "--port" in done.stderr
    done = run_engine("serve", "absent")
    assert done.returncode == 2
    assert "absent" in done.stderr


def test_settings_are_checked(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        ServeSettings(models={"run": run}, roots=(tmp_path / "absent",))
    with pytest.raises(UserError, match="max_batch"):
        ServeSettings(models={"run": run}, max_batch=0)
    with pytest.raises(UserError, match="at least one"):
        ServeSettings(models={})
    with pytest.raises(UserError, match="address of a server"):
        Client("localhost:8000")
