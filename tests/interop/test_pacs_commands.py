"""The ten commands of docs/pacs.md, as they stand there, against the Orthanc that they name."""

from __future__ import annotations

import re

import click

from cli.main import main
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "pacs.md").read_text()


def commands(heading: str) -> list[str]:
    """The commands of a section, without what is said of them."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    block = section.partition("```\n")[2].partition("```")[0]
    return [line.partition("#")[0].rstrip(" &") for line in block.splitlines() if line.strip()]


def test_it_is_ten_commands() -> None:
    assert len(commands("Try it with Orthanc")) == 10


def test_every_command_of_ours_on_the_page_exists_with_its_options() -> None:
    found = re.findall(r"^fractureai (.+?)(?:\s{2,}#.*)?$", PAGE, re.M)
    assert len(found) > 20
    for line in found:
        command: click.Command = main
        words = line.split()
        while isinstance(command, click.Group) and words:
            inner = command.get_command(click.Context(command), words[0])
            if inner is None:
                break
            command, words = inner, words[1:]
        assert not isinstance(command, click.Group) or command.invoke_without_command, line
        known = {name for option in command.params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
