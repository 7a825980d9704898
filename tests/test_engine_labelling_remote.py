"""`engine label` of videos on servers: S3 by moto, Google's storage by an emulator, and HTTP."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote, unquote

import fsspec
import pytest
import videos
from file_servers import Guarded, Proxy, http_server, no_fault
from waiting import wait_for

from engine.labelling import addresses, remote_files
from engine.labelling.downloads import PREFIX

BUCKET = "films"
NAMES = ("a b.mp4", "deep/c#d.mp4", "deep/e+f.mp4", "g%20h.mp4", "straße ü.mp4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    root = tmp_path_factory.mktemp("folder") / "films"
    for number, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        videos.write_video(path, codec="h264", frames=16, size=(96, 72), draw=videos.noise(number))
    return root


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """S3 behind it."""
    pytest.importorskip("s3fs", reason="needs s3fs: pip install -e '.[remote]'")
    server = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = Proxy(moto.get_host_and_port()[1])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": proxy.address,
            "AWS_ACCESS_KEY_ID": "id-of-nobody",
            "AWS_SECRET_ACCESS_KEY": "secret-of-nobody",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(name, value)
        addresses.file_system.cache_clear()
        yield proxy
    addresses.file_system.cache_clear()
    proxy.close()
    moto.stop()


@pytest.fixture
def bucket(proxy: Proxy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The files in a bucket that a test may change; nothing is waited for."""
    monkeypatch.setattr(remote_files, "WAITS_S", (0.0, 0.0, 0.0))
    files = addresses.file_system("s3")
    proxy.fault = no_fault
    if files.exists(BUCKET):
        files.rm(BUCKET, recursive=True)
    files.mkdir(BUCKET)
    for name in NAMES:
        files.pipe_file(f"{BUCKET}/all/{name}", (folder / name).read_bytes())
    files.pipe_file(f"{BUCKET}/all/notes.txt", b"no video")
    files.pipe_file(f"{BUCKET}/all/.hidden.mp4", b"no video")
    files.pipe_file(f"{BUCKET}/other.mp4", b"no video")
    proxy.requests.clear()
    return files


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where downloads are kept."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def run_engine(run_engine_here: Any) -> Any:
    return run_engine_here


def rows_of(out: Path) -> dict[str, list[str]]:
    """The other columns of each path."""
    with out.open(newline="") as file:
        return {path: others for path, *others in list(csv.reader(file))[1:]}


def left_in(temporary: Path) -> list[Path]:
    return list(temporary.glob(f"{PREFIX}*"))


def _is_downloading(process: Any, temporary: Path, before: set[Path]) -> bool:
    """Whether a run downloads, and has removed what an earlier one left behind; or has ended."""
    if process.poll() is not None:
        return True
    found = set(left_in(temporary))
    return bool(found) and not found & before and bool(list(temporary.glob(f"{PREFIX}*/*.mp4")))


