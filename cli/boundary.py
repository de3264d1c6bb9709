"""Turns every error that reaches the command line into a sentence and an exit code."""

from __future__ import annotations

import os
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

#: sysexits' EX_SOFTWARE; 1 means that images were rejected, and never that we failed.
OUR_ERROR = 70
USAGE, UNREACHABLE = 2, 3
LOG_BYTES = 1 << 20


@contextmanager
def telling_errors() -> Iterator[None]:
    """Let click's own exceptions pass; turn all others into one, whose sentence click prints.

    An unexpected error goes to a log with its traceback, which the user can send to the developers.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise  # whoever read the pipe has closed it: click ends quietly
    except Exception as error:
        sentence, code = _sentence_of(error)
        told = click.ClickException(sentence)
        told.exit_code = code
        raise told from error


def _sentence_of(error: Exception) -> tuple[str, int]:
    """Return the sentence for the user, and the exit code."""
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}", USAGE
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return (
            "This user has no home folder. Set HOME, or FRACTUREAI_HOME, XDG_STATE_HOME and XDG_CACHE_HOME, "
            "to folders that can be written.",
            USAGE,
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return (
            f"This command needs the package {package!r}, which is not installed here. The client alone "
            "lacks it; a server has it: pip install 'fractureai[cpu]'.",
            USAGE,
        )
    if "settings" in sys.modules:
        from settings import SettingsError

        if isinstance(error, SettingsError):
            return str(error), USAGE
    if "models.scorer" in sys.modules:
        from models.scorer import ScorerError

        if isinstance(error, ScorerError):
            return f"The networks cannot be run: {error}", OUR_ERROR
    if isinstance(error, sqlite3.Error):
        return f"The file in which this command remembers its work cannot be used: {error}.", OUR_ERROR
    if "sqlalchemy" in sys.modules:
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        if isinstance(error, DBAPIError):
            cause = str(error.orig).strip().partition("\n")[0]
            return (
                f"The database refused a statement: {cause}. Is FRACTUREAI_DATABASE_URL right?",
                UNREACHABLE,
            )
        if isinstance(error, SQLAlchemyError):
            return f"The database cannot be used: {str(error).partition(chr(10))[0]}", UNREACHABLE
    log = _log(error)
    where = f" The details are in {log}." if log else ""
    return (
        f"FractureAI itself failed ({type(error).__name__}); your command is not at fault.{where}",
        OUR_ERROR,
    )


def _log(error: Exception) -> Path | None:
    """Append an error with its traceback to this user's log; return the log, or None without one.

    The error's own text is left out: it may name a file, and files may be named after people.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    try:
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fractureai"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = folder / "errors.log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC {type(error).__qualname__}\n{frames}\n")
    except (OSError, RuntimeError):
        return None
    return log
