"""The table of commands: every row leads somewhere, and asking for help imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from cli.main import COMMANDS, main

HEAVY = {"tensorflow", "keras", "openvino", "cv2", "sqlalchemy", "celery", "flask", "weasyprint", "httpx"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_row_is_a_command(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert isinstance(command, click.Command)


def test_help_names_them_all_and_imports_none() -> None:
    script = (
        "import sys; from cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print('MODULES', *sorted(m for m in sys.modules if '.' not in m))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    shown, modules = done.stdout.split("MODULES")
    for name, (_, line) in COMMANDS.items():
        assert name in shown
        assert line.split()[0] in shown
    assert not HEAVY & set(modules.split())


def test_unknown_command_is_a_usage_error() -> None:
    with pytest.raises(click.UsageError, match="No such command 'dance'"):
        main.main(["dance"], standalone_mode=False)
