"""The shape of the project: arrows point one way, and a glance at the help loads nothing heavy."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from source_tree import PACKAGES, ROOT, modules

HEAVY = ("torch", "nvidia", "av", "numpy", "transformers", "timm", "openvino", "tensorrt")
NAMELESS = ("utils", "common", "helpers", "misc")

MAY_IMPORT = {
    "dali_pipelines": "",
    "dali_pipelines.decode": "dali_pipelines",
    "dali_pipelines.loaders": "dali_pipelines dali_pipelines.decode",
    "trt": "trt.backends",
    "trt.backends": "trt",
    "engine": "dali_pipelines.* trt.* engine.api engine.cross_validation engine.prediction "
    "engine.predictor engine.training engine.watching",
    "engine.data": "dali_pipelines.*",
    "engine.models": "dali_pipelines.*",
    "engine.prediction": "dali_pipelines.*",
    "engine.tracking": "trt.*",
    "engine.training": "dali_pipelines.* trt.* engine.data engine.models engine.tracking",
    "engine.watching": "dali_pipelines.* engine.prediction",
    "engine.predictor": "dali_pipelines.* trt.* engine.prediction engine.training engine.watching",
    "engine.evaluation": "dali_pipelines.* engine.data engine.predictor engine.training",
    "engine.compilation": "dali_pipelines.* trt.* engine.data engine.evaluation "
    "engine.models engine.predictor engine.training",
    "engine.labelling": "dali_pipelines.* trt.* engine.data engine.predictor",
    "engine.serving": "dali_pipelines.* trt.* engine.predictor",
    "engine.experiments": "dali_pipelines.* trt.* engine.data engine.evaluation engine.training",
    "engine.app": "dali_pipelines.* trt.* engine.labelling engine.predictor",
    "engine.demo": "dali_pipelines.* trt.* engine.data engine.evaluation engine.labelling "
    "engine.predictor",
    "engine.new_run": "engine.experiments engine.training",
    "engine.api": "dali_pipelines.* trt.* engine.compilation engine.data engine.evaluation "
    "engine.models engine.new_run engine.predictor engine.training",
    "engine.cross_validation": "dali_pipelines.* trt.* engine.data engine.evaluation "
    "engine.new_run engine.tracking engine.training",
    "engine.commands": "dali_pipelines.* trt.* benchmarks.* engine.api engine.app "
    "engine.compilation engine.cross_validation engine.data engine.demo engine.evaluation "
    "engine.experiments engine.labelling engine.predictor engine.serving engine.tracking "
    "engine.training engine.watching",
    "engine.cli": "dali_pipelines.* trt.* engine.commands",
    "engine.__main__": "engine.cli",
    "benchmarks": "dali_pipelines.* trt.* engine.* benchmarks.*",
    "benchmarks.baselines": "dali_pipelines.* trt.* engine.* benchmarks.*",
    "benchmarks.stages": "dali_pipelines.* trt.* engine.* benchmarks.*",
    "benchmarks.scripts": "dali_pipelines.* trt.* engine.* benchmarks.*",
}
"""From folder to folder; `trt.*` is the package with its folders."""
SHARED = {
    f"engine.{name}"
    for name in "addresses atomic batched_predictor confusion errors file_names frames html "
    "interrupt machine memory parallel progress window_predictor".split()
}


FLAG = re.compile(r"(?<![\w-])--[a-z]")
KNOWS_FLAGS = ("engine/cli.py", "engine/commands/")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def arrows() -> dict[str, set[str]]:
    """Module to the modules of ours that it imports, be it within a function or for types alone."""
    paths = {name_of(path): path for package in PACKAGES for path in modules(package)}
    found: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & paths.keys()
            elif isinstance(node, ast.ImportFrom):
                assert node.module, f"{path} has a relative import"
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found[name] |= {whole if whole in paths else node.module} & paths.keys()
    return found


def place_of(module: str) -> str:
    """What MAY_IMPORT calls it: by its folder, or by itself."""
    longest = ".".join(module.split(".")[:2])
    return longest if longest in MAY_IMPORT else longest.partition(".")[0]


def test_modules_import_in_no_circle() -> None:
    order = list(TopologicalSorter(arrows()).static_order())  # its error names the circle
    assert len(order) > 200


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_arrows_point_one_way(place: str) -> None:
    allowed = MAY_IMPORT[place].split()
    here = [module for module in arrows() if place_of(module) == place]
    assert here
    for module in here:
        for other in arrows()[module] - SHARED:
            there = place_of(other)
            package = there.partition(".")[0]
            assert there == place or {there, f"{package}.*"} & set(allowed), (module, other)


def test_no_test_file_imports_another() -> None:
    """What several share lies in a module of its own beside them."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    assert len(files) > 50
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            assert not [name for name in names if name.startswith("test_")], path


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, engine.cli; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not set(HEAVY) & {name.partition(".")[0] for name in result.stdout.split()}


def test_every_module_says_what_lives_in_it_and_is_named_for_it() -> None:
    for package in PACKAGES:
        for path in modules(package):
            assert ast.get_docstring(ast.parse(path.read_text())), path
            assert path.stem not in NAMELESS, path
            assert len(path.read_text().splitlines()) <= 400, path


def test_only_commands_name_flags_in_errors() -> None:
    """Others name settings as in `lr` or `resume=True`; the command line makes flags of them."""
    raised = [
        f"{path.relative_to(ROOT)}:{text.lineno}: {text.value}"
        for package in ("dali_pipelines", "trt", "engine")
        for path in modules(package)
        if not path.relative_to(ROOT).as_posix().startswith(KNOWS_FLAGS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error")
        for text in ast.walk(node)
        if isinstance(text, ast.Constant) and FLAG.search(str(text.value))
    ]
    assert raised == []
