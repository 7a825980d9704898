"""OpenVINO backend for CPUs.

An artifact holds OpenVINO's IR, which runs on any CPU. It is compiled for this CPU when it is
loaded, and the compiled model is kept in the user's cache.

The module is traced, not exported: this keeps recurrent layers as single operators, and operators
named after their modules, so that certain modules can be kept in fp32.
"""

import hashlib
import json
import warnings
import xml.etree.ElementTree as ElementTree
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt.build_input import BuildInput
from trt.calibration import nncf_and_clips, not_quantized
from trt.config import ArtifactConfig, Bond, Precision, nearest
from trt.errors import CompileError
from trt.probe import Gpu, Status, installed, missing, this_cpu, this_device, user_cache

if TYPE_CHECKING:
    import torch

    from trt.build_input import Run

WHERE = "CPU"
LOWERS: frozenset[Precision] = frozenset({"fp32", "tf32", "bf16", "fp16", "int8", "fp8"})
PACKAGES: tuple[str, ...] = ("openvino", "nncf")
BOUND_TO: frozenset[Bond] = frozenset()
MODEL, WEIGHTS = "model.xml", "model.bin"
INPUT, OUTPUT = "clips", "logits"
CAPABILITIES: dict[str, Precision] = {
    "FP32": "fp32", "BF16": "bf16", "FP16": "fp16", "INT8": "int8",
}  # fmt: skip
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
FP32_ATTRIBUTE = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
"""Attribute of IR operators that must not be converted to fp16; there is none for bf16."""
VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""CPU flags for int8 products with 32-bit sums. CPUs without them use 16-bit sums, which overflow
unless the weights use only half of their range."""
NOT_QUANTIZED = [
    "Subtract", "ReduceMean", "LSTMSequence", "GRUSequence", "RNNSequence",
    "ScaledDotProductAttention",
]  # fmt: skip
"""Operators that are not faster in int8 but lose accuracy: means over time and their subtraction,
recurrent layers, and attention, which the CPU computes in float."""


def probe(gpu: Gpu | None) -> Status:
    package = installed("openvino")
    return Status(usable=True, why=package) if package else missing("OpenVINO", "openvino")


def resolve_precision(precision: Precision, gpu: Gpu | None) -> tuple[Precision, str]:
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    supported = {CAPABILITIES[name] for name in capabilities if name in CAPABILITIES}
    return nearest(precision, supported, "this CPU")


@cache
def _core() -> Any:
    """One Core per process.

    With AMX, each Core sets a signal stack and later restores the previous one. With several Cores
    that may be the freed stack of another Core, and the next signal crashes the process.
    """
    import openvino

    return openvino.Core()


def runs_on(gpu: Gpu | None) -> str:
    return "cpu"


def build(inputs: BuildInput, folder: Path) -> dict[str, Any]:
    import openvino

    precision, fp32_layers = inputs.target.precision, inputs.target.fp32_layers
    if fp32_layers and precision == "bf16":
        raise CompileError(
            "OpenVINO can't keep single layers in fp32 with `precision='bf16'`: use fp16 or fp32."
        )
    inputs.on_step("converting")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, but needed; see above
        model = openvino.convert_model(inputs.model, example_input=inputs.example)
    shape = [-1 if inputs.target.batches.max > 1 else 1, *inputs.example.shape[1:]]
    model.reshape(shape)
    if precision == "int8":
        model = _quantized(model, inputs)
    model.input().get_tensor().set_names({INPUT})  # for other servers, such as Triton
    model.output().get_tensor().set_names({OUTPUT})
    openvino.save_model(
        model, folder / MODEL, compress_to_fp16=precision == "fp16" and not fp32_layers
    )
    if fp32_layers and precision == "fp16":
        _mark_fp32(folder / MODEL, fp32_layers)
    inputs.on_step("compiling")
    operators = [op for op in model.get_ordered_ops() if op.get_type_name() != "Constant"]
    return {"engines": 1, "in_engine": len(operators), "in_torch": 0}


def _quantized(model: Any, inputs: BuildInput) -> Any:
    """Quantize weights and activations to int8, calibrated on training clips."""
    nncf, clips = nncf_and_clips(inputs)
    has_attention = any(op.get_type_name() == "ScaledDotProductAttention" for op in model.get_ops())
    patterns = [_pattern(name) for name in not_quantized(inputs)]
    depthwise_3d = [
        op.get_friendly_name()
        for op in model.get_ops()
        if op.get_type_name() == "GroupConvolution" and len(op.get_input_partial_shape(0)) == 5
    ]
    _, flags = this_cpu()
    fix = None if flags & VNNI_FLAGS else nncf.OverflowFix.ENABLE
    return nncf.quantize(
        model,
        nncf.Dataset(clips, lambda clip: clip.numpy()),
        subset_size=len(clips),
        model_type=nncf.ModelType.TRANSFORMER if has_attention else None,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(
            names=depthwise_3d,  # the CPU has no int8 kernel for them
            patterns=patterns,
            types=NOT_QUANTIZED,
            validate=False,
        ),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
    )


def _pattern(name: str) -> str:
    """Regular expression for the names of a module's operators, including those of submodules."""
    import re

    return rf"__module\.model\.{re.escape(name)}[./].*"


