"""TensorRT's two backends: what runs in an engine, and real engines, built without a GPU."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from engine.models import registry
from engine.models.registry import FAMILIES, ModelSpec
from trt import partition_report, program
from trt.artifact import Artifact
from trt.backends import BACKENDS, onnx_backend, tensorrt_rtx_backend, torch_tensorrt_backend
from trt.build_input import BuildInput
from trt.config import ArtifactConfig, BatchRange, Precision, Target
from trt.errors import CompileError
from trt.probe import Gpu, installed
from trt.program import Uint8Input, lowered

ADA = Gpu(name="an Ada", capability=(8, 9))
TURING = Gpu(name="a Turing", capability=(7, 5))
flavored = pytest.mark.skipif(
    not any(map(installed, torch_tensorrt_backend.FLAVORS)), reason="no Torch-TensorRT here"
)
buildable = pytest.mark.skipif(
    not (installed("tensorrt-rtx") and installed("onnxscript")), reason="no TensorRT-RTX here"
)


def job_of(family: str, precision: Precision = "fp32", **wanted: object) -> BuildInput:
    """A small model of the family, its normalization such as a training leaves it."""
    spec, clip = ModelSpec.of_preset(family, "small", 8)
    torch.manual_seed(0)
    model = registry.build(spec, clip).eval()
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d | nn.BatchNorm3d):
            each.running_mean.normal_(std=0.1)
            each.running_var.uniform_(0.8, 1.2)
            nn.init.normal_(each.bias, std=0.1)
    whole = Uint8Input(model, mean=clip.mean, std=clip.std)
    clips = clips_like(torch.empty(4, clip.num_frames, 3, clip.crop, clip.crop))
    return BuildInput(
        model=lowered(whole, precision),
        example=clips[:1],
        target=Target(precision=precision, **wanted),
        calibration=lambda: clips.split(1),
    )


def clips_like(shape: torch.Tensor) -> torch.Tensor:
    return torch.randint(0, 256, shape.shape, dtype=torch.uint8)


def config_of(backend: str, target: Target, partition: dict | None = None) -> ArtifactConfig:
    return ArtifactConfig(
        backend=backend, asked=target.precision, target=target, clip={}, model={}, class_names=[],
        source="", chosen_by="", key="", device="", versions={}, partition=partition or {},
    )  # fmt: skip


class Odd(nn.Module):
    """Holds an operator that TensorRT lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve_triangular(self.weight, x.T, upper=True).T


