"""Reports which operators run in TensorRT, which stay in PyTorch, and why.

Uses Torch-TensorRT's dry run. Without a GPU, Torch-TensorRT's GPU queries are answered for a fake
one.
"""

import contextlib
import io
import logging
import operator
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trt.errors import CompileError
from trt.probe import install_command

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

ENGINE_PREFIX = "_run_on_acc"
"""Prefix of Torch-TensorRT's names for the parts that become engines."""
MIN_OPERATORS = 5
"""Smallest number of operators in an engine; fewer aren't worth the overhead of calling one."""
FAKE_MEMORY = 1 << 34


def report(program: "ExportedProgram") -> dict[str, Any]:
    """Count the engines and operators, and list the operators that stay in PyTorch.

    Returns:
        The counts, and under "breaks" the name, module and reason of each operator in PyTorch.
        "attention" counts the attention operators that TensorRT gets whole, for which it has fused
        kernels; "unfused_attention" names the modules of those that are a softmax between products.
    """
    parts = partitioned(program)
    modules = _modules(program)
    breaks = [
        {
            "operator": str(node.target),
            "module": modules.get(_origin(node), ""),
            "why": _why(node),
        }
        for node in _operators_in_torch(parts)
    ]
    engines = [part for name, part in parts.named_children() if name.startswith(ENGINE_PREFIX)]
    in_engines = [
        node for engine in engines for node in engine.graph.nodes if node.op == "call_function"
    ]
    return {
        "engines": len(engines),
        "in_engine": len(in_engines),
        "in_torch": len(breaks),
        "breaks": breaks,
        "attention": sum("scaled_dot_product" in str(node.target) for node in in_engines),
        "unfused_attention": [
            modules.get(_origin(node), "") for node in in_engines if "softmax" in str(node.target)
        ],
    }


def partitioned(program: "ExportedProgram") -> "GraphModule":
    """Lower and partition a program as `compile` would; each future engine is a child module.

    This changes `program` (it is moved to the GPU, if there is one, and partly lowered), so save it
    first.
    """
    import torch

    from trt.program import on_gpu

    dynamo = import_torch_tensorrt().dynamo
    if torch.cuda.is_available():
        program = on_gpu(program)
    ranges = input_ranges(program)
    with fake_gpu(), contextlib.redirect_stdout(io.StringIO()):  # it prints its report
        return dynamo.compile(program, inputs=ranges, dryrun=True, min_block_size=MIN_OPERATORS)


def input_ranges(program: "ExportedProgram", opt: int | None = None) -> list[Any]:
    """Torch-TensorRT's input specs: min, opt and max shape, and data type.

    Args:
        program: An exported program.
        opt: Size of dynamic dimensions to optimize for; None means the maximum.
    """
    from torch.export.graph_signature import InputKind

    user_inputs = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    }
    ranges = []
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in user_inputs:
            continue
        value = node.meta["val"]
        min_shape, max_shape = [], []
        for size in value.shape:
            bounds = None if isinstance(size, int) else program.range_constraints[size.node.expr]
            min_shape.append(size if bounds is None else max(1, int(bounds.lower)))
            max_shape.append(size if bounds is None else int(bounds.upper))
        opt_shape = [min(opt or high, high) if low != high else low
                     for low, high in zip(min_shape, max_shape, strict=True)]  # fmt: skip
        ranges.append(
            import_torch_tensorrt().Input(
                min_shape=min_shape, opt_shape=opt_shape, max_shape=max_shape, dtype=value.dtype
            )
        )
    return ranges


def import_torch_tensorrt() -> Any:
    """Import Torch-TensorRT, in the version for TensorRT or for TensorRT-RTX.

    Raises:
        CompileError: It is not installed.
    """
    with fake_gpu():
        try:
            import torch_tensorrt
        except ImportError as error:
            raise CompileError(
                f"Torch-TensorRT is not installed: {install_command('tensorrt')}, or use "
                "tensorrt-rtx instead of tensorrt."
            ) from error
    logging.getLogger("torch_tensorrt").setLevel(logging.ERROR)
    return torch_tensorrt


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """Without a GPU, answer Torch-TensorRT's GPU queries for a fake one; else do nothing."""
    import torch

    if torch.cuda.is_available():
        yield
        return
    answers: dict[tuple[Any, str], Any] = {
        (torch.cuda, "current_device"): lambda: 0,
        (torch.cuda, "get_device_capability"): lambda device=None: (8, 9),
        (torch.cuda, "mem_get_info"): lambda device=None: (FAKE_MEMORY, FAKE_MEMORY),
    }
    if compiler := sys.modules.get("torch_tensorrt.dynamo._compiler"):
        # device of the weights that stay in PyTorch
        answers[compiler, "to_torch_device"] = lambda device: torch.device("cpu")
    originals = {(owner, name): getattr(owner, name) for owner, name in answers}
    for (owner, name), answer in answers.items():
        setattr(owner, name, answer)
    has_onednn = torch._C._get_mkldnn_enabled()
    # with it, the choice of a convolution's CPU kernel would bound the batch size
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(has_onednn)
        for (owner, name), function in originals.items():
            setattr(owner, name, function)


def _operators_in_torch(parts: "GraphModule") -> "list[Node]":
    """List the operators that are in no engine; taking an element of a tuple isn't counted."""
    from torch.fx import GraphModule

    graphs = [parts.graph]
    for name, part in parts.named_children():
        if isinstance(part, GraphModule) and not name.startswith(ENGINE_PREFIX):
            graphs.append(part.graph)
    return [
        node
        for graph in graphs
        for node in graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
    ]


def _modules(program: "ExportedProgram") -> dict[str, str]:
    """Innermost module of each operator, by the operator's name."""
    stacks = {node.name: node.meta.get("nn_module_stack") for node in program.graph.nodes}
    return {
        name: [path for path, _ in stack.values()][-1] for name, stack in stacks.items() if stack
    }


def _origin(node: "Node") -> str:
    """Name of an operator in the exported program, before lowering."""
    name, sources = node.name, node.meta.get("from_node")
    while sources:
        name, sources = sources[-1].name, sources[-1].from_node
    return name


def _why(node: "Node") -> str:
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    if node.target not in DYNAMO_CONVERTERS:
        return "Torch-TensorRT has no converter for it"
    if node not in DYNAMO_CONVERTERS:
        return "its converter doesn't support these arguments, or a dynamic batch size"
    return f"fewer than {MIN_OPERATORS} consecutive operators that TensorRT supports"
