"""Lists that others wrote: CSV, Kinetics, UCF101 and their relatives."""

from pathlib import Path

import pytest
from folders import touch

from engine.data.lists import read_lists
from engine.errors import UserError


def rows(root: Path, name: str, text: str, **options: bool) -> list[tuple[str, str, str]]:
    path = root / name
    path.write_text(text)
    listing = read_lists(root, [path], skip_missing=options.get("skip_missing", False))
    return [(found.path, found.label, found.split) for found in listing.found]


def test_csv_with_header_and_extra_columns(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "sub/b, c.mp4")
    text = 'note,path,label,split,source\nx,a.mp4,run,train,film\ny,"sub/b, c.mp4",walk,val,\n'
    assert rows(tmp_path, "list.csv", text) == [
        ("a.mp4", "run", "train"),
        ("sub/b, c.mp4", "walk", "val"),
    ]
    assert (
        read_lists(tmp_path, [tmp_path / "list.csv"], skip_missing=False).found[0].source == "film"
    )


def test_csv_without_header(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    assert rows(tmp_path, "train.csv", "a.mp4,run\nb.mp4,walk fast\n") == [
        ("a.mp4", "run", "train"),
        ("b.mp4", "walk fast", "train"),
    ]


def test_kinetics_csv_finds_clips_by_id_and_times(tmp_path: Path) -> None:
    touch(tmp_path, "val/abseiling/0wR5jVB-WPk_000417_000427.mp4")
    text = (
        "label,youtube_id,time_start,time_end,split\n"
        "abseiling,0wR5jVB-WPk,417,427,validate\n"
        "abseiling,gone0000000,1,11,validate\n"
    )
    assert rows(tmp_path, "k.csv", text, skip_missing=True) == [
        ("val/abseiling/0wR5jVB-WPk_000417_000427.mp4", "abseiling", "val")
    ]
    with pytest.raises(UserError, match=r"k\.csv line 3 names gone0000000_000001_000011, which "):
        rows(tmp_path, "k.csv", text)


def test_kinetics_clips_may_be_extracted_frames(tmp_path: Path) -> None:
    touch(tmp_path, "riding/bbcdefghijk_000001_000011/img_1.jpg")
    text = "label,youtube_id,time_start,time_end,split\nriding,bbcdefghijk,1,11,train\n"
    assert rows(tmp_path, "k.csv", text) == [
        ("riding/bbcdefghijk_000001_000011", "riding", "train")
    ]


def test_ucf101_lists_with_class_index(tmp_path: Path) -> None:
    touch(tmp_path, "Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g08_c02.avi")
    (tmp_path / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 Archery\n")
    (tmp_path / "trainlist01.txt").write_text("Archery/v_Archery_g08_c02.avi 2\n")
    (tmp_path / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\r\n")
    lists = [tmp_path / "trainlist01.txt", tmp_path / "testlist01.txt"]
    found = read_lists(tmp_path, lists, skip_missing=False).found
    assert [(clip.path, clip.label, clip.split) for clip in found] == [
        ("Archery/v_Archery_g08_c02.avi", "Archery", "train"),
        ("Archery/v_Archery_g01_c01.avi", "Archery", "test"),
    ]


def test_spaced_lists_with_spaces_in_names_and_frame_counts(tmp_path: Path) -> None:
    touch(tmp_path, "my clips/a b.mp4", "frames/one/img_1.jpg")
    assert rows(tmp_path, "val_list.txt", "my clips/a b.mp4 3\nframes/one 118 7\n") == [
        ("my clips/a b.mp4", "3", "val"),
        ("frames/one", "7", "val"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("path,label\na.mp4,run\na.mp4,run\n", r"line 3 names a\.mp4 again \(first in .* line 2\)"),
        ("path,label\n../a.mp4,run\n", "lies outside"),
        ("path,label\na.mp4\n", "1 values where the first line names 2"),
        ("path,label\na.mp4,\n", r"a\.mp4 has no label"),
        (
            "path,label,split\na.mp4,run,sometimes\n",
            "the split 'sometimes' is not train, val or test",
        ),
        (
            "path,label\nb.mp4,run\nc.mp4,run\n",
            r"line 2 names b\.mp4, which isn't in .* and 1 more",
        ),
        ("x.mp4,run\n", "which isn't in"),
    ],
)
def test_mistakes_are_named_with_file_and_line(text: str, reason: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(UserError, match=reason):
        rows(tmp_path, "list.csv", text)


def test_a_name_that_fits_two_clips_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "y/a.mp4")
    with pytest.raises(UserError, match=r"a\.mp4 may be x/a\.mp4 or y/a\.mp4; give the path"):
        rows(tmp_path, "list.csv", "path,label\na.mp4,run\n")


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv can't be read"):
        read_lists(tmp_path, [tmp_path / "none.csv"], skip_missing=False)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (None, "some labels are numbers and some are names; put classInd.txt"),
        ("1 Archery\n", r"trainlist01\.txt line 1: class 2 isn't in .*classInd\.txt"),
        ("Archery\n", r"classInd\.txt line 1: 'Archery' isn't"),
    ],
)
def test_numbers_and_names_of_classes_never_mix(index, reason: str, tmp_path: Path) -> None:
    touch(tmp_path, "Archery/a.avi", "Archery/b.avi")
    if index:
        (tmp_path / "classInd.txt").write_text(index)
    (tmp_path / "trainlist01.txt").write_text("Archery/a.avi 2\n")
    (tmp_path / "testlist01.txt").write_text("Archery/b.avi\n")
    with pytest.raises(UserError, match=reason):
        read_lists(
            tmp_path,
            [tmp_path / "trainlist01.txt", tmp_path / "testlist01.txt"],
            skip_missing=False,
        )


def test_one_clip_under_two_spellings_is_one_clip(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4")
    with pytest.raises(UserError, match=r"line 3 names x/a\.mp4 again"):
        rows(tmp_path, "list.csv", "path,label\nx/a.mp4,run\n./x//a.mp4,run\n")


def test_headers_tabs_and_list_names_as_people_write_them(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    assert rows(tmp_path, "values.csv", "Path, Label\na.mp4,run\n") == [("a.mp4", "run", "")]
    assert rows(tmp_path, "ucf_train.txt", "a.mp4\t3\n") == [("a.mp4", "3", "train")]
