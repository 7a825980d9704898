"""Each backend that runs here gives the model's answers back, from files that are sound or refused.

Torch-TensorRT and TensorRT-RTX have a file of their own.
"""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from artifacts import SHAPE, Tiny, compiled
from torch import Tensor, nn

import trt
from trt import folding, program
from trt.backends import BACKENDS, choose
from trt.config import CONFIG, ArtifactConfig, BatchRange, Target
from trt.errors import CompileError, RefusedError
from trt.probe import Gpu, this_gpu
from trt.program import Uint8Input, lowered

BACKENDS_HERE = ("eager", "openvino", "onnx", "inductor")


@pytest.fixture(scope="module")
def model() -> Uint8Input:
    torch.manual_seed(0)
    tiny = Tiny()
    with torch.no_grad():
        tiny.train()(torch.randn(8, *SHAPE))  # so that the batch statistics are of something
        tiny.head.weight.mul_(5)
    return Uint8Input(tiny, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).eval()


@pytest.fixture(scope="module")
def clips() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (33, *SHAPE), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def right(model: Uint8Input, clips: Tensor) -> Tensor:
    with torch.no_grad():
        return model(clips)


@pytest.fixture(scope="module")
def of_backend(tmp_path_factory, model, clips):
    """One artifact of each backend; read only."""
    made: dict[str, Path] = {}

    def get(backend: str) -> Path:
        if backend not in made:
            folder = tmp_path_factory.mktemp(backend) / "artifact"
            made[backend] = compiled(folder, model, clips, backend)
        return made[backend]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_any_batch_goes_through_a_profile_of_1_8_32(backend, of_backend, clips, right) -> None:
    opened = trt.load(of_backend(backend))
    for size in (1, 7, 33):
        found = opened(clips[:size])
        assert found.dtype == torch.float32
        assert torch.allclose(found.cpu(), right[:size], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_a_batch_below_the_least_is_filled_up(tmp_path, backend, model, clips, right) -> None:
    target = Target(batches=BatchRange(min=4, opt=4, max=8))
    opened = trt.load(compiled(tmp_path / "a", model, clips, backend, target))
    for size in (1, 5, 33):
        assert torch.allclose(opened(clips[:size]), right[:size], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "precision", "atol"),
    [
        ("eager", "bf16", 0.2), ("eager", "fp16", 0.03), ("inductor", "bf16", 0.2),
        ("onnx", "fp16", 0.03), ("onnx", "int8", 1.0),
        ("openvino", "bf16", 0.2), ("openvino", "int8", 1.0),
    ],
)  # fmt: skip
def test_lower_precisions_are_near(tmp_path, backend, precision, atol, model, clips, right) -> None:
    runs, _ = BACKENDS[backend].resolve_precision(precision, None)
    if runs != precision:
        pytest.skip(f"{backend} doesn't compute in {precision} on this processor")
    target = Target(precision=precision)
    opened = trt.load(compiled(tmp_path / "a", model, clips, backend, target))
    errors = (opened(clips) - right).abs()
    assert 1e-6 < errors.max() < atol  # another precision did run


