import ast
import re
from collections.abc import Iterator

import pytest
import typer.main
from source_tree import ROOT, modules

from engine.cli import app
from engine.commands.messages import with_flags


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("lower `lr`, or pass `precision='fp32'`.", "lower --lr, or pass --precision fp32."),
        ("pass `skip_missing=True` or `batch_size=2`.", "pass --skip-missing or --batch-size 2."),
        ("as in `option='backbone=hf:FOLDER'`.", "as in --option backbone=hf:FOLDER."),
        ("pass `out='my run/it'`.", "pass --out my run/it."),
        ("run `pip install av`, then `engine info`.", "run `pip install av`, then `engine info`."),
    ],
)
def test_settings_become_flags(message: str, printed: str) -> None:
    assert with_flags(message) == printed


def texts(tree: ast.AST) -> Iterator[str]:
    """Strings of a module without its docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield str(node.value)


def test_every_setting_that_a_message_names_is_a_flag() -> None:
    commands = [typer.main.get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
    flags = {
        flag
        for command in commands
        for option in command.params
        for flag in (*option.opts, *option.secondary_opts)
    }
    named = {
        setting
        for package in ("dali_pipelines", "trt", "engine")
        for path in modules(package)
        if "commands" not in path.relative_to(ROOT).parts
        for text in texts(ast.parse(path.read_text()))
        for setting in re.findall(r"`([a-z_]+)(?:=[^`]*)?`", text)
    }
    assert len(named) > 30
    assert [name for name in named if with_flags(f"`{name}`") not in flags] == []