@pytest.fixture(scope="module")
def expected(run: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The rows of the folder on this machine, by address."""
    out = tmp_path_factory.mktemp("expected") / "labels.csv"
    words = [sys.executable, "-m", "engine", "label", folder, "--model", run, "--out", out]
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)
    return {f"s3://{BUCKET}/all/{name}": row for name, row in rows_of(out).items()}


def test_a_bucket_is_labelled_like_a_folder_and_once(
    bucket: Any, run: Path, expected: Any, temporary: Path, tmp_path: Path, run_engine: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(remote_files, "PAGE", 2)
    out = tmp_path / "labels.csv"
    words = ("label", f"s3://{BUCKET}/all", "--model", run, "--out", out, "--vtt", tmp_path / "vtt")
    first = run_engine(*words)
    assert first.returncode == 0, first.stderr
    assert rows_of(out) == expected
    assert (tmp_path / "vtt" / BUCKET / "all" / "deep" / "c#d.vtt").exists()
    assert not left_in(temporary)
    again = run_engine(*words)
    assert "0 files labelled (0 windows); 5 were labelled before" in again.stdout
    other = bucket.cat_file(f"{BUCKET}/all/{NAMES[1]}")
    bucket.pipe_file(f"{BUCKET}/all/{NAMES[0]}", other)
    bucket.rm_file(f"{BUCKET}/all/{NAMES[2]}")
    changed = run_engine(*words)
    assert "1 files labelled (1 windows)" in changed.stdout
    assert "1 files of earlier runs are no longer in s3://films/all" in changed.stdout
    rows = rows_of(out)
    assert rows.pop(f"s3://{BUCKET}/all/{NAMES[0]}") == expected[f"s3://{BUCKET}/all/{NAMES[1]}"]
    assert rows.items() < expected.items()


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_a_server_that_fails_now_and_then_costs_nothing(
    fault: str, proxy: Proxy, bucket: Any, run: Path, expected: Any, temporary: Path,
    tmp_path: Path, run_engine: Any,
) -> None:  # fmt: skip
    counts: Counter[tuple[str, str]] = Counter()

    def first_two_times(method: str, path: str) -> str:
        counts[method, path] += 1
        return fault if method == "GET" and counts[method, path] <= 2 else ""

    proxy.fault = first_two_times
    out = tmp_path / "labels.csv"
    done = run_engine("label", f"s3://{BUCKET}/all/", "--model", run, "--out", out)
    assert done.returncode == 0, done.stderr
    assert rows_of(out) == expected
    assert max(counts.values()) >= 3


def test_a_file_that_cannot_be_fetched_is_listed_and_tried_by_the_next_run(
    proxy: Proxy, bucket: Any, run: Path, expected: Any, temporary: Path, tmp_path: Path,
    run_engine: Any,
) -> None:  # fmt: skip
    gone, failing = NAMES[1], NAMES[3]

    def fault(method: str, path: str) -> str:
        place = unquote(path.partition("?")[0])
        if method == "GET" and place.endswith(gone):
            proxy.fault = lambda method, path: fail(path)
            bucket.rm_file(f"{BUCKET}/all/{gone}")
        return fail(path)

    def fail(path: str) -> str:
        return "503" if unquote(path.partition("?")[0]).endswith(failing) else ""

    proxy.fault = fault
    out = tmp_path / "labels.csv"
    words = ("label", f"s3://{BUCKET}/all", "--model", run, "--out", out)
    failed = run_engine(*words)
    assert failed.returncode == 1, failed.stderr
    assert "3 files labelled" in failed.stdout
    with out.with_name("failures-labels.csv").open(newline="") as file:
        reasons = {
            row["path"].rpartition("/all/")[2]: row["reason"] for row in csv.DictReader(file)
        }
    assert reasons.keys() == {gone, failing}
    assert reasons[gone] == "the server has no such file"
    assert reasons[failing] == "the server answers with error 503"
    assert not left_in(temporary)
    proxy.fault = no_fault
    again = run_engine(*words)
    assert again.returncode == 0, again.stderr
    assert "1 files labelled" in again.stdout
    assert rows_of(out).items() < expected.items()
    assert len(rows_of(out)) == 4


def test_the_disk_holds_no_more_than_is_allowed(
    proxy: Proxy, bucket: Any, run: Path, expected: Any, temporary: Path, folder: Path,
    tmp_path: Path, run_engine: Any,
) -> None:  # fmt: skip
    sizes = sorted((folder / name).stat().st_size for name in NAMES)
    used = []

    def look(method: str, path: str) -> str:
        used.append(sum(each.stat().st_size for each in temporary.glob("*/*")))
        return ""

    proxy.fault = look
    out = tmp_path / "labels.csv"
    limit = sizes[-1] + sizes[0]
    words = ("label", f"s3://{BUCKET}/all", "--model", run, "--out", out)
    done = run_engine(*words, "--max-download", limit / 1e9)
    assert done.returncode == 0, done.stderr
    assert rows_of(out) == expected
    assert 0 < max(used) <= limit


def test_shards_of_a_bucket_are_joined_and_a_single_video_is_labelled(
    bucket: Any, run: Path, expected: Any, temporary: Path, tmp_path: Path, run_engine: Any
) -> None:
    outs = [tmp_path / "labels-1.csv", tmp_path / "labels-2.csv"]
    for number, out in enumerate(outs, 1):
        words = ("label", f"s3://{BUCKET}/all", "--model", run, "--out", out)
        assert run_engine(*words, "--shard", f"{number}/2").returncode == 0
    joined = tmp_path / "labels.csv"
    assert run_engine("label", "--merge", *outs, "--out", joined).returncode == 0
    assert rows_of(joined) == expected
    name = f"s3://{BUCKET}/all/{NAMES[1]}"
    out = tmp_path / "one.csv"
    assert run_engine("label", name, "--model", run, "--out", out).returncode == 0
    assert rows_of(out) == {name: expected[name]}


def test_googles_storage_is_labelled_like_a_folder(
    run: Path, folder: Path, expected: Any, temporary: Path, tmp_path: Path, run_engine: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server = pytest.importorskip(
        "gcp_storage_emulator.server", reason="needs pip install gcp-storage-emulator"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it asks Google itself
    pytest.importorskip("gcsfs", reason="needs gcsfs: pip install -e '.[remote]'")
    monkeypatch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
    emulator = server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    emulator.start()
    try:
        files = addresses.file_system("gs")
        for name in NAMES:
            files.pipe_file(f"{BUCKET}/all/{name}", (folder / name).read_bytes())
        out = tmp_path / "labels.csv"
        words = ("label", f"gs://{BUCKET}/all", "--model", run, "--out", out)
        first = run_engine(*words)
        files.pipe_file(f"{BUCKET}/all/{NAMES[0]}", (folder / NAMES[1]).read_bytes())
        again = run_engine(*words)
        nowhere = run_engine("label", "gs://nowhere/all", *words[2:4], "--out", tmp_path / "b.csv")
    finally:
        addresses.file_system.cache_clear()
        emulator.stop()
    assert first.returncode == 0, first.stderr
    assert "5 files labelled" in first.stdout
    assert "1 files labelled" in again.stdout
    rows = {name.replace("gs://", "s3://"): row for name, row in rows_of(out).items()}
    changed = f"s3://{BUCKET}/all/{NAMES[0]}"
    assert rows == expected | {changed: expected[f"s3://{BUCKET}/all/{NAMES[1]}"]}
    assert "gs://nowhere/all can't be listed: there is no such bucket." in nowhere.stderr


def test_what_is_no_place_is_said_in_a_sentence(
    bucket: Any, run: Path, tmp_path: Path, run_engine: Any
) -> None:
    words = ("--model", run, "--out", tmp_path / "labels.csv")
    for address, message in {
        "s3://nowhere/films": "s3://nowhere/films can't be listed: there is no such bucket.",
        f"s3://{BUCKET}/nothing": f"there are no videos in s3://{BUCKET}/nothing to label",
        "s3://key:secret@films/all": "an address of s3:// holds no password",
        "ftp://films/a.mp4": "unknown protocol 'ftp'. Choose from: s3, gs, https, http.",
        "https://127.0.0.1/": "https://127.0.0.1/ is no address of a file",
    }.items():
        refused = run_engine("label", address, *words)
        assert refused.returncode == 2
        assert message in refused.stderr, refused.stderr
        assert "secret" not in refused.stderr
    watch = run_engine("label", f"s3://{BUCKET}/all", *words, "--watch")
    assert "--watch needs a folder on this machine" in watch.stderr
    auto = run_engine("label", f"s3://{BUCKET}/all", *words, "--decoder", "auto")
    assert "measures files of this machine" in auto.stderr


def test_signatures_and_passwords_are_used_and_never_written(
    run: Path, folder: Path, expected: Any, temporary: Path, tmp_path: Path, run_engine: Any
) -> None:
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install aiohttp")
    results = tmp_path / "results"
    out = results / "labels.csv"
    with http_server(folder, Guarded) as host:
        signed = f"?signature={Guarded.signature}"
        plain = f"http://{host}"
        lines = [
            f"http://{host}/a%20b.mp4{signed}",
            f"http://person:pa55word@{host}/deep/c%23d.mp4",
            f"http://{host}/straße ü.mp4{signed}&more=x",
            f"http://{host}/missing.mp4{signed}",
            f"http://{host}/deep/e+f.mp4?signature=wrong5ecret",
            str(folder / NAMES[3]),
        ]
        words = ("label", "-", "--list", "--model", run, "--out", out)
        done = run_engine(*words, stdin="\n".join(lines))
        assert done.returncode == 1, done.stderr
        renewed = [line.replace(signed, f"{signed}&expires=2") for line in lines]
        again = run_engine(*words, stdin="\n".join(renewed))
        twice = run_engine(*words, stdin=f"{lines[0]}\n{lines[0]}2\n")
    assert "4 files labelled" in done.stdout
    assert "0 files labelled (0 windows); 6 were labelled before; 2 of these" in again.stdout
    assert twice.returncode == 2
    assert f"{plain}/a%20b.mp4 with different parts after the question mark" in twice.stderr
    places = {
        f"{plain}/a%20b.mp4": NAMES[0],
        f"{plain}/deep/c%23d.mp4": NAMES[1],
        f"{plain}/straße ü.mp4": NAMES[4],
        str(folder / NAMES[3]): NAMES[3],
    }
    wanted = {place: expected[f"s3://{BUCKET}/all/{name}"] for place, name in places.items()}
    assert rows_of(out) == wanted
    assert rows_of(out.with_name("failures-labels.csv")) == {
        f"{plain}/missing.mp4": ["the server has no such file"],
        f"{plain}/deep/e+f.mp4": ["the server denies access"],
    }
    written = b"".join(path.read_bytes() for path in results.iterdir())
    for text in (done, again, twice):
        written += text.stdout.encode() + text.stderr.encode()
    for secret in (
        Guarded.signature,
        "pa55word",
        Guarded.password,
        "wrong5ecret",
        "signature=",
        "expires",
    ):
        assert secret.encode() not in written
    assert not left_in(temporary)


@pytest.mark.slow
def test_workers_of_a_cluster_download_what_they_label(
    run: Path, folder: Path, expected: Any, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install -e '.[cluster]'")
    out = tmp_path / "labels.csv"
    with http_server(folder, Guarded) as host:
        paths = [f"http://{host}/{quote(name)}?signature={Guarded.signature}" for name in NAMES]
        paths += [f"http://{host}/missing.mp4?signature={Guarded.signature}"]
        paths += [str(folder / NAMES[0])]
        words = [
            sys.executable, "-m", "engine", "label", "-", "--list", "--model", run, "--out", out,
            "--cluster", "--workers", 1, "--device", "cpu",
        ]  # fmt: skip
        done = subprocess.run(
            list(map(str, words)), capture_output=True, text=True, input="\n".join(paths)
        )
    assert done.returncode == 1, done.stderr
    rows = rows_of(out)
    assert len(rows) == len(NAMES) + 1
    for name in NAMES:
        row = expected[f"s3://{BUCKET}/all/{name}"]
        assert rows[f"http://{host}/{quote(name)}"] == row
    assert rows_of(out.with_name("failures-labels.csv")) == {
        f"http://{host}/missing.mp4": ["the server has no such file"]
    }


@pytest.mark.slow
def test_ctrl_c_removes_downloads_and_so_does_the_run_after_a_kill(
    run: Path, folder: Path, temporary: Path, tmp_path: Path
) -> None:
    films = Path(shutil.copytree(folder, tmp_path / "films"))
    with (films / "a b.mp4").open("ab") as file:
        file.write(bytes(64 << 20))

    ended = Event()

    class Slow(Guarded):
        def send_head(self) -> Any:
            return super(Guarded, self).send_head()

        def copyfile(self, source: Any, outputfile: Any) -> None:
            while chunk := source.read(1 << 16):
                outputfile.write(chunk)
                if "a%20b" in self.path:
                    ended.wait(0.02)

    with http_server(films, Slow) as host:
        (tmp_path / "list.txt").write_text(f"http://{host}/deep/e+f.mp4\nhttp://{host}/a%20b.mp4\n")
        words = [
            sys.executable, "-m", "engine", "label", tmp_path / "list.txt", "--list",
            "--model", run, "--out", tmp_path / "labels.csv",
        ]  # fmt: skip
        for number in (signal.SIGKILL, signal.SIGINT):
            before = set(left_in(temporary))
            process = subprocess.Popen(
                list(map(str, words)), stderr=subprocess.PIPE, text=True, env={**os.environ},
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
            try:
                wait_for(partial(_is_downloading, process, temporary, before))
                process.send_signal(number)
                _, errors = process.communicate(timeout=600)
            finally:
                process.kill()
            assert process.returncode == (130 if number == signal.SIGINT else -number), errors
            assert bool(left_in(temporary)) == (number == signal.SIGKILL)
        ended.set()
