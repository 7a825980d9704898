"""Which operators TensorRT takes, which stay in PyTorch, and why: by Torch-TensorRT's dry run.

It needs no GPU; where there is none, Torch-TensorRT is told of one.
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

ENGINE = "_run_on_acc"
"""How Torch-TensorRT begins the name of a part that becomes an engine."""
MIN_OPERATORS = 5
"""Shorter runs of operators aren't worth the way into an engine and out again."""
MEMORY = 1 << 34


def report(program: "ExportedProgram") -> dict[str, Any]:
    """Counts, and for each operator that stays in PyTorch its module and the reason."""
    parts = partitioned(program)
    modules = _modules(program)
    breaks = [
        {
            "operator": str(node.target),
            "module": modules.get(_origin(node), ""),
            "why": _why(node),
        }
        for node in _outside(parts)
    ]
    engines = [each for name, each in parts.named_children() if name.startswith(ENGINE)]
    inside = sum(node.op == "call_function" for each in engines for node in each.graph.nodes)
    return {
        "engines": len(engines),
        "in_engine": inside,
        "in_torch": len(breaks),
        "breaks": breaks,
    }


def partitioned(program: "ExportedProgram") -> "GraphModule":
    """The lowered graph, cut as `compile` would cut it: each engine-to-be is a child.

    `program` itself goes to the GPU, if there is one, and is lowered a little: save it before.
    """
    import torch
    from torch.export.passes import move_to_device_pass

    dynamo = imported().dynamo
    if torch.cuda.is_available():
        program = move_to_device_pass(program, "cuda")
    ranges = input_ranges(program)
    with imagined_gpu(), contextlib.redirect_stdout(io.StringIO()):  # it prints its report
        return dynamo.compile(program, inputs=ranges, dryrun=True, min_block_size=MIN_OPERATORS)


def input_ranges(program: "ExportedProgram", best: int | None = None) -> list[Any]:
    """What Torch-TensorRT is told of each input: least, best and greatest shape, and type."""
    from torch.export.graph_signature import InputKind

    given = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    }
    ranges = []
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in given:
            continue
        value = node.meta["val"]
        least, most = [], []
        for size in value.shape:
            known = None if isinstance(size, int) else program.range_constraints[size.node.expr]
            least.append(size if known is None else max(1, int(known.lower)))
            most.append(size if known is None else int(known.upper))
        middle = [min(best or high, high) if low != high else low
                  for low, high in zip(least, most, strict=True)]  # fmt: skip
        ranges.append(
            imported().Input(min_shape=least, opt_shape=middle, max_shape=most, dtype=value.dtype)
        )
    return ranges


def imported() -> Any:
    """Torch-TensorRT of either flavour; it asks for the GPU when it is imported."""
    with imagined_gpu():
        try:
            import torch_tensorrt
        except ImportError as error:
            raise CompileError(
                f"Torch-TensorRT is not installed: {install_command('tensorrt')}, or with "
                "tensorrt-rtx in its place."
            ) from error
    logging.getLogger("torch_tensorrt").setLevel(logging.ERROR)
    return torch_tensorrt


@contextlib.contextmanager
def imagined_gpu() -> Iterator[None]:
    """Answers Torch-TensorRT's questions about the GPU where there is none; else does nothing."""
    import torch

    if torch.cuda.is_available():
        yield
        return
    answers: dict[tuple[Any, str], Any] = {
        (torch.cuda, "current_device"): lambda: 0,
        (torch.cuda, "get_device_capability"): lambda device=None: (8, 9),
        (torch.cuda, "mem_get_info"): lambda device=None: (MEMORY, MEMORY),
    }
    if compiler := sys.modules.get("torch_tensorrt.dynamo._compiler"):
        # where the weights go that stay in PyTorch
        answers[compiler, "to_torch_device"] = lambda device: torch.device("cpu")
    before = {(owner, name): getattr(owner, name) for owner, name in answers}
    for (owner, name), answer in answers.items():
        setattr(owner, name, answer)
    try:
        yield
    finally:
        for (owner, name), function in before.items():
            setattr(owner, name, function)


def _outside(parts: "GraphModule") -> "list[Node]":
    """The operators in no engine: in the parts for PyTorch, or in the graph that joins all parts.

    Taking an element of a tuple is no work, and isn't counted.
    """
    from torch.fx import GraphModule

    graphs = [parts.graph]
    for name, each in parts.named_children():
        if isinstance(each, GraphModule) and not name.startswith(ENGINE):
            graphs.append(each.graph)
    return [
        node
        for graph in graphs
        for node in graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
    ]


def _modules(program: "ExportedProgram") -> dict[str, str]:
    """The innermost module that each operator came from, by the operator's name."""
    stacks = {node.name: node.meta.get("nn_module_stack") for node in program.graph.nodes}
    return {
        name: [path for path, _ in stack.values()][-1] for name, stack in stacks.items() if stack
    }


def _origin(node: "Node") -> str:
    """The operator's name in the exported program, before it was lowered."""
    name, sources = node.name, node.meta.get("from_node")
    while sources:
        name, sources = sources[-1].name, sources[-1].from_node
    return name


def _why(node: "Node") -> str:
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    if node.target not in DYNAMO_CONVERTERS:
        return "Torch-TensorRT has no converter for it"
    if node not in DYNAMO_CONVERTERS:
        return "its converter doesn't take these arguments, or not with a batch that changes"
    return f"fewer than {MIN_OPERATORS} operators in a row that TensorRT would take"
