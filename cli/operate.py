"""Where the operator's commands find a server's database and blobs, whether the server runs or not."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from cli.client import REFUSED, ClientError, ServerUnreachable, UsageProblem
from cli.home import default_home
from settings import stated

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of a server that `fractureai up` runs.",
)


def operator() -> str:
    """Return the account of this machine that runs the command; behind sudo the one that called it."""
    with suppress(KeyError, OSError):  # a container's user may have no name
        name = getpass.getuser()
        called = os.environ.get("SUDO_USER", "")
        return f"{called} as {name}" if called and os.geteuid() == 0 else name
    return f"uid {os.geteuid()}"


class NotDone(ClientError):
    """The server's own code refused."""

    exit_code = REFUSED


@contextmanager
def server_parts(home: Path | None) -> Iterator[None]:
    """Let the block reach the database and the blobs; from the main thread only.

    They are those that FRACTUREAI_DATABASE_URL and FRACTUREAI_BLOB_URL name, else those of the home folder:
    of the server that runs there, or of a Postgres that runs there while the block does.

    Raises
    ------
    UsageProblem
        No server is named, or there is none in the folder.
    ServerUnreachable
        The database or the blob store does not answer.
    """
    from sqlalchemy.exc import OperationalError, ProgrammingError

    from cli.embedded import EmbeddedError, embedded, running_servers
    from settings import SettingsError
    from store.accounts.accounts import Origin, origin
    from store.base.errors import BlobUnavailable, ServiceError

    folder = home.resolve() if home else default_home()
    with ExitStack() as stack:
        try:
            if not stated("database_url"):
                if not folder.is_dir():
                    raise UsageProblem(
                        f"There is no server in {folder}. Name its folder with --home, or its parts with "
                        "FRACTUREAI_DATABASE_URL and FRACTUREAI_BLOB_URL."
                    )
                servers = running_servers(folder)
                if servers is None:
                    servers, _ = stack.enter_context(embedded(folder, valkey=False))
                os.environ.update(
                    {name: url for name, url in servers.environment().items() if "DATABASE" in name}
                )
                note = folder / "client.json"
                if not stated("public_url") and note.exists():  # where `fractureai up` serves it
                    os.environ["FRACTUREAI_PUBLIC_URL"] = json.loads(note.read_text())["url"]
            if not stated("blob_url"):
                os.environ["FRACTUREAI_BLOB_URL"] = (folder / "blobs").as_uri()
            acting = origin.set(Origin(operator=operator()))
            try:
                yield
            finally:
                origin.reset(acting)
        except OperationalError as error:
            raise ServerUnreachable(f"The database does not answer: {error.orig}") from error
        except ProgrammingError as error:
            raise UsageProblem(f"The database is not this version's: {error.orig}") from error
        except BlobUnavailable as error:
            raise ServerUnreachable(f"{error.title} {error.detail}") from error
        except ServiceError as error:
            raise NotDone(f"{error.title} {error.advice} [{error.code}]") from error
        except EmbeddedError as error:
            raise UsageProblem(f"{error} [{error.code}]") from error
        except SettingsError as error:
            raise UsageProblem(str(error)) from error
