"""Checks that an exported program contains only data, before torch loads it.

torch.export.load unpickles some entries of such a file and evaluates shape expressions with `eval`.
So a file is only loaded if it contains nothing but what program.save writes.
"""

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trt.errors import CompileError

EXAMPLE = "/sample_inputs/"
ALLOWED_FILES = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|version|\.data/\w+|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt)"
)
EXPRESSION_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp,
    ast.operator, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop,
)  # fmt: skip
"""Syntax nodes allowed in a shape expression: no attributes, no comprehensions, no unpacking."""


def check(path: Path) -> None:
    """Raise CompileError if the file can't be read or contains anything that could run code."""
    try:
        with zipfile.ZipFile(path) as file:
            reason = _unsafe_content(file)
    except (OSError, ValueError, RecursionError, RuntimeError, zipfile.BadZipFile) as error:
        raise CompileError(f"{path} can't be read ({error}): compile the model again.") from error
    if reason:
        raise CompileError(f"{path} {reason}, which could run any code: compile the model again.")


def _unsafe_content(file: zipfile.ZipFile) -> str:
    """Describe the first entry that isn't allowed; empty if there is none."""
    names = file.namelist()
    if len(set(names)) < len(names):
        return "holds two files with the same name"
    for item in file.infolist():
        if not ALLOWED_FILES.fullmatch(item.filename) or (
            EXAMPLE in item.filename and item.file_size
        ):
            return f"holds a pickle or an unknown file ({item.filename})"
        if not item.filename.endswith(".json"):
            continue
        for key, value in _key_value_pairs(json.loads(file.read(item))):
            if key == "use_pickle" and value is not False:
                return f"holds a pickle ({item.filename})"
            if key == "expr_str" and not _is_shape_expression(value):
                return f"holds an invalid shape expression ({str(value)[:80]})"
    return ""


def _key_value_pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys with their values, at any depth."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value.items()
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _is_shape_expression(text: Any) -> bool:
    """Whether a shape expression has only numbers, symbols and sympy classes.

    The names of sympy classes start with a capital letter, those of built-in functions don't.
    """
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, EXPRESSION_NODES) and _is_safe_node(node) for node in nodes)


def _is_safe_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id[0].isupper()
    if isinstance(node, ast.Constant) and not isinstance(node.value, int | float):
        return isinstance(node.value, str) and re.fullmatch(r"\w+", node.value) is not None
    return True
