"""Every command that the pages and the help texts show is one that the command line takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from engine.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(page: Path) -> Iterator[str]:
    text = page.read_text().replace("\\\n", " ")
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M):
        for line in block.splitlines():
            if found := re.search(r"(?:^|\| |-m )(engine [a-z].*)", line):
                yield found[1]


def mentions_of(page: Path) -> Iterator[str]:
    """Between backticks: not always with all that the command needs."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    yield from re.findall(r"`(engine [a-z]+ [^`]*)`", prose.replace("\n", " "))


def examples_of(command: Any) -> Iterator[str]:
    yield from re.findall(r"\[bold\][^\[]*?(engine [^\[]+)\[/bold\]", command.help or "")
    if isinstance(command, TyperGroup):
        for each in command.commands.values():
            yield from examples_of(each)


CLI: Any = typer.main.get_command(app)
SHOWN = [(page.name, each) for page in PAGES for each in blocks_of(page)]
SHOWN += [("--help", " ".join(each.split())) for each in examples_of(CLI)]
MENTIONED = [
    (page.name, each)
    for page in PAGES
    for each in mentions_of(page)
    if not any(several in each for several in ("...", "…", "|"))
]


@pytest.mark.parametrize(("where", "line"), SHOWN)
def test_a_command_that_is_shown_can_be_given(where: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize(("where", "line"), MENTIONED)
def test_what_is_mentioned_exists(where: str, line: str) -> None:
    try:
        parse(line)
    except Exception as error:  # typer has a click of its own
        if type(error).__name__ not in ("MissingParameter", "BadParameter", "Exit"):
            raise


def parse(line: str) -> None:
    command, words = CLI, shlex.split(line, comments=True)[1:]
    context = command.make_context("engine", words)
    while isinstance(command, TyperGroup):
        left = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, left)
        context = command.make_context(name, words, parent=context)
