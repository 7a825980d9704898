"""What others made can do no harm: nothing is unpickled or run, nothing leaves its folder, and
nothing absurd costs memory or time. What is merely broken is fuzz.py's and test_fuzz.py's."""

import ast
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rarfile
import torch
import videos
from rar import COMPRESSED, write_rar
from test_architecture import PACKAGES, ROOT, modules
from test_trt_artifact import SHAPE, Tiny, compiled

import trt
from dali_pipelines import clip_file
from dali_pipelines.errors import VideoError
from dali_pipelines.feed import ClipRow, Feed
from dali_pipelines.frame_cache import FrameCache
from dali_pipelines.loader import DaliLoader
from dali_pipelines.spec import ClipSpec
from dali_pipelines.torch_loader import TorchLoader
from dali_pipelines.window_loader import WindowLoader
from dali_pipelines.windows import plan_windows
from engine.commands.opened import find_checkpoint, find_clips
from engine.data import hmdb51_splits, manifest
from engine.data.archives import unpack
from engine.data.folders import list_clips
from engine.data.hmdb51 import import_hmdb51
from engine.data.lists import read_lists
from engine.data.manifest import Clip, Manifest
from engine.errors import UserError
from engine.evaluation import report
from engine.evaluation.metrics import measure
from engine.evaluation.predict import Predictions
from engine.models import weights
from engine.training import checkpoint
from trt import artifact
from trt.config import CONFIG, PROGRAM, Config
from trt.errors import CompileError, RefusedError
from trt.program import BytesIn

SMALL = ClipSpec(num_frames=4, resize=72, crop=64)
MIB = 1 << 20


class Harm:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Is there once something was run that mustn't be."""
    return tmp_path / "harmed"


def pickles(mark: Path) -> dict[str, bytes]:
    """As pickle and as torch write it, in torch's two formats."""
    harm = {"w": torch.ones(2), "step": Harm(mark)}
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(harm, new)
    torch.save(harm, old, _use_new_zipfile_serialization=False)
    return {"plain": pickle.dumps(harm), "new": new.getvalue(), "old": old.getvalue()}


def test_the_harm_would_be_done(mark: Path) -> None:
    for kind, data in pickles(mark).items():
        assert not mark.exists()
        torch.load(io.BytesIO(data), weights_only=False) if kind != "plain" else pickle.loads(data)
        assert mark.exists()
        mark.unlink()


# Nothing is unpickled


@pytest.mark.parametrize("kind", ["plain", "new", "old"])
@pytest.mark.parametrize("name", ["state.pt", "model.safetensors"])
def test_a_checkpoint_never_unpickles(name: str, kind: str, mark: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pickles(mark)[kind])
    load = checkpoint.load_state if name == "state.pt" else checkpoint.load_weights
    with pytest.raises(UserError, match=re.escape(f"{name} can't be read")):
        load(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["plain", "new", "old"])
@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.ckpt", "model.safetensors"])
def test_weights_from_elsewhere_are_never_unpickled(
    name: str, kind: str, mark: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(pickles(mark)[kind])
    with pytest.raises(UserError, match="can't be read as weights"):
        weights.load(torch.nn.Linear(2, 2), str(tmp_path / name))
    assert not mark.exists()


def test_a_published_vivit_is_never_unpickled(mark: Path, tmp_path: Path) -> None:
    """Its folder is opened by transformers."""
    from transformers import VivitConfig

    from engine.models import vivit

    VivitConfig(
        image_size=32, num_frames=4, tubelet_size=[2, 16, 16], hidden_size=32,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=3,
    ).save_pretrained(tmp_path)  # fmt: skip
    options = vivit.Options(dim=32, depth=1, heads=2, patch=16)
    model = vivit.build(options, num_frames=4, size=32, num_classes=3)
    for data in pickles(mark).values():
        (tmp_path / "pytorch_model.bin").write_bytes(data)
        with pytest.raises(UserError, match="can't be read as weights"):
            weights.load(model, str(tmp_path))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["plain", "new", "old"])
