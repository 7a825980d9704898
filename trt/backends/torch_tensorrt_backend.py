"""Torch-TensorRT backend, for TensorRT or TensorRT-RTX, depending on which one is installed.

Torch-TensorRT's own files contain pickles. So each engine is saved as a separate file here, and the
parts that stay in PyTorch are partitioned from the exported program again on loading.
"""

import contextlib
import copy
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt.backends import tensorrt_rtx_backend
from trt.build_input import BuildInput
from trt.config import PROGRAM, ArtifactConfig, Bond, Precision, nearest
from trt.errors import CompileError
from trt.probe import Gpu, Status, install_command, installed, missing

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from trt.build_input import Run

WHERE = "NVIDIA GPU"
LOWERS: frozenset[Precision] = frozenset({"fp32", "tf32", "int8", "fp8"})
PACKAGES: tuple[str, ...] = ("torch", "torch-tensorrt", "torch-tensorrt-rtx", "tensorrt")
BOUND_TO: frozenset[Bond] = frozenset({"device", "versions"})
QUANTIZED: tuple[Precision, ...] = ("int8", "fp8")
RTX = "torch-tensorrt-rtx"
FLAVORS = ("torch-tensorrt", RTX)
"""Both install the same module, so only one of them can be used."""
_REGISTERED: set[type] = set()
"""Classes of attention that ModelOpt knows by now."""
ENGINES = "engines.json"
"""File with the names of each engine's inputs and outputs, in order."""
OLDEST_GPU = (7, 5)
MIN_CAPABILITY: dict[Precision, tuple[int, int]] = {
    "tf32": (8, 0), "bf16": (8, 0), "fp16": (7, 0), "int8": (7, 5), "fp8": (8, 9),
}  # fmt: skip


def probe(gpu: Gpu | None) -> Status:
    packages = [package for name in FLAVORS if (package := installed(name))]
    if len(packages) > 1:
        return Status(
            usable=False,
            why=f"{' and '.join(packages)} have overwritten each other's files",
            fix=f"pip uninstall {' '.join(FLAVORS)}, then install one of them",
        )
    if gpu is None:
        return Status(usable=False, why="no NVIDIA GPU")
    if not packages:
        return missing("Torch-TensorRT", "tensorrt")
    capability = "compute capability {}.{}".format(*gpu.capability)
    if installed(RTX) and not tensorrt_rtx_backend.has_kernels(gpu):
        return Status(
            usable=False,
            why=f"{installed('tensorrt-rtx')} has no kernels for {capability}",
            fix=f"pip uninstall {RTX} tensorrt-rtx, then {install_command('tensorrt')}",
        )
    if gpu.capability < OLDEST_GPU:
        return Status(usable=False, why=f"TensorRT has no kernels for {capability}")
    return Status(usable=True, why=packages[0])


def resolve_precision(precision: Precision, gpu: Gpu | None) -> tuple[Precision, str]:
    supported: set[Precision] = {"fp32"}
    if gpu is None:
        return nearest(precision, {*supported, *MIN_CAPABILITY}, WHERE)
    supported |= {
        name for name, capability in MIN_CAPABILITY.items() if gpu.capability >= capability
    }
    return nearest(precision, supported, gpu.name)


def runs_on(gpu: Gpu | None) -> str:
    return "cuda" if gpu else ""


def build(inputs: BuildInput, folder: Path) -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        raise CompileError(
            "Torch-TensorRT builds on the GPU that will run the engine, but torch finds no GPU: "
            "use `backend='tensorrt-rtx'`, which builds anywhere."
        )
    from trt import partition_report, program

    with quantized(inputs) as build_input:
        exported = build_input.program()
        program.save(exported, folder / PROGRAM)
        inputs.on_step("partitioning")
        num_quantized = sum("quantize_op" in str(node.target) for node in exported.graph.nodes)
        if inputs.target.precision in QUANTIZED and not num_quantized:
            raise CompileError(
                f"no part of this model can run in {inputs.target.precision}: "
                "use `precision='bf16'`."
            )
        partition = {**partition_report.report(exported), "tensors_in_8_bits": num_quantized}
        if not partition["engines"]:
            first = partition["breaks"][0]
            raise CompileError(
                f"TensorRT can't run enough of this model ({first['operator']}: {first['why']}): "
                "use `backend='inductor'`."
            )
        inputs.on_step("compiling")
        _write_engines(_compiled(exported, build_input), folder)
    return partition


def _compiled(exported: "ExportedProgram", inputs: BuildInput) -> "torch.nn.Module":
    from trt import partition_report, program

    torch_tensorrt = partition_report.import_torch_tensorrt()
    target = inputs.target
    return torch_tensorrt.dynamo.compile(
        program.on_gpu(exported),
        inputs=partition_report.input_ranges(exported, target.batches.opt),
        disable_tf32=target.precision != "tf32",
        min_block_size=partition_report.MIN_OPERATORS,
        workspace_size=int((target.workspace_gb or 0) * (1 << 30)),  # 0: no limit
        optimization_level=target.optimization_level,
    )


