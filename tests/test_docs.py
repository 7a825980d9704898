"""Every command that the pages and the help texts show is one that the command line takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from engine.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(page: Path) -> Iterator[str]:
    """From blocks of code and from what stands between backticks."""
    text = page.read_text().replace("\\\n", " ")
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M):
        for line in block.splitlines():
            if found := re.search(r"(?:^|\| |-m )(engine [a-z].*)", line):
                yield found[1]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    yield from re.findall(r"`(engine [a-z]+ [^`]*)`", prose.replace("\n", " "))


def examples_of(command: click.Command) -> Iterator[str]:
    yield from re.findall(r"\[bold\][^\[]*?(engine [^\[]+)\[/bold\]", command.help or "")
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from examples_of(each)


CLI: Any = typer.main.get_command(app)
SHOWN = [(page.name, each) for page in PAGES for each in commands_of(page)]
SHOWN += [("--help", " ".join(each.split())) for each in examples_of(CLI)]
SHOWN = [
    (where, line)
    for where, line in SHOWN
    if not any(each in line.partition("#")[0] for each in ("...", "…", "|"))
]
"""Without what several commands have in common."""


@pytest.mark.parametrize(("where", "line"), SHOWN)
def test_a_command_that_is_shown_can_be_given(where: str, line: str) -> None:
    command, words = CLI, shlex.split(line, comments=True)[1:]
    context = command.make_context("engine", words)
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = command.make_context(name, words, parent=context)
