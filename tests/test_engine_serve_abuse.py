"""`engine serve` under uploads that are meant to harm: bombs, and ten thousand that never end."""

import re
import resource
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bombs
import pytest
import videos
from http_server import Http, start
from waiting import wait_for

SLOW = 10_000
HEAD = (
    b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    b"Content-Type: multipart/form-data; boundary=a\r\n\r\n--a\r\n"
)

pytestmark = pytest.mark.slow


class Server:
    def __init__(self, http: Http, process: int, clip: Path) -> None:
        self.http = http
        self._clip = clip
        self._folder = Path("/proc", str(process))

    def answers(self) -> bool:
        return self.http.upload(self._clip).status == 200

    def status(self, name: str) -> int:
        """A number of /proc/PID/status."""
        found = re.search(rf"^{name}:\s+(\d+)", (self._folder / "status").read_text(), re.M)
        assert found
        return int(found[1])

    def num_files(self) -> int:
        return len(list((self._folder / "fd").iterdir()))


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    clip = videos.write_video(
        tmp_path_factory.mktemp("clip") / "clip.mp4", codec="h264", size=(96, 72), frames=20
    )
    process, http = start(run, "--timeout", "5")
    assert process.stdout
    reader = threading.Thread(target=process.stdout.read)  # a full pipe would stop the server
    reader.start()
    try:
        server = Server(http, process.pid, clip)
        assert all(server.answers() for _ in range(8))
        yield server
    finally:
        process.terminate()
        assert process.wait(60) == 0
        reader.join()


def test_bombs_are_refused_and_cost_little(server: Server, tmp_path: Path) -> None:
    memory_kib = server.status("VmRSS")
    for make in (bombs.write_huge_y4m, bombs.write_huge_mjpeg):
        answer = server.http.upload(make(tmp_path))
        assert answer.status == 422
        assert answer.body["error"].count("\n") == 0
    endless = bombs.write_endless(tmp_path, "mpeg4").read_bytes()
    assert len(endless) < 32 * 2**20  # for 60 GB of pictures
    with ThreadPoolExecutor() as pool:  # more than there are threads to decode them
        answers = list(pool.map(server.http.upload, [endless] * 5))
    assert {answer.status for answer in answers} == {504}
    assert server.answers()
    assert server.status("VmHWM") - memory_kib < 400 * 1024


def test_ten_thousand_slow_uploads_leave_nothing_behind(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < SLOW + 1000:
        pytest.skip(f"a process may open only {hard} files here")
    wait_for(server.answers)
    num_threads, num_files = server.status("Threads"), server.num_files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    statuses: Counter[bytes] = Counter()
    try:
        with selectors.DefaultSelector() as waiting:
            for number in range(SLOW):
                connection = socket.create_connection(("127.0.0.1", server.http.port), timeout=60)
                connection.sendall(HEAD)
                waiting.register(connection, selectors.EVENT_READ, number)
            while waiting.get_map():
                ready = waiting.select(timeout=60)
                assert ready, f"{len(waiting.get_map())} uploads got no answer"
                for key, _ in ready:
                    connection = key.fileobj  # type: ignore[assignment]
                    statuses[connection.recv(1000)[9:12]] += 1
                    waiting.unregister(connection)
                    connection.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert statuses.total() == SLOW
    assert set(statuses) <= {b"408", b"429", b"503"}, statuses
    wait_for(server.answers)
    wait_for(lambda: server.num_files() <= num_files + 2)
    assert server.status("Threads") <= num_threads + 2