def test_the_onnx_file_is_for_others_too(of_backend, clips, right) -> None:
    import onnx
    import onnxruntime

    path = of_backend("onnx") / "model.onnx"
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {"clips": clips[:3].numpy()})
    assert torch.allclose(torch.from_numpy(found), right[:3], atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_changed_cut_or_swapped_files_are_refused(tmp_path, backend, of_backend) -> None:
    def copy(name: str) -> tuple[Path, Path]:
        folder = Path(shutil.copytree(of_backend(backend), tmp_path / name))
        return folder, max(folder.iterdir(), key=lambda path: path.stat().st_size)

    folder, payload = copy("changed")
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    with pytest.raises(RefusedError, match=rf"{payload.name} is not the file that was written"):
        trt.load(folder)
    folder, payload = copy("cut")
    payload.write_bytes(payload.read_bytes()[:-100])
    with pytest.raises(RefusedError, match="compile it again"):
        trt.load(folder)
    folder, payload = copy("swapped")
    shutil.copyfile(folder / CONFIG, payload)
    with pytest.raises(RefusedError, match=payload.name):
        trt.load(folder)
    folder, payload = copy("lacking")
    payload.unlink()
    with pytest.raises(RefusedError, match=f"lacks {payload.name}"):
        trt.load(folder)


def test_a_damaged_config_is_named(tmp_path, of_backend) -> None:
    folder = Path(shutil.copytree(of_backend("eager"), tmp_path / "a"))
    (folder / CONFIG).write_text((folder / CONFIG).read_text()[:-20])
    with pytest.raises(CompileError, match=r"config\.json is damaged"):
        trt.load(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(CompileError, match=r"has no config\.json"):
        trt.load(folder)


def test_what_is_bound_to_a_machine_opens_on_no_other(tmp_path, of_backend, clips, right) -> None:
    for key, change in (
        ("device", "another processor"),
        ("versions", {"torch": "1.0"}),
    ):
        for backend in ("inductor", "openvino"):
            folder = Path(shutil.copytree(of_backend(backend), tmp_path / f"{backend}-{key}"))
            config = json.loads((folder / CONFIG).read_text())
            (folder / CONFIG).write_text(json.dumps({**config, key: change}))
            if backend == "inductor":
                with pytest.raises(RefusedError, match="`rebuild=True`"):
                    trt.load(folder)
            else:
                assert torch.allclose(trt.load(folder)(clips[:2]), right[:2], atol=1e-4)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_no_artifact_holds_a_pickle(tmp_path, backend, of_backend, model, clips) -> None:
    for path in of_backend(backend).rglob("*.pt2"):
        with zipfile.ZipFile(path) as file:
            for item in file.infolist():
                begin = file.read(item)[:4]
                assert not begin.startswith((b"\x80", b"PK")), item.filename
    whole = io.BytesIO()
    torch.export.save(program.export(model, clips[:1], BatchRange()), whole)
    path = tmp_path / "with_example.pt2"
    path.write_bytes(whole.getvalue())
    with pytest.raises(CompileError, match="holds a pickle"):
        program.load(path)


@pytest.mark.slow
def test_two_processes_open_one_artifact(of_backend, clips, tmp_path) -> None:
    torch.save(clips[:3], tmp_path / "clips")
    code = (
        "import sys, torch, trt; from pathlib import Path;"
        "found = trt.load(Path(sys.argv[1]))(torch.load(sys.argv[2])); print(found.tolist())"
    )
    for backend in ("openvino", "inductor"):
        command = [sys.executable, "-c", code, str(of_backend(backend)), str(tmp_path / "clips")]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        one, other = (process.communicate(timeout=900)[0] for process in processes)
        assert all(process.returncode == 0 for process in processes)
        assert one == other
        assert one


def test_signals_are_safe_after_artifacts_are_gone(of_backend) -> None:
    """A handler needs a stack, and OpenVINO sets one up where the processor has AMX."""
    code = """
import signal, subprocess, sys
from pathlib import Path
import torch, trt
artifacts = [trt.load(Path(sys.argv[1])) for _ in range(2)]
for artifact in artifacts:
    artifact(torch.zeros(2, 4, 3, 16, 16, dtype=torch.uint8))
del artifact
artifacts.pop(0)
artifacts.pop(0)
signal.signal(signal.SIGCHLD, lambda *_: None)
subprocess.run(["true"])
print("sound")
"""
    command = [sys.executable, "-c", code, str(of_backend("openvino"))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.stdout == "sound\n", (result.returncode, result.stderr)


def test_kept_modules_compute_in_fp32(model, clips, right) -> None:
    def error(*fp32_layers: str) -> float:
        with torch.no_grad():
            return float((lowered(model, "bf16", fp32_layers)(clips) - right).abs().max())

    assert error() > error("conv", "norm", "recurrent") > 0
    assert lowered(model, "fp32") is model
    changed = lowered(model, "fp16")
    assert changed.model.conv.weight.dtype == torch.float16
    assert changed.model.last.module.weight.dtype == torch.float32  # by itself, as always
    assert model.model.conv.weight.dtype == torch.float32


def test_openvino_keeps_layers_in_fp32(tmp_path, model, clips) -> None:
    import openvino

    if BACKENDS["openvino"].resolve_precision("fp16", None)[0] != "fp16":
        pytest.skip("this processor doesn't compute in fp16")
    folder = compiled(
        tmp_path / "a", model, clips, "openvino", Target(precision="fp16", fp32_layers=("head",))
    )
    core = openvino.Core()
    opened = core.compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f16"})
    used = {
        each.get_friendly_name(): each.get_rt_info()["runtimePrecision"].value
        for each in opened.get_runtime_model().get_ops()
    }
    assert used["self.model.head.weight"] == "f32"
    assert "f16" in used.values()
    with pytest.raises(CompileError, match="with `precision='bf16'`"):
        compiled(
            tmp_path / "b",
            model,
            clips,
            "openvino",
            Target(precision="bf16", fp32_layers=("head",)),
        )


def test_openvino_caches_each_way_to_compile_by_itself(
    tmp_path, model, clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both artifacts hold the same IR; only what it is compiled to differs."""
    if BACKENDS["openvino"].resolve_precision("bf16", None)[0] != "bf16":
        pytest.skip("this processor doesn't compute in bf16")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def from_cache(folder: Path) -> bool:
        runner = trt.load(folder)._run
        return runner._compiled("LATENCY").get_property("LOADED_FROM_CACHE")

    for precision in ("fp32", "bf16"):
        target = Target(precision=precision)
        folder = compiled(tmp_path / precision, model, clips, "openvino", target)
        assert not from_cache(folder)  # else it is what was compiled for another precision
        assert from_cache(folder)


def test_folding_takes_batch_normalization_out(model, clips, right) -> None:
    changed = folding.folded(model, clips[:2])
    assert not any(isinstance(each, nn.BatchNorm2d) for each in changed.modules())
    assert any(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    with torch.no_grad():
        assert torch.allclose(changed(clips), right, atol=1e-5)


def test_auto_takes_the_fastest_and_says_why() -> None:
    assert choose(None)[0] == "openvino"
    backend, why = choose(Gpu(name="some card", capability=(9, 0)))
    assert backend in ("tensorrt", "inductor")
    assert "some card" in why


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_on_a_gpu(tmp_path, backend, precision, model, clips, right) -> None:
    runs, _ = BACKENDS[backend].resolve_precision(precision, this_gpu())
    target = dataclasses.replace(Target(), precision=runs)
    opened = trt.load(compiled(tmp_path / "a", model, clips, backend, target))
    for start, end in ((0, 1), (0, 7), (7, 14), (1, 2), (0, 33)):  # sizes that come again too
        found = opened(clips[start:end].cuda())
        assert found.is_cuda
        assert torch.allclose(found.cpu(), right[start:end], atol=0.2)


def test_an_artifact_from_before_fields_were_renamed_is_read(tmp_path: Path) -> None:
    config = ArtifactConfig(
        backend="eager", asked="fp32", target=Target(fp32_layers=("head",)), clip={}, model={},
        class_names=["a"], source="", chosen_by="", key="", device="", versions={},
    )  # fmt: skip
    config.write(tmp_path)
    values = json.loads((tmp_path / CONFIG).read_text())
    target = values["target"]
    target["kept"] = target.pop("fp32_layers")
    target["batches"] = {"least": 1, "best": 8, "most": 32}
    (tmp_path / CONFIG).write_text(json.dumps(values))
    assert ArtifactConfig.read(tmp_path) == config
