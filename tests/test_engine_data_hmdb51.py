"""HMDB51 from archives and from folders, whole; and what broken archives get."""

import shutil
import subprocess
from pathlib import Path

import pytest
import rarfile
from rar import COMPRESSED, write_rar

from engine.data import hmdb51, manifest, splits
from engine.data.hmdb51 import import_hmdb51
from engine.errors import RefusedError, UserError

TOOLS = {
    "unrar": {"unrar": True},
    "unar": {"unar": True},
    "bsdtar": {"bsdtar": True},
    "7z": {"sevenzip": True, "sevenzip2": True},
}
NO_TOOLS = dict.fromkeys(("unrar", "unar", "bsdtar", "sevenzip", "sevenzip2"), False)


def pack(synth: Path, out: Path, *, nested: bool = True) -> Path:
    """The dataset as its makers distribute theirs: a RAR of RARs, and one of split files."""
    out.mkdir()
    inner = {}
    for folder in (synth / "videos").iterdir():
        members = {f"{folder.name}/{clip.name}": clip.read_bytes() for clip in folder.iterdir()}
        archive = write_rar(out / f"{folder.name}.rar", members)
        inner[archive.name] = archive.read_bytes()
    if nested:
        write_rar(out / "hmdb51_org.rar", inner)
        for name in inner:
            (out / name).unlink()
    texts = {
        f"testTrainMulti_7030_splits/{path.name}": path.read_bytes()
        for path in (synth / "testTrainMulti_7030_splits").iterdir()
    }
    write_rar(out / "test_train_splits.rar", texts)
    return out


def assert_same(synth: Path, out: Path) -> None:
    assert manifest.load(out).clips == manifest.load(synth).clips
    for clip in manifest.load(synth).clips:
        assert (out / clip.path).read_bytes() == (synth / clip.path).read_bytes()
    names = sorted(path.name for path in (out / "testTrainMulti_7030_splits").iterdir())
    assert names == sorted(p.name for p in (synth / "testTrainMulti_7030_splits").iterdir())
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.csv", "splits", "testTrainMulti_7030_splits", "videos"
    ]  # fmt: skip


@pytest.mark.parametrize("nested", [True, False])
def test_archives_whole_or_by_class(nested: bool, synth_master: Path, tmp_path: Path) -> None:
    archives = pack(synth_master, tmp_path / "in", nested=nested)
    imported = import_hmdb51(archives, tmp_path / "out")
    assert_same(synth_master, tmp_path / "out")
    assert imported.index.grammars == {"HMDB51": 30}
    assert imported.index.manifest == manifest.load(tmp_path / "out")
    assert splits.current(manifest.load(tmp_path / "out")) == "official fold 1 seed 0"
    assert len(imported.odd_counts) == 9  # the synthetic set is smaller than the real one


def test_the_outer_archive_may_be_named_itself(synth_master: Path, tmp_path: Path) -> None:
    archives = pack(synth_master, tmp_path / "in")
    import_hmdb51(archives / "hmdb51_org.rar", tmp_path / "out")
    assert_same(synth_master, tmp_path / "out")