class Attention(nn.Module):
    """Written out, as older models do it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, :, None] * x[:, None]).softmax(dim=-1) @ x[:, :, None]


class HoldsAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(*[nn.Linear(8, 8), nn.GELU()] * 4)
        self.attention = Attention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(self.before(x.float()))


class HoldsOdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(*[nn.Linear(8, 8), nn.GELU()] * 4)
        self.odd = Odd()
        self.after = nn.Sequential(*[nn.Linear(8, 8), nn.GELU()] * 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.odd(self.before(x.float())))


@flavored
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "precision"), [*((family, "bf16") for family in FAMILIES), ("vit-lstm", "fp32")]
)
def test_every_family_is_one_engine(family: str, precision: Precision) -> None:
    report = partition_report.report(job_of(family, precision).program())
    assert report["breaks"] == []
    assert (report["engines"], report["in_torch"]) == (1, 0)
    assert report["in_engine"] > 80
    assert report["unfused_attention"] == []
    assert bool(report["attention"]) == (family in ("vit-lstm", "timesformer", "vivit", "hf"))


@flavored
def test_a_report_names_the_operator_that_breaks_an_engine() -> None:
    before = torch.cuda.current_device
    exported = program.export(HoldsOdd().eval(), torch.zeros(1, 8, dtype=torch.uint8), BatchRange())
    report = partition_report.report(exported)
    assert report["engines"] == 2
    assert report["in_torch"] == len(report["breaks"])
    (odd,) = [each for each in report["breaks"] if "solve_triangular" in each["operator"]]
    assert odd["module"] == "odd"
    assert odd["why"] == "Torch-TensorRT has no converter for it"
    assert torch.cuda.current_device is before


@flavored
def test_attention_that_is_a_softmax_between_products_is_named() -> None:
    model = HoldsAttention().eval()
    exported = program.export(model, torch.zeros(1, 8, dtype=torch.uint8), BatchRange())
    report = partition_report.report(exported)
    assert (report["attention"], report["unfused_attention"]) == (0, ["attention"])


@flavored
def test_what_stays_in_pytorch_is_cut_out_again_as_it_was(tmp_path: Path) -> None:
    model = HoldsOdd().eval()
    exported = program.export(model, torch.zeros(1, 8, dtype=torch.uint8), BatchRange())
    program.save(exported, tmp_path / "program.pt2")
    compiled = partition_report.partitioned(exported)
    opened = partition_report.partitioned(program.load(tmp_path / "program.pt2"))
    assert opened.code == compiled.code
    pairs = zip(opened.named_children(), compiled.named_children(), strict=True)
    assert all(one == other and a.code == b.code for (one, a), (other, b) in pairs)
    x = torch.randint(0, 256, (7, 8), dtype=torch.uint8)
    torch.testing.assert_close(opened(x), model(x))


@flavored
def test_an_engine_takes_bytes_in_batches_of_the_range() -> None:
    exported = job_of("vivit", batches=BatchRange(min=1, opt=4, max=16)).program()
    (given,) = partition_report.input_ranges(exported, 4)
    shapes = [next(iter(given.shape[f"{name}_shape"])) for name in ("min", "opt", "max")]
    assert shapes == [1, 4, 16]
    assert given.dtype.to(torch.dtype) == torch.uint8


@flavored
@pytest.mark.rtx
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_torch_tensorrt_converts_every_operator(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but opening the engine, which takes a GPU."""
    if not installed("torch-tensorrt-rtx"):
        pytest.skip("only the RTX flavour builds without a GPU")
    torch_tensorrt = partition_report.import_torch_tensorrt()
    from torch_tensorrt.dynamo.conversion import _TRTInterpreter

    class Runtime:
        def __init__(self, logger: object) -> None: ...

        def deserialize_cuda_engine(self, engine: object) -> object:
            return SimpleNamespace(
                serialize=lambda: bytes(engine), get_aliased_input_tensor=lambda name: None
            )

    monkeypatch.setattr(_TRTInterpreter.trt, "Runtime", Runtime)
    exported = job_of(family, "bf16").program()
    with partition_report.fake_gpu():
        engine = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
            exported, inputs=partition_report.input_ranges(exported, 8)
        )
    assert len(engine) > 100_000


@pytest.mark.slow
@buildable
@pytest.mark.rtx
@pytest.mark.parametrize(
    ("family", "precision"),
    [
        *((family, "bf16") for family in FAMILIES),
        ("vit-lstm", "fp32"),
        ("timesformer", "fp16"),
        ("cnn-birnn", "int8"),
    ],
)
def test_an_engine_is_built_anywhere_and_again_from_what_it_keeps(
    family: str, precision: Precision, tmp_path: Path
) -> None:
    inputs = job_of(family, precision, workspace_gb=1.0, optimization_level=2)
    partition = tensorrt_rtx_backend.build(inputs, tmp_path)
    assert partition["engines"] == 1
    assert partition["in_torch"] == 0
    engine = tmp_path / tensorrt_rtx_backend.ENGINE
    size = engine.stat().st_size
    assert size > 100_000
    engine.unlink()
    assert tensorrt_rtx_backend.build_engine(tmp_path, inputs.target) == partition["in_engine"]
    assert engine.stat().st_size == pytest.approx(size, rel=0.05)


@pytest.mark.slow
@buildable
@pytest.mark.rtx
def test_eight_bits_are_symmetric_and_leave_out_convolutions_and_what_is_kept(
    tmp_path: Path,
) -> None:
    import onnx

    inputs = job_of("timesformer", "int8", fp32_layers=("head",))
    partition = tensorrt_rtx_backend.build(inputs, tmp_path)
    assert partition["weights_in_8_bits"] > 10
    graph = onnx.load(tmp_path / tensorrt_rtx_backend.MODEL).graph
    values = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    steps = ("QuantizeLinear", "DequantizeLinear")
    quantizers = [node for node in graph.node if node.op_type in steps]
    assert quantizers
    for node in quantizers:
        zero = values[node.input[2]]
        assert zero.dtype == "int8"
        assert not zero.any()
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        head = node.op_type == "Gemm" and "head" in node.metadata_props[0].value
        if node.op_type == "Conv" or head:
            feeders = {makers[name].op_type for name in node.input if name in makers}
            assert "DequantizeLinear" not in feeders, node.name
    assert any(
        makers[name].op_type == "DequantizeLinear"
        for node in graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in makers
    )
    run = onnx_backend.load(tmp_path, config_of("onnx", inputs.target))
    with torch.no_grad():
        expected = inputs.model(inputs.example)
    assert (run(inputs.example) - expected).abs().max() < 0.2 * expected.abs().max()


