"""The manifest: what goes in comes out, and what is wrong in it is named by line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data import manifest
from engine.data.manifest import COLUMNS, Clip, Manifest
from engine.errors import UserError

HEADER = ",".join(COLUMNS)

names = st.text(
    st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda text: text not in (".", ".."))


def test_the_columns_are_the_contract() -> None:
    assert HEADER == "path,label,source,split,frames,fps,width,height,codec"


@given(
    path=names, label=names, source=names,
    split=st.sampled_from(["train", "val", "test", ""]),
    frames=st.integers(0, 10**7), fps=st.floats(0, 1000), side=st.integers(0, 10**5),
)  # fmt: skip
def test_what_is_saved_is_loaded(tmp_path_factory, side: int, **values) -> None:
    root = tmp_path_factory.mktemp("root")
    clip = Clip(**values, width=side, height=side, codec="mpeg4")
    Manifest(root=root, clips=(clip,)).save()
    assert manifest.load(root).clips == (clip,)


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    path = b"caf\xe9.avi".decode("utf-8", "surrogateescape")
    Manifest(root=tmp_path, clips=(Clip(path=path, label="x", source="y"),)).save()
    assert manifest.load(tmp_path).clips[0].path == path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the first line must be path,label"),
        ("path,label\n", "the first line must be path,label"),
        (HEADER + "\n", "lists no clips"),
        (f"{HEADER}\na.avi,run,s,train,9\n", r"manifest\.csv line 2: 5 values where 9 belong"),
        (f"{HEADER}\na.avi,,s,train,9,30,2,2,h264\n", "line 2: the label is empty"),
        (f"{HEADER}\na.avi,run,s,sometimes,9,30,2,2,h264\n", "line 2: the split 'sometimes'"),
        (f"{HEADER}\na.avi,run,s,,nine,30,2,2,h264\n", "line 2: frames, fps, width and height"),
        (f"{HEADER}\na.avi,run,s,,-9,30,2,2,h264\n", "line 2: .* can't be negative"),
        (f"{HEADER}\na.avi,run,s,,9,inf,2,2,h264\n", "line 2: .* or infinite"),
        (f"{HEADER}\na.avi,run,s,,9,nan,2,2,h264\n", "line 2: .* or infinite"),
        (f"{HEADER}\n../a.avi,run,s,,9,30,2,2,h264\n", "isn't one inside the dataset's folder"),
        (f"{HEADER}\n/etc/a.avi,run,s,,9,30,2,2,h264\n", "isn't one inside the dataset's folder"),
        (f"{HEADER}\n" + "a.avi,run,s,,9,30,2,2,h264\n" * 2, r"lines 2 and 3 both name a\.avi"),
        (f'{HEADER}\n"a.avi,run,s,,9,30,2,2,h264\n', "not CSV"),
    ],
)
def test_a_bad_row_is_named_with_its_line(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(UserError, match=reason):
        manifest.load(tmp_path)


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        manifest.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="make one with `engine data index"):
        manifest.load(tmp_path)
