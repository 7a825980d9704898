"""TensorRT for RTX backend: one engine from ONNX, built on any machine, for RTX-class GPUs.

The artifact keeps the ONNX file, from which an engine for another version can be built.
"""

import atexit
import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt.backends import onnx_backend
from trt.build_input import BuildInput
from trt.config import ArtifactConfig, Bond, Precision, Target, nearest
from trt.errors import CompileError
from trt.probe import Gpu, Status, installed, missing, user_cache

if TYPE_CHECKING:
    import onnx
    import torch

    from trt.build_input import Run

WHERE = "RTX-class GPU, built anywhere"
LOWERS: frozenset[Precision] = frozenset({"fp32", "tf32", "int8"})
PACKAGES: tuple[str, ...] = ("tensorrt-rtx",)
BOUND_TO: frozenset[Bond] = frozenset({"versions"})
MODEL, ENGINE = onnx_backend.MODEL, "model.engine"
MIN_CAPABILITY = (8, 0)
"""Engines for older GPUs have to be built for them alone."""
INPUT, OUTPUT = onnx_backend.INPUT, onnx_backend.OUTPUT


def probe(gpu: Gpu | None) -> Status:
    """Engines are built without a GPU; only running them needs one."""
    for package, extra in (("tensorrt-rtx", "tensorrt-rtx"), ("onnx", "onnx")):
        if not installed(package):
            return missing(package, extra)
    runs = "and runs" if gpu and has_kernels(gpu) else "but can't run"
    return Status(usable=True, why=f"{installed('tensorrt-rtx')}; builds engines {runs} them here")


def has_kernels(gpu: Gpu) -> bool:
    """Whether TensorRT-RTX can run on this GPU; the library lists the GPUs that it has kernels for.

    Its list has gaps: 1.6 supports 8.9 and 12.0, but not 9.0 (H100, H200) and 10.0 (B200).
    """
    try:
        import tensorrt_rtx
    except (ImportError, OSError):
        return False
    name = "SM{}{}".format(*gpu.capability)
    return gpu.capability >= MIN_CAPABILITY and name in tensorrt_rtx.ComputeCapability.__members__


def resolve_precision(precision: Precision, gpu: Gpu | None) -> tuple[Precision, str]:
    """Independent of this GPU: an engine is for all GPUs of compute capability 8.0 and later."""
    return nearest(precision, {"fp32", "tf32", "bf16", "fp16", "int8"}, "TensorRT-RTX")


def runs_on(gpu: Gpu | None) -> str:
    return "cuda" if gpu and has_kernels(gpu) else ""


def build(inputs: BuildInput, folder: Path) -> dict[str, Any]:
    if inputs.stored is not None:
        shutil.copyfile(inputs.stored / MODEL, folder / MODEL)
        inputs.on_step("compiling")
        return {"engines": 1, "in_torch": 0, "in_engine": build_engine(folder, inputs.target)}
    onnx_backend.write_model(inputs, folder / MODEL)
    if inputs.target.precision == "bf16":
        _make_bf16_compatible(folder / MODEL)
    partition = {"engines": 1, "in_torch": 0}
    if inputs.target.precision == "int8":
        partition["weights_in_8_bits"] = _quantize(folder / MODEL, inputs)
    inputs.on_step("compiling")
    return {**partition, "in_engine": build_engine(folder, inputs.target)}


def build_engine(folder: Path, target: Target) -> int:
    """Build an engine from the ONNX file in the folder.

    Returns:
        The number of layers.

    Raises:
        CompileError: TensorRT-RTX doesn't support the model.
    """
    import tensorrt_rtx

    logger = _logger()
    builder = tensorrt_rtx.Builder(logger)
    network = builder.create_network()  # strongly typed: the precisions of the ONNX file
    parser = tensorrt_rtx.OnnxParser(network, logger)
    if not parser.parse_from_file(str(folder / MODEL)):
        error = parser.get_error(0)
        raise CompileError(
            f"TensorRT-RTX can't take {error.node_operator() or 'the model'} "
            f"{error.node_name()} ({_reason(logger)}): choose another `backend` or `precision`."
        )
    serialized = builder.build_serialized_network(network, _config(builder, network, target))
    if serialized is None:
        raise CompileError(
            f"TensorRT-RTX built no engine ({_reason(logger)}): "
            "choose another `backend` or `precision`."
        )
    (folder / ENGINE).write_bytes(serialized)
    return network.num_layers


