"""An exported model repository: consistent within, and each part does what the artifact does."""

import contextlib
import io
import json
import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pbtxt
import pytest
import torch
import videos
from torch import nn

from dali_pipelines.decode.clip_file import probe
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
from dali_pipelines.spec import ClipSpec
from engine.atomic import new_folder
from engine.serving import triton_repository
from trt import artifact as artifacts
from trt import triton_export
from trt.backends import BACKENDS
from trt.build_input import BuildInput
from trt.config import ArtifactConfig, BatchRange, Precision, Target
from trt.errors import CompileError, RefusedError
from trt.program import Uint8Input

SPEC = ClipSpec(num_frames=4, resize=48, crop=40)
CLASSES = ["wave", 'say "hi": loud', "sit still"]
Compile = Callable[..., Path]


class Tiny(nn.Module):
    """A picture network and a recurrent one, as the families are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Conv2d(3, 8, 5, stride=4)
        self.time = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, clips_BTCHW: torch.Tensor) -> torch.Tensor:
        batch, frames = clips_BTCHW.shape[:2]
        pictures = self.picture(clips_BTCHW.flatten(0, 1)).relu().mean((2, 3))
        return self.head(self.time(pictures.reshape(batch, frames, -1))[0][:, -1])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    def make(
        backend: str, *, most: int = 8, precision: Precision = "fp32", classes: Any = None
    ) -> Path:
        folder = tmp_path_factory.mktemp("artifacts") / f"{backend}-{most}"
        folder.mkdir()
        torch.manual_seed(0)
        model = Uint8Input(Tiny().eval(), mean=SPEC.mean, std=SPEC.std)
        target = Target(precision=precision, batches=BatchRange(opt=min(4, most), max=most))
        example = torch.zeros(1, SPEC.num_frames, 3, SPEC.crop, SPEC.crop, dtype=torch.uint8)
        BACKENDS[backend].build(BuildInput(model=model, example=example, target=target), folder)
        config = ArtifactConfig(
            backend=backend,
            asked=precision,
            target=target,
            clip=SPEC.to_dict(),
            model={},
            chosen_by="",
            class_names=classes or CLASSES,
            source="",
            key="",
            device="",
            versions={backend: "1.2"},
        )
        artifacts.seal(folder, config)
        return folder

    return make


@pytest.fixture(scope="module")
def onnx(compiled: Compile) -> Path:
    pytest.importorskip("onnxruntime")
    return compiled("onnx")


@pytest.fixture(scope="module")
def openvino(compiled: Compile) -> Path:
    pytest.importorskip("openvino")
    return compiled("openvino")


@pytest.fixture(params=["onnx", "openvino"])
def artifact(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def export(artifact: Path, folder: Path, device: str = "auto") -> dict[str, dict[str, Any]]:
    """The configs of the models in the new repository, by model."""
    triton_repository.write(artifact, folder, name="act", device=device)
    return read(folder)


def read(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.parent.name: pbtxt.parse(path.read_text(encoding="utf-8"))
        for path in folder.glob("*/config.pbtxt")
    }


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_configs_agree_with_each_other(artifact: Path, device: str, tmp_path: Path) -> None:
    configs = export(artifact, tmp_path / "models", device)
    assert set(configs) == {"act", "act_preprocess", "act_ensemble"}
    for name, config in configs.items():
        assert config["name"] == name
        assert (tmp_path / "models" / name / "1").is_dir()
    known = {each["name"]: shape(each, 8) for each in configs["act_ensemble"]["input"]}
    for step in configs["act_ensemble"]["ensemble_scheduling"]["step"]:
        model = configs[step["model_name"]]
        most = model["max_batch_size"]
        inputs = {each["name"]: shape(each, most) for each in model["input"]}
        outputs = {each["name"]: shape(each, most) for each in model["output"]}
        assert {pair["key"] for pair in step["input_map"]} == set(inputs)
        assert {pair["key"] for pair in step["output_map"]} == set(outputs)
        for pair in step["input_map"]:
            assert known[pair["value"]] == inputs[pair["key"]]
        known |= {pair["value"]: outputs[pair["key"]] for pair in step["output_map"]}
    (logits,) = configs["act_ensemble"]["output"]
    assert known[logits["name"]] == shape(logits, 8) == ("TYPE_FP32", -1, len(CLASSES))
    kinds = {group["kind"] for group in configs["act_preprocess"]["instance_group"]}
    assert kinds == {f"KIND_{device.upper()}"}
    clip = json.loads(configs["act_ensemble"]["parameters"][0]["value"]["string_value"])
    assert ClipSpec.from_dict(clip) == SPEC


def shape(tensor: dict[str, Any], most: int) -> tuple[Any, ...]:
    """With the batch, of which Triton tells a model's tensors apart from its config's."""
    return (tensor["data_type"], *([-1] if most else []), *tensor["dims"])


def test_batches_are_the_artifacts_where_the_backend_can_batch(onnx: Path, tmp_path: Path) -> None:
    configs = export(onnx, tmp_path / "models")
    model = configs["act"]
    assert model["platform"] == "onnxruntime_onnx"
    assert model["max_batch_size"] == 8
    assert model["dynamic_batching"]["preferred_batch_size"] == [4]
    assert model["input"][0]["dims"] == [4, 3, 40, 40]
    source, numbers = configs["act_preprocess"]["input"]
    assert source["allow_ragged_batch"]
    assert (numbers["data_type"], numbers["dims"]) == ("TYPE_INT32", [4])


@pytest.mark.slow
def test_openvino_gets_an_open_batch_and_its_precision(compiled: Compile, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = export(compiled("openvino", precision="bf16"), tmp_path / "models")["act"]
    assert model["backend"] == "openvino"
    assert model["max_batch_size"] == 0
    assert "dynamic_batching" not in model
    assert model["input"][0]["dims"] == [-1, 4, 3, 40, 40]
    assert model["parameters"] == [{"key": "HINT_BF16", "value": {"string_value": "YES"}}]


def test_an_artifact_for_single_clips_has_no_batch(compiled: Compile, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    configs = export(compiled("onnx", most=1), tmp_path / "models")
    assert configs["act"]["max_batch_size"] == 0
    assert configs["act"]["input"][0]["dims"] == [1, 4, 3, 40, 40]
    assert configs["act_ensemble"]["max_batch_size"] == 1


@pytest.mark.parametrize("model", ["act", "act_ensemble"])
def test_labels_are_the_classes_in_order(onnx: Path, model: str, tmp_path: Path) -> None:
    (output,) = export(onnx, tmp_path / "models")[model]["output"]
    text = (tmp_path / "models" / model / output["label_filename"]).read_text()
    assert text.split("\n") == [*CLASSES, ""]


def test_the_model_in_the_repository_gives_the_artifacts_logits(
    artifact: Path, tmp_path: Path
) -> None:
    config = export(artifact, tmp_path / "models")["act"]
    clips = torch.randint(0, 256, (5, 4, 3, 40, 40), dtype=torch.uint8)
    expected = artifacts.load(artifact)(clips).numpy()
    assert np.array_equal(served(tmp_path / "models" / "act", config, clips.numpy()), expected)


def served(model: Path, config: dict[str, Any], clips: np.ndarray) -> np.ndarray:
    """By the tensors' names and shapes in the config, as Triton's backend would."""
    (given,), (wanted,) = config["input"], config["output"]
    open_batch = [-1] * (config["max_batch_size"] > 0)
    if config.get("platform") == "onnxruntime_onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
        (found,) = session.get_inputs()
        sizes = [size if isinstance(size, int) else -1 for size in found.shape]
        assert sizes == [*open_batch, *given["dims"]]
        return session.run([wanted["name"]], {given["name"]: clips})[0]
    import openvino

    core = openvino.Core()
    opened = core.read_model(model / "1" / "model.xml")
    for tensor in (given, wanted):
        port = opened.input(tensor["name"]) if tensor is given else opened.output(tensor["name"])
        sizes = [size.get_length() if size.is_static else -1 for size in port.partial_shape]
        assert sizes == [*open_batch, *tensor["dims"]]
    ready = core.compile_model(opened, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return ready({given["name"]: clips})[wanted["name"]]


class Server:
    """In tritonclient's place: runs the repository's own pipeline and model in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configs = read(folder)

    def get_model_config(self, name: str) -> dict[str, Any]:
        pairs = self.configs[name]["parameters"]
        return {"parameters": {pair["key"]: pair["value"] for pair in pairs}}

    def infer(self, name: str, inputs: list[Any], *, outputs: list[Any]) -> Any:
        from nvidia.dali import Pipeline

        expected = {each["name"]: each for each in self.configs[name]["input"]}
        assert {each.name for each in inputs} == set(expected)
        serialized = (self.folder / "act_preprocess" / "1" / "model.dali").read_bytes()
        self.sent = {each.name: each.array for each in inputs}
        for each in inputs:
            config = expected[each.name]
            assert config["data_type"] == f"TYPE_{each.kind}"
            assert each.array.dtype == np.dtype(each.kind.lower())
            assert len(each.array) == 1
            for size, known in zip(each.array.shape[1:], config["dims"], strict=True):
                assert known in (size, -1)
        if "numbers" in self.sent:
            raise NotImplementedError("decoding takes a GPU")
        pipeline = Pipeline.deserialize(serialized)
        pipeline.feed_input("source", list(self.sent["source"]))
        (clips,) = pipeline.run()
        self.clips = clips.as_array()
        logits = served(self.folder / "act", self.configs["act"], self.clips)
        best = int(logits[0].argmax())
        label = (self.folder / name / "labels.txt").read_text().split("\n")[best]
        answer = np.array([f"{logits[0, best]}:{best}:{label}".encode()], object)
        return types.SimpleNamespace(as_numpy={outputs[0].name: answer}.__getitem__)