def _mark_fp32(path: Path, fp32_layers: tuple[str, ...]) -> None:
    """Mark the operators of some modules in an IR file to stay in fp32."""
    import re

    tree = ElementTree.parse(path)
    for layer in tree.iter("layer"):
        if layer.get("type") != "Const" and any(
            re.match(_pattern(name), layer.get("name", "")) for name in fp32_layers
        ):
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.SubElement(layer, "rt_info")
                layer.remove(info)
                layer.insert(1, info)
            ElementTree.SubElement(info, "attribute", FP32_ATTRIBUTE)
    tree.write(path)


def load(folder: Path, config: ArtifactConfig) -> "Run":
    core = _core()
    try:
        model = core.read_model(folder / MODEL)
    except RuntimeError as error:
        raise CompileError(f"{folder / MODEL} can't be read: compile the model again.") from error
    return _Runner(core, model, config)


class _Runner:
    """Runs a single clip on all cores, and the clips of a batch in parallel, one per core.

    The compiled model has batch size 1: larger batches are not faster on a CPU, but a static shape
    is. The two modes differ by rounding, so all clips of a batch use the same mode.
    """

    def __init__(self, core: Any, model: Any, config: ArtifactConfig) -> None:
        shape = list(model.input(0).partial_shape)[1:]
        model.reshape([1, *(dim.get_length() for dim in shape)])
        self._core, self._model, self._files = core, model, config.files
        self._hint = HINTS.get(config.target.precision) or _float_precision_of_int8(core, config)

    @cached_property
    def _single(self) -> Any:
        return self._compiled("LATENCY").create_infer_request()

    @cached_property
    def _queue(self) -> Any:
        import openvino

        return openvino.AsyncInferQueue(self._compiled("THROUGHPUT"))

    def _compiled(self, performance: str) -> Any:
        hints = {"INFERENCE_PRECISION_HINT": self._hint, "PERFORMANCE_HINT": performance}
        if self._files:
            hints["CACHE_DIR"] = str(_cache(self._files, hints))
        try:
            return self._core.compile_model(self._model, "CPU", hints)
        except RuntimeError:  # in int8, means over time of the TimeSformer of `transformers` do so
            self._model.reshape([-1, *list(self._model.input(0).partial_shape)[1:]])
            return self._core.compile_model(self._model, "CPU", hints)

    def __call__(self, clips: "torch.Tensor") -> "torch.Tensor":
        import torch

        array = clips.contiguous().numpy()
        logits: list[Any] = [None] * len(array)
        if len(array) == 1:
            self._single.infer([array], share_inputs=True)
            _store(logits, self._single, 0)
        else:
            self._queue.set_callback(partial(_store, logits))
            for number in range(len(array)):
                self._queue.start_async([array[number : number + 1]], number, share_inputs=True)
            self._queue.wait_all()
        return torch.from_numpy(np.concatenate(logits))


def _cache(files: dict[str, str], hints: dict[str, str]) -> Path:
    """Cache folder of a compiled model.

    There is one folder per model, hints, device and version, because OpenVINO's cache key ignores
    the hints and may return a model that was compiled for another precision.
    """
    facts = [files, hints, this_device(), installed("openvino")]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return user_cache() / "openvino" / key


def _store(logits: list[Any], request: Any, number: int) -> None:
    logits[number] = request.get_output_tensor().data.copy()


def _float_precision_of_int8(core: Any, config: ArtifactConfig) -> str:
    """Precision of the float operators in an int8 model: bf16 if the CPU supports it, unless some
    layers are kept in fp32."""
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities and not config.target.fp32_layers else "f32"
