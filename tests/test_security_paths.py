"""What others made leads nowhere else: manifests, lists, splits, archives, playlists."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import rarfile
import videos
from rar import COMPRESSED, write_rar

from dali_pipelines.decode import clip_file
from dali_pipelines.errors import VideoError
from dali_pipelines.loaders.loader_config import Sample
from dali_pipelines.spec import ClipSpec
from engine.data import hmdb51_splits, manifest
from engine.data.archives import unpack
from engine.data.folders import list_clips
from engine.data.hmdb51 import import_hmdb51
from engine.data.lists import read_lists
from engine.data.manifest import Clip, Manifest
from engine.errors import UserError
from engine.evaluation import report, results
from engine.evaluation.clips import find_clips
from engine.evaluation.metrics import measure
from engine.evaluation.predict import Predictions
from engine.predictor import find_checkpoint
from engine.training import checkpoint

SMALL = ClipSpec(num_frames=4, resize=72, crop=64)


OUTSIDE = ["../x.avi", "a/../../x.avi", "/etc/x.avi", "..", "a/..", "a\0b.avi"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_manifest_names_nothing_outside(path: str, tmp_path: Path) -> None:
    (tmp_path / "x.avi").touch()
    Manifest(root=tmp_path, clips=(Clip(path=path, label="x", source="y"),)).save()
    with pytest.raises(UserError, match="isn't one inside the dataset's folder"):
        manifest.load(tmp_path)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_runs_own_manifest_names_nothing_outside(path: str, tmp_path: Path) -> None:
    """It says which clips a run learned from, and is read when the run is evaluated."""
    root, run = tmp_path / "data", tmp_path / "run"
    root.mkdir()
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"data": str(root), "scheme": "none"}))
    Manifest(root=run, clips=(Clip(path=path, label="x", source="y"),)).save()
    with pytest.raises(UserError, match="isn't one inside the dataset's folder"):
        find_clips(run, None, ["x"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"data": 3}', '"a"', "[" * 9999])
def test_a_damaged_note_of_a_run_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        find_clips(tmp_path, None, ["x"])


@pytest.mark.parametrize("path", OUTSIDE[:3])
@pytest.mark.parametrize("form", ["path,label\n{},run\n", "{},run\n", "{} 1\n"])
def test_a_list_names_nothing_outside(form: str, path: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "x.avi").touch()
    (tmp_path / "list.csv").write_text(form.format(path))
    with pytest.raises(UserError, match="lies outside"):
        read_lists(root, [tmp_path / "list.csv"], skip_missing=True)


def test_a_kinetics_list_names_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "x_000001_000011.mp4").touch()
    header = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "list.csv").write_text(f"{header}run,../x,1,11,train\n")
    with pytest.raises(UserError, match="lies outside"):
        read_lists(tmp_path / "root", [tmp_path / "list.csv"], skip_missing=True)


def test_a_split_file_is_looked_for_inside_alone(tmp_path: Path) -> None:
    """Its name is made of the class's."""
    root = tmp_path / "root"
    (root / hmdb51_splits.FOLDER / "a").mkdir(parents=True)
    (tmp_path / "secret_test_split1.txt").write_text("the secret\n")
    label = "a/../../../secret"
    listed = Manifest(root=root, clips=(Clip(path="a.avi", label=label, source=""),))
    with pytest.raises(UserError, match="can't be HMDB51's; rename it"):
        hmdb51_splits.read_fold(listed, 1)


