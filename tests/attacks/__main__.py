"""Attack a server and print a line an attack: ``python -m tests.attacks URL --key KEY``.

Attack only servers that are yours: some of these hold up one that is not protected.
"""

from __future__ import annotations

import re
import sys

import click
import httpx

from tests.attacks.every import ATTACKS
from tests.attacks.target import Target


@click.command()
@click.argument("url")
@click.option("--key", default="", help="API key with all scopes; without one only strangers attack.")
@click.option(
    "--other-key", default="", help="API key of another site, which the first one tries to hold up."
)
@click.option(
    "--link",
    default="",
    help="A link to sign in, as `fractureai up` prints it, that nobody has used; it is used up.",
)
@click.option("--dicom", default="", help="host:port of the DICOM receiver.")
@click.option("--clients", default=80, show_default=True, help="Slow clients at one time.")
@click.option("--only", default="", help="Only attacks whose title matches this pattern.")
@click.option("--without-workers", is_flag=True, help="Skip attacks that wait for a worker to read a file.")
def main(
    url: str, key: str, other_key: str, link: str, dicom: str, clients: int, only: str, without_workers: bool
) -> None:
    """Attack the server at URL; exit with 1 if it did not refuse everything."""
    target = Target(url.rstrip("/"), key, clients, other_key, link, dicom).measured()
    failed = 0
    for attack in ATTACKS:
        if not re.search(only, attack.title):
            continue
        if attack.lacks(target, workers=not without_workers):
            click.echo(f"skipped      {attack.title}")
            continue
        try:
            said = attack.run(target)
        except (AssertionError, OSError, httpx.HTTPError) as error:
            failed += 1
            click.echo(f"NOT REFUSED  {attack.title}: {type(error).__name__}: {str(error)[:300]}")
        else:
            click.echo(f"refused      {attack.title}: {said}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