@buildable
@pytest.mark.rtx
def test_an_operator_that_tensorrt_lacks_is_named(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("Det", ["clips"], ["logits"], name="the_det")],
        "odd",
        [helper.make_tensor_value_info("clips", TensorProto.FLOAT, ["batch", 3, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    save(model, tmp_path / tensorrt_rtx_backend.MODEL)
    with pytest.raises(CompileError, match=r"TensorRT-RTX can't take Det the_det .*`backend`"):
        tensorrt_rtx_backend.build_engine(tmp_path, Target())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_without_a_gpu_an_engine_is_not_opened(name: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="no NVIDIA GPU to run"):
        BACKENDS[name].load(tmp_path, config_of(name, Target()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_torch_tensorrt_says_what_builds(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="`backend='tensorrt-rtx'`"):
        torch_tensorrt_backend.build(job_of("vivit"), tmp_path)


@pytest.mark.skipif(bool(installed("nvidia-modelopt")), reason="ModelOpt is installed")
def test_eight_bits_in_torch_tensorrt_need_modelopt() -> None:
    inputs = job_of("vivit", "int8")
    quantized = torch_tensorrt_backend.quantized(inputs)
    with pytest.raises(CompileError, match="pip install nvidia-modelopt"), quantized:
        pass


@pytest.mark.skipif(
    not installed("nvidia-modelopt"), reason="needs ModelOpt: pip install nvidia-modelopt"
)
@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("family", ["timesformer", "vivit", "vit-lstm"])
def test_eight_bits_are_for_matrix_products_alone(
    family: str, precision: Precision, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = job_of(family, precision)
    clips = torch.cat(list(inputs.calibration()))
    with torch_tensorrt_backend.quantized(inputs) as in_8_bits, torch.no_grad():
        quantizers = [
            name
            for name, module in in_8_bits.model.named_modules()
            if type(module).__name__ == "TensorQuantizer" and module.is_enabled
        ]
        error = (in_8_bits.model(clips) - inputs.model(clips)).abs().max()
    assert "quantizer" not in capfd.readouterr().out
    assert not any("norm" in name or "head" in name for name in quantizers)
    for letter in "qkv":
        assert any(name.endswith(f"{letter}_bmm_quantizer") for name in quantizers)
    assert any(re.search(r"qkv\.weight_quantizer", name) for name in quantizers)
    assert error < 0.2 * inputs.model(clips).abs().max()


def test_a_precision_runs_where_the_gpu_has_it() -> None:
    tensorrt, rtx = BACKENDS["tensorrt"], BACKENDS["tensorrt-rtx"]
    assert tensorrt.resolve_precision("fp8", ADA) == ("fp8", "")
    assert tensorrt.resolve_precision("bf16", TURING) == (
        "fp32",
        "a Turing doesn't compute in bf16",
    )
    assert tensorrt.resolve_precision("int8", TURING) == ("int8", "")
    assert rtx.resolve_precision("int8", None) == ("int8", "")
    assert rtx.resolve_precision("fp8", None) == ("bf16", "TensorRT-RTX doesn't compute in fp8")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_says_what_the_model_says(
    name: str, family: str, precision: Precision, tmp_path: Path
) -> None:
    capability = torch.cuda.get_device_capability()
    status = BACKENDS[name].probe(Gpu(name=torch.cuda.get_device_name(), capability=capability))
    if not status.usable or "can't run" in status.why:
        pytest.skip(status.why)
    inputs, plain = job_of(family, precision), job_of(family)
    partition = BACKENDS[name].build(inputs, tmp_path)
    config = config_of(name, inputs.target, partition)
    compiled = Artifact(config, BACKENDS[name].load(tmp_path, config))
    clips = clips_like(inputs.example.expand(33, *inputs.example.shape[1:]))
    with torch.no_grad():
        expected = plain.model(clips)
    tolerance = 2e-3 if precision == "fp32" else 5e-2 * expected.abs().max().item()
    for size in (1, 7, 33):
        found = compiled(clips[:size].cuda()).cpu()
        torch.testing.assert_close(found, expected[:size], atol=tolerance, rtol=tolerance)
