"""The shape of the project: arrows point one way, and a glance at the help loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dali_pipelines", "trt", "engine", "benchmarks")
MAY_IMPORT = {
    "dali_pipelines": set(),
    "trt": set(),
    "engine": {"dali_pipelines", "trt"},
    "benchmarks": {"dali_pipelines", "trt", "engine"},
}
MAY_BENCH = (ROOT / "engine/commands/bench_stages.py", ROOT / "engine/commands/info.py")
JOINING = ("commands", "compilation")
MAY_JOIN = (ROOT / "engine/cli.py", ROOT / "engine/predictor.py", ROOT / "engine/api.py")
"""The command line catches the errors of both."""
HEAVY = ("torch", "nvidia", "av", "numpy", "transformers", "timm", "openvino", "tensorrt")
NAMELESS = ("utils", "common", "helpers", "misc")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_one_way(package: str) -> None:
    assert modules(package)
    for path in modules(package):
        others = imported(path) & (set(PACKAGES) - {package})
        if path in MAY_BENCH:
            others -= {"benchmarks"}
        assert others <= MAY_IMPORT[package], path


def test_few_rooms_join_pipelines_and_compilers() -> None:
    for path in modules("engine"):
        if path.parent.name not in JOINING and path not in MAY_JOIN:
            assert not {"dali_pipelines", "trt"} <= imported(path), path


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