class Input:
    def __init__(self, name: str, shape: tuple[int, ...], kind: str) -> None:
        self.name, self.shape, self.kind = name, tuple(shape), kind

    def set_data_from_numpy(self, array: np.ndarray) -> None:
        assert array.shape == self.shape
        self.array = array


class Output:
    def __init__(self, name: str, *, class_count: int) -> None:
        assert class_count == 1
        self.name = name


def run_client(folder: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    server = Server(folder)
    client: Any = types.ModuleType("tritonclient.http")
    client.InferenceServerClient = lambda address: server
    client.InferInput, client.InferRequestedOutput = Input, Output
    package: Any = types.ModuleType("tritonclient")
    package.http = client
    monkeypatch.setitem(sys.modules, "tritonclient", package)
    monkeypatch.setitem(sys.modules, "tritonclient.http", client)
    monkeypatch.setattr(sys, "argv", ["client.py", str(video)])
    with contextlib.suppress(NotImplementedError):
        exec(compile(code, "README.md", "exec"), {})
    return server


def row_of(path: Path) -> Sample:
    facts = probe(path)
    return Sample(
        id=0, path=path, label=0, frames=facts.frames, fps=facts.fps,
        width=facts.width, height=facts.height, codec=facts.codec,
    )  # fmt: skip


@pytest.mark.parametrize("codec", ["mpeg4", "h264"])
def test_the_readmes_client_gets_the_label_of_the_artifact(
    artifact: Path,
    codec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video = videos.write_video(tmp_path / "clip", codec=codec, frames=20)
    export(artifact, tmp_path / "models", "cpu")
    server = run_client(tmp_path / "models", video, monkeypatch)
    (batch,) = DaliLoader([row_of(video)], LoaderConfig(spec=SPEC, values="uint8"), num_threads=1)
    assert np.array_equal(server.clips, batch.clips.numpy())
    best = int(artifacts.load(artifact)(batch.clips).argmax())
    assert capsys.readouterr().out == f"{CLASSES[best]}\n"


def test_the_readmes_client_sends_the_part_of_a_file_that_is_wanted_to_a_gpu(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = videos.write_video(tmp_path / "clip", codec="h264", frames=20)
    export(onnx, tmp_path / "models", "gpu")
    server = run_client(tmp_path / "models", video, monkeypatch)
    (numbers,) = server.sent["numbers"].tolist()
    with av.open(io.BytesIO(server.sent["source"].tobytes())) as part:
        pictures = [frame.to_ndarray(format="rgb24") for frame in part.decode(video=0)]
    assert [videos.number_of(pictures[number]) for number in numbers] == [0, 6, 13, 19]
    readme = (tmp_path / "models" / "README.md").read_text()
    assert "DALI_USE_EXEC2=1 tritonserver" in readme
    strange = videos.write_video(tmp_path / "clip", codec="wmv2", frames=20)
    with pytest.raises(SystemExit, match="exported with --device cpu"):
        run_client(tmp_path / "models", strange, monkeypatch)


@pytest.mark.parametrize("backend", sorted(triton_export.UNSUPPORTED))
def test_what_triton_cant_open_is_refused_in_one_sentence(
    backend: str, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, backend, BACKENDS["onnx"])
    folder = Path(shutil.copytree(onnx, tmp_path / "artifact"))
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "backend": backend}))
    with pytest.raises(CompileError, match=f"{backend} .*compile with `backend` onnx") as caught:
        export(folder, tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "models").exists()