def _write_engines(compiled: "torch.nn.Module", folder: Path) -> None:
    from torch_tensorrt.dynamo.runtime import TorchTensorRTModule

    bindings = {}
    for name, part in compiled.named_children():
        if isinstance(part, TorchTensorRTModule):
            (folder / f"{name}.engine").write_bytes(part.serialized_engine)
            bindings[name] = {
                "inputs": list(part.input_binding_names),
                "outputs": list(part.output_binding_names),
            }
    (folder / ENGINES).write_text(json.dumps(bindings, indent=2) + "\n")


def load(folder: Path, config: ArtifactConfig) -> "Run":
    import torch

    if not torch.cuda.is_available():
        raise CompileError(
            f"{folder} holds TensorRT engines, but torch finds no NVIDIA GPU to run them: "
            "compile the model with `backend='openvino'` for this machine."
        )
    from trt import partition_report, program

    partition_report.import_torch_tensorrt()
    bindings = json.loads((folder / ENGINES).read_text())
    engines = {
        name: _load_engine(folder / f"{name}.engine", names) for name, names in bindings.items()
    }
    if config.partition.get("in_torch") == 0 and len(engines) == 1:
        module: torch.nn.Module = next(iter(engines.values()))
    else:
        exported = program.load(folder / PROGRAM)
        module = partition_report.partitioned(exported)
        for name, engine in engines.items():
            setattr(module, name, engine)
        module.cuda()

    def run(clips: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return module(clips)

    from trt.cuda_graphs import CudaGraphRunner
    from trt.tf32 import with_tf32

    return CudaGraphRunner(with_tf32(run, config.target.precision == "tf32"))


def _load_engine(path: Path, bindings: dict[str, list[str]]) -> "torch.nn.Module":
    from torch_tensorrt.dynamo.runtime import TorchTensorRTModule

    try:
        return TorchTensorRTModule(
            path.read_bytes(), bindings["inputs"], bindings["outputs"], name=path.stem
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CompileError(
            f"TensorRT can't open {path} here ({reason}): compile the model again, on this machine."
        ) from error


def _copy(inputs: BuildInput) -> "torch.nn.Module":
    assert inputs.model is not None
    return copy.deepcopy(inputs.model).eval()


def _recipe(precision: Precision) -> dict[str, Any]:
    """ModelOpt's settings for 8 bits: what is a matrix product, and nothing else.

    Its default also quantizes the inputs of LayerNorms, which costs accuracy and saves nothing, and
    leaves out the products of queries with keys and with values.
    """
    import modelopt.torch.quantization as mtq

    default = mtq.INT8_DEFAULT_CFG if precision == "int8" else mtq.FP8_DEFAULT_CFG
    recipe = copy.deepcopy(default)
    bits: Any = 8 if precision == "int8" else (4, 3)
    recipe["quant_cfg"] += [
        {"quantizer_name": "*", "parent_class": "nn.LayerNorm", "enable": False},
        {"quantizer_name": "*head*", "enable": False},
        {"quantizer_name": "*[qkv]_bmm_quantizer", "cfg": {"num_bits": bits, "axis": None}},
    ]
    return recipe


def _register_attention(model: "torch.nn.Module") -> None:
    """Tell ModelOpt where queries, keys and values are multiplied."""
    from modelopt.torch.quantization.plugins.attention import register_attention_for_kv_quant

    for kind in {type(module) for module in model.modules()}:
        if "attention" in kind.__name__.lower() and kind not in _REGISTERED:
            register_attention_for_kv_quant(kind)
            _REGISTERED.add(kind)


@contextlib.contextmanager
def quantized(inputs: BuildInput) -> Iterator[BuildInput]:
    """Yield the inputs with the model quantized by ModelOpt, if the precision is int8 or fp8.

    The model is moved to the GPU: on a CPU, ModelOpt exports int8 as ordinary arithmetic.

    Raises:
        CompileError: ModelOpt is not installed, or there are no calibration clips.
    """
    import torch

    if inputs.target.precision not in QUANTIZED or inputs.stored is not None:
        yield inputs
        return
    try:
        import modelopt.torch.quantization as mtq
        from modelopt.torch.quantization.utils import export_torch_mode
    except ImportError as error:
        raise CompileError(
            f"{inputs.target.precision} needs ModelOpt: pip install nvidia-modelopt."
        ) from error
    if inputs.calibration is None:
        raise CompileError(
            f"{inputs.target.precision} is calibrated on training clips: pass `data` with a "
            "dataset."
        )
    inputs.on_step("measuring ranges")
    clips = inputs.calibration

    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def measure(model: torch.nn.Module) -> None:
        for clip in clips():
            model(clip.to(device))

    model = _copy(inputs).to(device)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        _register_attention(model)
        model = mtq.quantize(model, _recipe(inputs.target.precision), forward_loop=measure)
    fp32_layers = [f"model.{name}" for name in inputs.target.fp32_layers]
    if inputs.target.precision == "int8" and not installed("torch-tensorrt"):
        fp32_layers += [
            name for name, module in model.named_modules() if isinstance(module, convolutions)
        ]  # TensorRT-RTX has no int8 convolutions
    for name in fp32_layers:
        mtq.disable_quantizer(model, f"{name}.*")
    with export_torch_mode():
        yield dataclasses.replace(inputs, model=model, example=inputs.example.to(device))
