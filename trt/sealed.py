"""Whether an exported program is data alone, before torch opens it.

Torch reads some of what such a file may hold by pickle, and its formulae for sizes by `eval`. So a
file is opened only where it holds what program.save writes, and nothing else.
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
KNOWN = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|version|\.data/\w+|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt)"
)
FORMULA = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp,
    ast.operator, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop,
)  # fmt: skip
"""What there may be in one: no attribute, nothing that is made or unpacked."""


def check(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as file:
            reason = _foreign(file)
    except (OSError, ValueError, RecursionError, RuntimeError, zipfile.BadZipFile) as error:
        raise CompileError(f"{path} can't be read ({error}): compile the model anew.") from error
    if reason:
        raise CompileError(f"{path} {reason}, which could run anything: not opened.")


def _foreign(file: zipfile.ZipFile) -> str:
    """What doesn't belong there, or nothing."""
    names = file.namelist()
    if len(set(names)) < len(names):
        return "holds two files of one name"
    for item in file.infolist():
        if not KNOWN.fullmatch(item.filename) or (EXAMPLE in item.filename and item.file_size):
            return f"holds a pickle or the like ({item.filename})"
        if not item.filename.endswith(".json"):
            continue
        for key, value in _pairs(json.loads(file.read(item))):
            if key == "use_pickle" and value is not False:
                return f"holds a pickle ({item.filename})"
            if key == "expr_str" and not _is_formula(value):
                return f"holds a formula that is none ({str(value)[:80]})"
    return ""


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _is_formula(text: Any) -> bool:
    """Numbers, symbols and classes of sympy's, whose names begin with a capital; built-in functions
    begin with a small letter."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, FORMULA) and _is_harmless(node) for node in nodes)


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id[0].isupper()
    if isinstance(node, ast.Constant) and not isinstance(node.value, int | float):
        return isinstance(node.value, str) and re.fullmatch(r"\w+", node.value) is not None
    return True