def test_the_cache_of_frames_never_unpickles(kind: str, mark: Path, tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", frames=4)
    cache = FrameCache(tmp_path / "cache", max_gb=1)
    cache.put(path, 72, [0], [np.zeros((72, 96, 3), np.uint8)])
    (entry,) = cache.folder.iterdir()
    entry.write_bytes(pickles(mark)[kind])
    assert FrameCache(tmp_path / "cache", max_gb=1).get(path, 72, [0]) is None
    assert not mark.exists()


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact; read only."""
    return compiled(tmp_path_factory.mktemp("eager") / "artifact", *model_and_clips(), "eager")


def model_and_clips() -> tuple[BytesIn, torch.Tensor]:
    torch.manual_seed(0)
    model = BytesIn(Tiny().eval(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).eval()
    return model, torch.zeros(16, *SHAPE, dtype=torch.uint8)


def rewritten(
    source: Path, folder: Path, change: Any, more: dict[str, bytes] | None = None
) -> Path:
    """A copy of an artifact with another program in it, and digests that are right."""
    shutil.copytree(source, folder)
    with zipfile.ZipFile(source / PROGRAM) as old, zipfile.ZipFile(folder / PROGRAM, "w") as new:
        for item in old.infolist():
            new.writestr(item.filename, change(item.filename, old.read(item)))
        top = old.namelist()[0].partition("/")[0]
        for name, data in (more or {}).items():
            new.writestr(name.replace("TOP", top), data)
    artifact.seal(folder, Config.read(folder))
    return folder


@pytest.mark.parametrize(
    "place",
    [
        "TOP/data/weights/model.pt", "TOP/data/constants/model.pt",
        "TOP/data/constants/custom_obj_0", "TOP/data/constants/opaque_obj_0",
        "serialized_example_inputs.pt",
    ],
)  # fmt: skip
def test_a_pickle_added_to_an_artifact_is_refused(
    place: str, eager: Path, mark: Path, tmp_path: Path
) -> None:
    more = {place: pickles(mark)["new"]}
    folder = rewritten(eager, tmp_path / "a", lambda name, data: data, more)
    with pytest.raises(CompileError, match="holds a pickle or the like"):
        trt.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("spelling", [b'"use_pickle": true', b'"use_pickle":true'])
def test_weights_of_an_artifact_that_say_they_are_pickled_are_refused(
    spelling: bytes, eager: Path, mark: Path, tmp_path: Path
) -> None:
    def change(name: str, data: bytes) -> bytes:
        if "/weights/weight_" in name:
            return pickles(mark)["new"]
        return data.replace(b'"use_pickle": false', spelling)

    folder = rewritten(eager, tmp_path / "a", change)
    with pytest.raises(CompileError, match="holds a pickle"):
        trt.load(folder)
    assert not mark.exists()


def test_a_formula_in_an_artifact_runs_nothing(eager: Path, mark: Path, tmp_path: Path) -> None:
    """Torch reads the sizes of tensors by sympy, and that by `eval`."""
    spelt = "+".join(f"chr({ord(letter)})" for letter in str(mark))
    for number, formula in enumerate(
        (f"open({spelt}, chr(119)) or Symbol('s0')", f"S('open({spelt}, chr(119))')")
    ):
        folder = rewritten(
            eager, tmp_path / str(number),
            lambda name, data, formula=formula: re.sub(
                rb'("expr_str": )"[^"]*"', rb"\1" + json.dumps(formula).encode(), data
            ),
        )  # fmt: skip
        with pytest.raises(CompileError, match="holds a formula that is none"):
            trt.load(folder)
    assert not mark.exists()


def test_an_operator_in_an_artifact_is_one_of_torchs(
    eager: Path, mark: Path, tmp_path: Path
) -> None:
    def change(name: str, data: bytes) -> bytes:
        return data.replace(b'"torch.ops.aten.relu.default"', b'"torch.serialization.os.system"')

    with pytest.raises(CompileError, match="can't be read"):
        trt.load(rewritten(eager, tmp_path / "a", change))


UNPICKLING = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "yaml.unsafe_load",
    "joblib.load", "shelve.open", "marshal.loads", "marshal.load", "dill.load", "dill.loads",
    "cloudpickle.load", "cloudpickle.loads", "eval", "exec", "compile", "__import__", "os.system",
    "torch.hub.load", "pandas.read_pickle", "torch.jit.load",
}  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_calls_what_runs_what_it_reads(package: str) -> None:
    found = [f"{path.relative_to(ROOT)}: {why}" for path in modules(package) for why in calls(path)]
    assert not found


def calls(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {each.arg: ast.unparse(each.value) for each in node.keywords}
        if name in UNPICKLING:
            found.append(f"{name} in line {node.lineno}")
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(f"torch.load without weights_only in line {node.lineno}")
        if name.endswith(("np.load", "numpy.load")) and given.get("allow_pickle") != "False":
            found.append(f"np.load that may unpickle in line {node.lineno}")
        if "trust_remote_code" in given or given.get("shell") == "True":
            found.append(f"{name} runs what others wrote in line {node.lineno}")
    return found


def test_the_scan_sees_what_it_looks_for(tmp_path: Path) -> None:
    code = "torch.load(x)\nnp.load(y, allow_pickle=True)\npickle.loads(z)\nrun('a', shell=True)"
    (tmp_path / "x.py").write_text(code)
    assert len(calls(tmp_path / "x.py")) == 4


# An artifact is verified before native code is loaded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "library"),
    [("inductor", ".wrapper.so"), ("openvino", "libopenvino"), ("onnx", "onnxruntime")],
)
def test_a_changed_payload_never_reaches_its_library(
    backend: str, library: str, tmp_path: Path
) -> None:
    """The process shows what it has mapped and imported: a sound artifact brings its library in."""
    folder = compiled(tmp_path / "a", *model_and_clips(), backend)
    code = (
        "import sys; from pathlib import Path; import trt; from trt.errors import RefusedError\n"
        "try: trt.load(Path(sys.argv[1])); print('loaded')\n"
        "except RefusedError as error: print(error)\n"
        "print(Path('/proc/self/maps').read_text(), *sys.modules)"
    )

    def opened() -> str:
        command = [sys.executable, "-c", code, str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    sound = opened()
    assert sound.startswith("loaded")
    assert library in sound
    payload = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    refused = opened()
    assert "is not the file that was written" in refused.splitlines()[0]
    assert library not in "".join(refused.splitlines(keepends=True)[1:])


@pytest.mark.parametrize("harm", ["unlisted", "nothing listed", "added", "outside"])
def test_every_file_of_an_artifact_must_be_listed(harm: str, eager: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(eager, tmp_path / "a"))
    values = json.loads((folder / CONFIG).read_text())
    if harm == "unlisted":
        values["files"] = {"other": artifact.digest(folder / PROGRAM)}
        (folder / "other").write_bytes((folder / PROGRAM).read_bytes())
    elif harm == "nothing listed":
        values["files"] = {}
    elif harm == "added":
        (folder / "model.so").write_bytes(b"\x7fELF")
    else:
        (tmp_path / "outside").write_text("x")
        values["files"]["../outside"] = artifact.digest(tmp_path / "outside")
    (folder / CONFIG).write_text(json.dumps(values))
    words = "is no file of the artifact|lists no files|outside itself"
    with pytest.raises(RefusedError, match=words):
        trt.load(folder)


# Nothing leaves its folder

OUTSIDE = ["../x.avi", "a/../../x.avi", "/etc/x.avi", "..", "a/..", "a\0b.avi"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_manifest_names_nothing_outside(path: str, tmp_path: Path) -> None:
    (tmp_path / "x.avi").touch()
    Manifest(root=tmp_path, clips=(Clip(path=path, label="x", source="y"),)).save()
    with pytest.raises(UserError, match="isn't one inside the dataset's folder"):
        manifest.load(tmp_path)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_runs_own_manifest_names_nothing_outside(path: str, tmp_path: Path) -> None:
    """It says which clips a run learnt from, and is read when the run is evaluated."""
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
    with pytest.raises(UserError, match=r"run\.json (is damaged|names no data)"):
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
    rows = [ClipRow(id=0, path=path, label=0, frames=8, fps=30)]
    probabilities = np.array([[[0.1, 0.9]]])
    names = ["/../../../evil" + "x" * 300, "b"]
    evaluated = report.Evaluated(
        name="run", class_names=names, spec=SMALL,
        protocol=report.Protocol(
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
    from engine.data import doctor, index

    (root / "loop").unlink()
    found = index.index_folder(root)
    assert [(clip.path, clip.frames) for clip in found.manifest.clips] == [
        ("run/a.avi", 4), ("run/b.avi", 0),
    ]  # fmt: skip
    index.save(found)
    doctor.check_dataset(found.manifest)
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
    started = time.monotonic()
    with pytest.raises(VideoError, match="can't be opened as video"):
        clip_file.probe(path)
    assert time.monotonic() - started < 5


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


# What is absurd costs nothing


def peak_of(code: str, *words: object) -> tuple[int, str]:
    """MiB that a process took beyond what its libraries take, and what it said."""
    begin = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from dali_pipelines import clip_file\n"
        "from dali_pipelines.errors import VideoError\n"
        "from dali_pipelines.windows import plan_windows\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "path = Path(sys.argv[1])\n"
    )
    end = "\nprint((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    result = subprocess.run(
        [sys.executable, "-c", begin + code + end, *map(str, words)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    said, _, peak = result.stdout.strip().rpartition("\n")
    return int(peak), said


REFUSED = """
for read in (clip_file.probe, lambda path: clip_file.read_frames(path, np.array([0]))):
    try:
        read(path)
        print('READ')
    except VideoError as error:
        print(error.reason)
print(clip_file.check(path).reason)
"""


def _huge_y4m(folder: Path) -> Path:
    path = folder / "huge.y4m"
    path.write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1 Ip C420jpeg\nFRAME\n" + b"x" * 1000)
    return path


def _huge_avi(folder: Path) -> Path:
    path = videos.write_video(folder / "huge.avi", codec="mjpeg", frames=4)
    data = bytearray(path.read_bytes())
    place = data.index(b"strf") + 8
    data[place + 4 : place + 12] = struct.pack("<2i", 60000, 60000)
    path.write_bytes(data)
    return path


def _huge_mjpeg(folder: Path) -> Path:
    """Each picture claims the size."""
    path = videos.write_video(folder / "huge.avi", codec="mjpeg", frames=4)
    data = path.read_bytes()
    path.write_bytes(
        re.sub(rb"(\xff\xc0\x00\x11\x08).{4}", rb"\1" + struct.pack(">2H", 60000, 60000), data)
    )
    return path


def _huge_mp4(folder: Path) -> Path:
    path = videos.write_video(folder / "huge.mp4", codec="mpeg4", frames=4)
    data = bytearray(path.read_bytes())
    place = data.index(b"mp4v") + 4 + 24
    data[place : place + 4] = struct.pack(">2H", 60000, 60000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("make", [_huge_y4m, _huge_mjpeg])
def test_a_video_that_claims_an_absurd_size_is_refused_before_memory_is_taken(
    make: Any, tmp_path: Path
) -> None:
    peak, said = peak_of(REFUSED, make(tmp_path))
    assert "READ" not in said
    assert peak < 100


@pytest.mark.parametrize("make", [_huge_avi, _huge_mp4])
def test_a_size_that_only_the_container_claims_costs_nothing(make: Any, tmp_path: Path) -> None:
    """The pictures state their size themselves, and that is what counts."""
    peak, said = peak_of(REFUSED, make(tmp_path))
    assert said.splitlines()[:2] == ["READ", "READ"]
    assert peak < 100


def png(width: int, height: int) -> bytes:
    """A header and next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def jpeg(width: int, height: int) -> bytes:
    from PIL import Image

    whole = io.BytesIO()
    Image.fromarray(videos.numbered(1, 64, 48)).save(whole, "JPEG")
    size = struct.pack(">2H", height, width)
    return re.sub(rb"(\xff\xc0\x00\x11\x08).{4}", lambda found: found[1] + size, whole.getvalue())


@pytest.mark.parametrize(("suffix", "make"), [(".png", png), (".jpg", jpeg)])
@pytest.mark.parametrize("side", [15000, 60000])
def test_an_extracted_frame_of_absurd_size_is_refused_by_all_who_read_it(
    suffix: str, make: Any, side: int, tmp_path: Path
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(4):
        (folder / f"f_{number}{suffix}").write_bytes(make(side, side))
    for read in (clip_file.probe, lambda path: clip_file.read_frames(path, np.array([0]))):
        with pytest.raises(VideoError, match="claims"):
            read(folder)
    assert "claims" in clip_file.check(folder).reason
    row = ClipRow(id=0, path=folder, label=0, frames=4, codec="png")
    for loader in (DaliLoader([row], Feed(spec=SMALL)), TorchLoader([row], Feed(spec=SMALL))):
        assert not list(loader)
        (reason,) = loader.report.failures.values()
        assert "claims" in reason


def test_a_frame_that_is_a_pipe_is_no_frame(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "frame_1.jpg")
    with pytest.raises(VideoError, match="it is no file"):
        clip_file.probe(tmp_path)
    row = ClipRow(id=0, path=tmp_path, label=0, frames=1, codec="jpeg")
    loader = DaliLoader([row], Feed(spec=SMALL))
    assert not list(loader)
    assert loader.report.failures == {tmp_path: "frame_1.jpg: it is no file"}


def test_a_video_that_claims_to_last_for_years_is_refused(tmp_path: Path) -> None:
    path = videos.write_video(
        tmp_path / "years.mkv", codec="h264", frames=3, pts=[0, 1000, 2_000_000_000]
    )
    code = "try: plan_windows(path, window_s=1)\nexcept VideoError as error: print(error)"
    peak, said = peak_of(code, path)
    assert "claims to last 4,000,000 s" in said or "claims to last" in said
    assert peak < 100


def test_few_frames_far_apart_make_no_window_behind_the_end(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "slow.mkv", codec="h264", frames=3, pts=[0, 3000, 6000])
    windows = plan_windows(path, window_s=0.3, stride_s=0.2)
    assert all(window.start_s < window.end_s <= 9.001 for window in windows)


@pytest.mark.parametrize(
    ("column", "value"),
    [("frames", 10**30), ("frames", 10**12), ("fps", "1e300"), ("fps", 10**9), ("width", 10**18)],
)
def test_a_manifest_that_claims_what_cant_be_is_refused(
    column: str, value: Any, tmp_path: Path
) -> None:
    facts: dict[str, Any] = {"frames": 9, "fps": 30, "width": 2, "height": 2, column: value}
    (tmp_path / "manifest.csv").write_text(
        f"{','.join(manifest.COLUMNS)}\na.avi,run,s,,"
        f"{facts['frames']},{facts['fps']},{facts['width']},{facts['height']},h264\n"
    )
    with pytest.raises(UserError, match=r"line 2: .* can't be true"):
        manifest.load(tmp_path)


@pytest.mark.parametrize("field", [0, 1, 2])
def test_a_cache_entry_that_claims_absurd_counts_is_dropped(field: int, tmp_path: Path) -> None:
    """The header holds the number of frames, their height and their width."""
    path = videos.write_video(tmp_path / "clip", frames=4)
    cache = FrameCache(tmp_path / "cache", max_gb=1)
    for claim in (1 << 30, 1 << 40, (1 << 62) + 1, -1):
        cache.put(path, 72, [0], [np.zeros((72, 96, 3), np.uint8)])
        (entry,) = cache.folder.iterdir()
        data = bytearray(entry.read_bytes())
        struct.pack_into("<q", data, 16 + 8 * field, claim)
        entry.write_bytes(data)
        fresh = FrameCache(tmp_path / "cache", max_gb=1)
        assert fresh.get(path, 72, [0]) is None
        fresh.put(path, 72, [0], [np.ones((72, 96, 3), np.uint8)])
        assert fresh.get(path, 72, [0]) is not None


# A decode that stalls


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One keyframe and 40,000 frames that need it, each repeating the one before: seconds of work
    for its last frame."""
    import av

    folder = tmp_path_factory.mktemp("endless")
    source = videos.write_video(folder / "a.mp4", codec="mpeg2video", frames=2, size=(640, 480),
                                gop=600)  # fmt: skip
    path = folder / "endless.mkv"
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream: Any = container.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        first, second = [bytes(each) for each in container.demux(stream) if each.size]
        for number in range(20_000):
            packet = av.Packet(first if not number else second)
            packet.pts = packet.dts = 40 * number
            packet.time_base, packet.stream = stream.time_base.__class__(1, 1000), copy
            packet.is_keyframe = not number
            output.mux(packet)
    return path


def test_a_decode_that_takes_too_long_is_given_up_and_the_rest_goes_on(
    endless: Path, tmp_path: Path
) -> None:
    sound = videos.write_video(tmp_path / "sound", frames=30)
    facts = clip_file.probe(endless)
    assert facts.frames > 10_000
    rows = [
        ClipRow(id=0, path=endless, label=0, frames=facts.frames, fps=25),
        ClipRow(id=1, path=sound, label=1, frames=30, fps=30),
    ]
    loader = DaliLoader(rows, Feed(spec=SMALL, batch_size=1), timeout_s=0.5, num_threads=1)
    started = time.monotonic()
    assert [batch.ids.tolist() for batch in loader] == [[1]]
    assert loader.report.failures == {endless: "it gave no frames for 0.5 s"}
    assert time.monotonic() - started < 10
    labelling = WindowLoader([endless, sound], SMALL, timeout_s=0.5)
    assert [window.path for batch in labelling for window in batch.windows] == [sound]
    assert labelling.report.failures == {endless: "it gave no frame for 0.5 s"}