def _config(builder: Any, network: Any, target: Target) -> Any:
    import tensorrt_rtx

    config = builder.create_builder_config()
    if target.precision != "tf32":
        config.clear_flag(tensorrt_rtx.BuilderFlag.TF32)  # set by default
    if target.workspace_gb is not None:
        size = int(target.workspace_gb * (1 << 30))
        config.set_memory_pool_limit(tensorrt_rtx.MemoryPoolType.WORKSPACE, size)
    if target.optimization_level is not None:
        config.builder_optimization_level = target.optimization_level
    batch, *rest = network.get_input(0).shape
    if batch == -1:
        profile = builder.create_optimization_profile()
        sizes = (target.batches.min, target.batches.opt, target.batches.max)
        profile.set_shape(INPUT, *((size, *rest) for size in sizes))
        config.add_optimization_profile(profile)
    return config


def _make_bf16_compatible(path: Path) -> None:
    """Change what TensorRT rejects in a bf16 model.

    Convolutions into which the exporter folded a normalization have fp32 weights; they become bf16.
    GRUs in bf16 fail in the parser, which computes with an fp32 constant; they become fp32.
    """
    import onnx
    from onnx import TensorProto

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    weights = {weight.name: weight for weight in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        is_bf16 = types.get(node.input[0]) == TensorProto.BFLOAT16 if node.input else False
        if node.op_type == "Conv" and is_bf16:
            for name in node.input[1:]:
                if name in weights and weights[name].data_type == TensorProto.FLOAT:
                    _to_bf16(weights[name], path.parent)
        nodes += _in_fp32(node) if node.op_type == "GRU" and is_bf16 else [node]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.save(model, path)


def _to_bf16(weight: "onnx.TensorProto", folder: Path) -> None:
    import ml_dtypes
    from onnx import numpy_helper

    values = numpy_helper.to_array(weight, base_dir=str(folder))
    weight.CopyFrom(numpy_helper.from_array(values.astype(ml_dtypes.bfloat16), weight.name))


def _in_fp32(node: "onnx.NodeProto") -> "list[onnx.NodeProto]":
    """Put a node between casts; missing optional inputs and outputs have an empty name."""
    from onnx import TensorProto, helper

    before, after = [], []
    for i, name in enumerate(node.input):
        if name:
            node.input[i] = f"{node.name}.in{i}"
            before.append(helper.make_node("Cast", [name], [node.input[i]], to=TensorProto.FLOAT))
    for i, name in enumerate(node.output):
        if name:
            node.output[i] = f"{node.name}.out{i}"
            cast = helper.make_node("Cast", [node.output[i]], [name], to=TensorProto.BFLOAT16)
            after.append(cast)
    return [*before, node, *after]


def _quantize(path: Path, inputs: BuildInput) -> int:
    """Quantize to int8 and return the number of int8 weights.

    TensorRT-RTX supports int8 matrix products but no int8 convolutions, and its zero points are
    always 0.
    """
    import onnx

    onnx_backend.quantize(path, inputs, symmetric=True, not_types=["Conv"])
    _make_signed(path)
    graph = onnx.load(path, load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    quantized = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    if not weights & quantized:
        raise CompileError(
            "TensorRT-RTX can't run any part of this model in int8: use `precision='bf16'`."
        )
    return len(weights & quantized)


def _make_signed(path: Path) -> None:
    """Convert uint8 quantization to int8.

    NNCF quantizes values that are never negative to 0…255, but TensorRT supports at most 127.
    """
    import numpy
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    weights = {weight.name: weight for weight in model.graph.initializer}
    pairs = {  # names of scale and zero point
        (node.input[1], node.input[2])
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        and weights[node.input[2]].data_type == onnx.TensorProto.UINT8
    }
    for name in {scale for scale, _ in pairs}:
        wider = numpy_helper.to_array(weights[name]) * numpy.float32(255 / 127)
        weights[name].CopyFrom(numpy_helper.from_array(wider, name))
    for name in {zero for _, zero in pairs}:
        zeros = numpy_helper.to_array(weights[name])
        assert not zeros.any()
        weights[name].CopyFrom(numpy_helper.from_array(zeros.astype(numpy.int8), name))
    del model.graph.value_info[:]
    onnx.save(model, path)


def load(folder: Path, config: ArtifactConfig) -> "Run":
    import torch

    if not torch.cuda.is_available():
        raise CompileError(
            f"{folder} holds a TensorRT-RTX engine, but torch finds no NVIDIA GPU to run it: "
            "compile the model with `backend='openvino'` for this machine."
        )
    import tensorrt_rtx

    logger = _logger()
    runtime = tensorrt_rtx.Runtime(logger)
    engine = runtime.deserialize_cuda_engine((folder / ENGINE).read_bytes())
    digest = config.files.get(ENGINE)  # none yet while the artifact is being built
    kernels = user_cache() / "tensorrt-rtx" / digest if digest else None
    context = _context(engine, kernels) if engine is not None else None
    if context is None:
        raise CompileError(
            f"TensorRT-RTX can't open {folder / ENGINE} here ({_reason(logger)}): "
            "compile the model again, on this machine."
        )
    from trt.cuda_graphs import CudaGraphRunner

    return CudaGraphRunner(_Runner(runtime, context))


def _context(engine: Any, kernels: Path | None) -> Any:
    """Create an execution context; `kernels` is where the kernels that it compiles are saved.

    They are saved in the user's cache, because a file in the artifact would have no digest. Kernels
    are compiled for each shape before it runs, since a CUDA graph can't be recorded while they are
    compiled in the background.
    """
    import tensorrt_rtx

    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = (
        tensorrt_rtx.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    cache = config.create_runtime_cache()
    if kernels is not None:
        if kernels.is_file():
            cache.deserialize(kernels.read_bytes())
        atexit.register(_save, cache, kernels)
    config.set_runtime_cache(cache)
    return engine.create_execution_context(config)


def _save(cache: Any, path: Path) -> None:
    """Save compiled kernels; without them the next start is only slower."""
    with contextlib.suppress(OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_bytes(bytes(cache.serialize()))
        new.replace(path)


class _Runner:
    """Runs an engine on a CUDA stream of its own, without waiting for the result."""

    def __init__(self, runtime: Any, context: Any) -> None:
        import torch

        self._runtime = runtime  # must live as long as the engine
        self._context = context
        self._stream = torch.cuda.Stream()

    def __call__(self, clips: "torch.Tensor") -> "torch.Tensor":
        import torch

        clips = clips.contiguous()
        context = self._context
        context.set_input_shape(INPUT, tuple(clips.shape))
        shape = tuple(context.get_tensor_shape(OUTPUT))
        logits = torch.empty(shape, dtype=torch.float32, device=clips.device)
        context.set_tensor_address(INPUT, clips.data_ptr())
        context.set_tensor_address(OUTPUT, logits.data_ptr())
        # On the default stream, TensorRT waits for the whole GPU before and after a run.
        current, own = torch.cuda.current_stream(), self._stream
        own.wait_stream(current)
        done = context.execute_async_v3(own.cuda_stream)
        current.wait_stream(own)
        if not done:
            raise CompileError(f"TensorRT-RTX couldn't run {len(clips)} clips at once.")
        return logits


def _logger() -> Any:
    """Create a logger that collects the library's errors for our messages, and prints nothing."""
    import tensorrt_rtx

    class Logger(tensorrt_rtx.ILogger):
        def __init__(self) -> None:
            tensorrt_rtx.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            levels = (tensorrt_rtx.ILogger.ERROR, tensorrt_rtx.ILogger.INTERNAL_ERROR)
            if severity in levels and "cudaError 35" not in message:  # no driver; builds need none
                self.errors.append(message)

    return Logger()


def _reason(logger: Any) -> str:
    return logger.errors[0].splitlines()[0] if logger.errors else "it gives no reason"