def test_every_backend_is_exported_or_refused() -> None:
    assert set(BACKENDS) <= {*triton_export.PAYLOADS, *triton_export.UNSUPPORTED}
    assert not set(triton_export.PAYLOADS) & set(triton_export.UNSUPPORTED)


def test_a_changed_artifact_is_refused(artifact: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "artifact"))
    payload = next(folder.glob("model.*"))
    payload.write_bytes(payload.read_bytes() + b"x")
    with pytest.raises(RefusedError, match="digest differs"):
        export(folder, tmp_path / "models")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_class_that_fits_no_line_leaves_no_folder(compiled: Compile, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = compiled("onnx", classes=["a", "b\nc", "d"])
    with pytest.raises(CompileError, match=r"'b\\nc' doesn't fit one line of labels.txt"):
        export(folder, tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_repository_and_says_how_to_start_it(
    onnx: Path, run_engine, tmp_path: Path
) -> None:
    result = run_engine("export", "triton", onnx, tmp_path / "models")
    assert result.returncode == 0, result.stderr
    assert {each.name for each in (tmp_path / "models").iterdir()} == {
        "onnx-8", "onnx-8_preprocess", "onnx-8_ensemble", "README.md",
    }  # fmt: skip
    assert "next: DALI_USE_EXEC2=1 tritonserver --model-repository" in result.stdout


@pytest.mark.slow
def test_the_commands_mistakes_get_one_sentence(onnx: Path, run_engine, tmp_path: Path) -> None:
    with new_folder(tmp_path / "full") as folder:
        (folder / "kept").touch()
    changed = Path(shutil.copytree(onnx, tmp_path / "changed"))
    (changed / "model.onnx").write_bytes(b"")
    out = tmp_path / "models"
    for arguments, code, words in [
        ([tmp_path / "full", out], 2, "full is not an artifact"),
        ([changed, out], 3, "is not the file that was written"),
        ([onnx, tmp_path / "full"], 2, "already exists and isn't empty"),
        ([onnx, out, "--device", "tpu"], 2, "Choose from: auto, gpu, cpu"),
        ([onnx, out, "--name", "a/b"], 2, "pass --name with letters"),
    ]:
        result = run_engine("export", "triton", *arguments)
        assert result.returncode == code, result.stderr
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
        assert not out.exists()
    assert [each.name for each in (tmp_path / "full").iterdir()] == ["kept"]