def test_the_best_checkpoint_is_one_of_the_runs_own(tmp_path: Path) -> None:
    for place in ("run/checkpoints/000001", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text("{}")
    run = tmp_path / "run"
    for name in ("../../elsewhere", str(tmp_path / "elsewhere"), "..", None, 3):
        (run / "best.json").write_text(json.dumps({"checkpoint": name, "metric": "m", "value": 1}))
        with pytest.raises(UserError, match=r"best\.json is damaged"):
            find_checkpoint(run)
    checkpoint.mark_best(run, run / "checkpoints" / "000001", "top1", 0.5)
    assert find_checkpoint(run)[0] == run / "checkpoints" / "000001"


def test_a_class_named_like_a_path_leads_no_file_of_a_report_elsewhere(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", frames=8)
    rows = [Sample(id=0, path=path, label=0, frames=8, fps=30)]
    probabilities = np.array([[[0.1, 0.9]]])
    names = ["/../../../evil" + "x" * 300, "b"]
    evaluated = results.Evaluated(
        name="run", class_names=names, spec=SMALL,
        protocol=results.Protocol(
            split="test", scheme="none", num_clips=1, num_failed=0, views="1x1", frames="4",
            checkpoint="", chosen_by="", device="cpu",
        ),
        levels={"video": measure(probabilities[:, 0], np.array([0]), ["s"])},
        predictions=Predictions(rows=rows, labels_N=np.array([0]),
                                probabilities_NVC=probabilities, failures={}),
    )  # fmt: skip
    (tmp_path / "out" / "run" / "confused" / "00_").mkdir(parents=True)
    before = sorted(tmp_path.iterdir())
    report.write(tmp_path / "out", [evaluated])
    assert sorted(tmp_path.iterdir()) == before
    (gif,) = (tmp_path / "out" / "run" / "confused").glob("*.gif")
    assert gif.name.startswith("00__.._.._.._evil")


MEMBERS = {
    "../../evil.avi": b"1", "/tmp/evil.avi": b"2", "..\\..\\evil2.avi": b"3",
    "run/../../evil3.avi": b"4", "C:\\evil4.avi": b"5",
}  # fmt: skip


def test_members_of_an_archive_stay_in_their_folder(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b" / "inside"
    inside.mkdir(parents=True)
    for name, data in MEMBERS.items():
        archive = write_rar(tmp_path / "evil.rar", {name: data})
        before = sorted(tmp_path.rglob("*"))
        unpack(archive, lambda name: inside / name.name if name.suffix == ".avi" else None)
        (written,) = set(tmp_path.rglob("*")) - set(before)
        assert written.parent == inside
        assert written.read_bytes() == data
        written.unlink()
    assert not Path("/tmp/evil.avi").exists()


@pytest.mark.parametrize("name", ["..", ".", "...rar", "....rar", "../../move_left.rar"])
def test_an_archive_of_archives_makes_no_folder_outside(name: str, tmp_path: Path) -> None:
    inner = write_rar(tmp_path / "x", {"../../../evil.avi": b"x"}).read_bytes()
    (tmp_path / "x").unlink()
    source = tmp_path / "in"
    source.mkdir()
    write_rar(source / "hmdb51_org.rar", {name: inner})
    write_rar(source / "test_train_splits.rar", {"move_left_test_split1.txt": b"a.avi 1"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError):
        import_hmdb51(source, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_an_archive_is_never_made(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    archive = write_rar(tmp_path / "l.rar", {"a.avi": b"/etc/passwd"}, mode=0o120777)
    inside = tmp_path / "inside"
    inside.mkdir()
    unpack(archive, lambda name: inside / name.name)
    assert not (inside / "a.avi").is_symlink()
    assert (inside / "a.avi").read_bytes() in (b"/etc/passwd", b"")


@pytest.mark.parametrize("tool", ["bsdtar", "unar", "unrar", "7z"])
def test_a_members_name_is_no_option_of_the_tool(
    tool: str, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bsdtar runs a program that it is told to decompress by. A tool is told names where the
    archive is solid."""
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    only = dict.fromkeys(("unrar", "unar", "bsdtar", "sevenzip", "sevenzip2"), False)
    chosen = {"sevenzip": True, "sevenzip2": True} if tool == "7z" else {tool: True}
    try:
        rarfile.tool_setup(**(only | chosen), force=True)
    except rarfile.RarCannotExec:
        pytest.skip(f"{tool} can't open RAR here")
    name = "--use-compress-program=touch harmed;.avi"
    archive = write_rar(tmp_path / "evil.rar", {name: b"x"}, method=COMPRESSED, solid=True)
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(UserError):
            unpack(archive, lambda name: tmp_path / "out.avi")
    finally:
        rarfile.CURRENT_SETUP = None
    time.sleep(0.5)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("harmed")]


def test_links_out_of_a_dataset_are_read_and_nothing_is_written_through_them(
    tmp_path: Path,
) -> None:
    """Who keeps videos on another disk links to them: that is the user's own doing."""
    outside = videos.write_video(tmp_path / "outside.avi", frames=4)
    before = outside.read_bytes()
    root = tmp_path / "root"
    (root / "run").mkdir(parents=True)
    (root / "run" / "a.avi").symlink_to(outside)
    (root / "run" / "b.avi").symlink_to(tmp_path / "nothing")
    (root / "loop").symlink_to(root)
    from engine.data import index, validate

    (root / "loop").unlink()
    found = index.index_folder(root)
    assert [(clip.path, clip.frames) for clip in found.manifest.clips] == [
        ("run/a.avi", 4), ("run/b.avi", 0),
    ]  # fmt: skip
    index.save(found)
    validate.check_dataset(found.manifest)
    assert outside.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside.avi", "root"]
    assert list_clips(root).found


PLAYLIST = """#EXTM3U
#EXT-X-TARGETDURATION:1
#EXTINF:1.0,
{}
#EXT-X-ENDLIST
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clip.m3u8", PLAYLIST),
        ("clip.mp4", "ffconcat version 1.0\nfile {name}\n"),
        ("clip.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
                     "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"),
    ],
)  # fmt: skip
def test_a_playlist_opens_no_other_file(name: str, text: str, tmp_path: Path) -> None:
    other = videos.write_video(tmp_path / "other.ts", codec="h264", frames=4)
    path = tmp_path / name
    path.write_text(text.replace("{name}", other.name).replace("{}", str(other)))
    with pytest.raises(VideoError, match="can't be opened as video"):
        clip_file.probe(path)


def test_a_name_with_a_colon_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = videos.write_video(tmp_path / "secret.avi", frames=4)
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.chdir(root)
    (root / "12:30.avi").write_bytes(secret.read_bytes())
    assert clip_file.probe(Path("12:30.avi")).frames == 4
    (root / "concat:..").mkdir()
    (root / "concat:.." / "secret.avi").write_bytes(b"no video")
    with pytest.raises(VideoError, match="can't be opened"):
        clip_file.probe(Path("concat:../secret.avi"))
