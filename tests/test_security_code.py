"""What others made runs nothing: nothing is unpickled, and an artifact is verified before native
code is loaded. What is merely broken is fuzz.py's and test_fuzz.py's."""

import ast
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import videos
from artifacts import SHAPE, Tiny, compiled
from source_tree import PACKAGES, ROOT, modules

import trt
from dali_pipelines.loaders.frame_cache import FrameCache
from engine.errors import UserError
from engine.models import weights
from engine.training import checkpoint
from trt import artifact
from trt.config import CONFIG, PROGRAM, ArtifactConfig
from trt.errors import CompileError, RefusedError
from trt.program import Uint8Input


class Harm:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


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


def model_and_clips() -> tuple[Uint8Input, torch.Tensor]:
    torch.manual_seed(0)
    model = Uint8Input(Tiny().eval(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).eval()
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
    artifact.seal(folder, ArtifactConfig.read(folder))
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
    with pytest.raises(CompileError, match="holds a pickle or an unknown file"):
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
    spelled = "+".join(f"chr({ord(letter)})" for letter in str(mark))
    for number, formula in enumerate(
        (f"open({spelled}, chr(119)) or Symbol('s0')", f"S('open({spelled}, chr(119))')")
    ):
        folder = rewritten(
            eager, tmp_path / str(number),
            lambda name, data, formula=formula: re.sub(
                rb'("expr_str": )"[^"]*"', rb"\1" + json.dumps(formula).encode(), data
            ),
        )  # fmt: skip
        with pytest.raises(CompileError, match="holds an invalid shape expression"):
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
BETWEEN_PROCESSES = {"dali_pipelines/loaders/decode_processes.py": "pickle.loads"}
"""What our own processes send each other, through sockets that no other process has."""


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_calls_what_runs_what_it_reads(package: str) -> None:
    found = [
        f"{name}: {why}"
        for path in modules(package)
        for name in [path.relative_to(ROOT).as_posix()]
        for why in calls(path)
        if not why.startswith(f"{BETWEEN_PROCESSES.get(name)} in ")
    ]
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
    words = "is not a file of the artifact|lists no files|outside itself"
    with pytest.raises(RefusedError, match=words):
        trt.load(folder)
