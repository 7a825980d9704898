"""What the server of `engine app` gives and takes, asked by hand; what may be picked."""

import http.client
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from app_server import PICKED, SECRET, Server, ask, home, listing, server

from engine.app import sources
from engine.app.site import Site, is_local, streamlit_options
from engine.commands.app import app
from engine.errors import UserError
from engine.file_names import short_names

__all__ = ["home", "server"]


@pytest.mark.slow
def test_no_address_gives_a_file_and_none_takes_one(server: Server) -> None:
    secrets = [(server.home / SECRET).read_bytes(), (server.films / PICKED).read_bytes(), b"root:"]
    paths = [str(server.home / SECRET), str(server.films / PICKED), "/etc/passwd"]
    heads = [
        "/", "/media/", "/static/", "/app/static/", "/component/", "/_stcore/",
        "/_stcore/upload_file/", "/_stcore/bidi-components/", "/films/",
    ]  # fmt: skip
    ups = ["", "../" * 12, "..%2f" * 12, "%2e%2e/" * 12, "..%5c" * 12, "....//" * 12]
    for head in heads:
        for up in ups:
            for path in [*paths, f"../{SECRET}", SECRET, PICKED]:
                _, body = ask(server, "GET", f"{head}{up}{path.lstrip('/')}")
                assert not any(secret in body for secret in secrets), f"{head}{up}{path}"
    before = listing(server.home)
    for name in (f"..%2f..%2f{SECRET}", f"../../{SECRET}", SECRET):
        for method in ("PUT", "POST", "DELETE"):
            status, _ = ask(
                server, method, f"/_stcore/upload_file/none/{name}", body=b"overwritten"
            )
            assert status in (400, 403, 404, 405), (method, name)
    assert listing(server.home) == before


@pytest.mark.slow
def test_it_listens_on_this_machine_alone_and_to_its_own_page(server: Server) -> None:
    """Whatever the user's own settings say."""
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, port = local.split(":")
            if int(port, 16) == server.port and state == "0A":
                listening.append(address)
    assert listening == ["0100007F"]
    status, _ = ask(server, "PUT", "/_stcore/upload_file/some/file", body=b"x")
    assert status == 403  # for want of an XSRF token
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "streamlit",
    }  # fmt: skip
    own = {"Origin": server.url}
    for odd in (
        {"Origin": "http://127.0.0.1.example.org"},
        {"Origin": "http://a.org:1", "Host": "a.org:1"},
    ):
        assert ask(server, "GET", "/_stcore/stream", headers=upgrade | odd)[0] == 403
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=900)
    connection.request("GET", "/_stcore/stream", headers=upgrade | own)
    assert connection.getresponse().status == 101
    connection.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"models": ["none"]}, "holds no checkpoint and is not an artifact"),
        ({"videos": ["none"]}, "is not a folder: pass a folder of videos"),
        ({}, "pass another `port`"),
        ({"host": "no.such.host.invalid"}, "pass another `port` or `host`"),
    ],
)
@pytest.mark.slow
def test_what_app_says_to_wrong_words(
    words: dict[str, Any], message: str, run: Path, tmp_path: Path
) -> None:
    pytest.importorskip("streamlit", reason="needs Streamlit: pip install -e '.[app]'")
    asked: dict[str, Any] = {
        "models": [run], "videos": None, "host": "localhost", "max_upload_mb": 1,
        "open_": False, "device": "auto",
    } | {
        name: [tmp_path / "none"] if value == ["none"] else value for name, value in words.items()
    }  # fmt: skip
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asked["port"] = taken.getsockname()[1]
        with pytest.raises(UserError, match=message) as caught:
            app(**asked)
    assert caught.value.exit_code == 2


def test_without_streamlit_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['streamlit'] = None; sys.argv = ['engine', 'app', 'run'];"
        "from engine.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 3
    assert result.stderr.endswith(
        "isn't installed: pip install -e '.[app]' in the folder of the clone.\n"
    )
    assert result.stderr.count("\n") == 1


def test_picks_lie_in_the_folders_and_nowhere_else(home: Path, tmp_path: Path) -> None:
    films = home / "films"
    listed = sources.picks([str(films)])
    assert list(listed) == [PICKED]
    (tmp_path / "more").mkdir()
    several = sources.picks([str(films), str(tmp_path / "more")])
    assert list(several) == [f"{films.resolve()}/{PICKED}"]
    source = sources.of_pick(PICKED, listed, [str(films)])
    with source.opened() as path:
        assert path == films.resolve() / PICKED
    for name in (f"../{SECRET}", str(home / SECRET), "link.mp4", "", "/etc/passwd"):
        with pytest.raises(UserError, match="no video"):
            sources.of_pick(name, listed, [str(films)])
    swapped = {"a.mp4": films / "link.mp4"}  # as if it had been a file when the list was made
    with pytest.raises(UserError, match="no video"):
        sources.of_pick("a.mp4", swapped, [str(films)])


def test_an_upload_has_no_name_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with sources.nameless(b"some bytes") as path:
        assert path.read_bytes() == b"some bytes"
        assert list(tmp_path.iterdir()) == []
    assert not path.exists()


def test_a_site_survives_its_way_to_the_script() -> None:
    models = short_names([Path("a/run"), Path("b/run"), Path("fast")])
    assert models == {name: Path(name) for name in ("a/run", "b/run", "fast")}
    named = {name: str(path) for name, path in models.items()}
    site = Site(
        models=named,
        folders=("x",),
        max_upload_mb=3,
        device="cpu",
    )
    assert Site.from_json(site.to_json()) == site
    options = streamlit_options(site, host="localhost", port=1, open_browser=False)
    assert options["server.address"] == "127.0.0.1"
    assert options["server.headless"] is True
    assert options["browser.gatherUsageStats"] is False
    assert [is_local(host) for host in ("localhost", "::1", "0.0.0.0", "box")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert options["server.maxUploadSize"] == 3