@pytest.mark.parametrize("layout", ["videos", "hmdb51_org", "."])
def test_folders_unpacked_by_hand_are_linked(layout: str, synth: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    if layout == ".":
        shutil.copytree(synth / "videos", source)
    else:
        shutil.copytree(synth / "videos", source / layout)
    shutil.copytree(synth / "testTrainMulti_7030_splits", source / "testTrainMulti_7030_splits")
    import_hmdb51(source, tmp_path / "out")
    assert_same(synth, tmp_path / "out")
    clip = manifest.load(synth).clips[0]
    assert (tmp_path / "out" / clip.path).stat().st_nlink == 2


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_unpacks_the_same(
    tool: str, synth_master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = next(filter(shutil.which, {"7z": ("7z", "7zz")}.get(tool, (tool,))), None)
    if program is None:
        pytest.skip(f"{tool} is not installed")
    if tool == "7z" and b"Rar" not in subprocess.run([program, "i"], capture_output=True).stdout:
        pytest.skip("this 7z is built without RAR; Debian's package 7zip-rar adds it")
    archives = pack(synth_master, tmp_path / "in")
    try:
        rarfile.tool_setup(**(NO_TOOLS | TOOLS[tool]), force=True)
    except rarfile.RarCannotExec:
        pytest.skip(f"{tool} can't open RAR here")
    # Stored members need no tool; hand them to it as compressed ones are.
    monkeypatch.setattr(
        rarfile.CommonParser, "_open_clear", lambda self, member: self._open_hack(member, None)
    )
    try:
        import_hmdb51(archives, tmp_path / "out")
    finally:
        rarfile.CURRENT_SETUP = None
    assert_same(synth_master, tmp_path / "out")


def test_without_any_tool_the_package_is_named(
    synth_master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = pack(synth_master, tmp_path / "in")
    write_rar(archives / "test_train_splits.rar", {"x_test_split1.txt": b"xyz"}, method=COMPRESSED)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    with pytest.raises(RefusedError, match="apt-get install unar"):
        import_hmdb51(archives, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _truncate(archives: Path) -> None:
    path = archives / "hmdb51_org.rar"
    path.write_bytes(path.read_bytes()[:-100_000])


def _garble(archives: Path) -> None:
    (archives / "hmdb51_org.rar").write_bytes(b"no archive at all")


def _damage_inside(archives: Path) -> None:
    path = archives / "hmdb51_org.rar"
    data = bytearray(path.read_bytes())
    data[200_000] ^= 0xFF
    path.write_bytes(data)


def _drop_splits(archives: Path) -> None:
    (archives / "test_train_splits.rar").unlink()


def _name_a_ghost(archives: Path) -> None:
    members = dict.fromkeys(
        (f"{label}_test_split{fold}.txt" for label in ("move_left", "move_right", "turn_clockwise")
         for fold in (1, 2, 3)),
        b"ghost.avi 1 \n",
    )  # fmt: skip
    write_rar(archives / "test_train_splits.rar", members)


def _escape(archives: Path) -> None:
    write_rar(
        archives / "hmdb51_org.rar",
        {
            "../../move_left.rar": write_rar(
                archives / "x", {"../../../evil.avi": b"x"}
            ).read_bytes()
        },
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, r"hmdb51_org\.rar can't be read as a RAR archive .*; download it again"),
        (_garble, r"hmdb51_org\.rar can't be read as a RAR archive"),
        (_damage_inside, r"\.rar can't be read as a RAR archive"),
        (_drop_splits, r"holds neither test_train_splits\.rar nor the folder"),
        (_name_a_ghost, r"^testTrainMulti_7030_splits/.*_test_split1\.txt line 1 names ghost\.avi"),
        (_escape, "names|can't be read|isn't among"),
    ],
)
def test_bad_archives_leave_nothing_behind(
    damage, reason: str, synth_master: Path, tmp_path: Path
) -> None:
    archives = pack(synth_master, tmp_path / "in")
    damage(archives)
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(UserError, match=reason):
        import_hmdb51(archives, tmp_path / "out")
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_two_clips_of_one_name(synth_master: Path, tmp_path: Path) -> None:
    archives = pack(synth_master, tmp_path / "in", nested=False)
    write_rar(archives / "twice.rar", {"a/clip.avi": b"1", "b/clip.avi": b"2"})
    with pytest.raises(UserError, match=r"twice\.rar holds two clips called clip\.avi"):
        import_hmdb51(archives, tmp_path / "out")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_nothing_to_import(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"doesn't exist|holds neither"):
        import_hmdb51(tmp_path / name, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_indexing_again_finds_the_same(synth: Path) -> None:
    from engine.data.index import index_folder

    before = manifest.load(synth)
    index = index_folder(synth)
    assert [clip.path for clip in index.manifest.clips] == [clip.path for clip in before.clips]
    assert hmdb51.hmdb51_splits.has_splits(index.manifest)
    next(iter((synth / "videos" / "move_left").iterdir())).unlink()
    with pytest.raises(UserError, match="which isn't among the clips of move_left"):
        index_folder(synth)
