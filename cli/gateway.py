"""`fractureai gateway`: receives images by DICOM, and says from whom and for which site."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from cli.accounts import on_site, site_options
from cli.boundary import OUR_ERROR, USAGE
from cli.client import UsageProblem, client_command
from cli.output import open_console, print_rows

#: That the receivers have to end.
STOP_SECONDS = 5.0


@click.group(invoke_without_command=True)
@click.pass_context
def gateway(ctx: click.Context) -> None:
    """Receive images by DICOM, until Ctrl-C.

    Works on the servers that FRACTUREAI_DATABASE_URL, FRACTUREAI_BROKER_URL and FRACTUREAI_BLOB_URL name;
    `fractureai up --dicom PORT` does the same beside an embedded server. First give the site an AE title and
    say who may send: `fractureai gateway site`, `fractureai gateway allow`.
    """
    if ctx.invoked_subcommand is None:
        _receive()


def _receive() -> None:
    """Run the receiver's processes; should one end, all do, and whoever started us starts us again."""
    from cli.child import dies_with_us
    from cli.prepare import ROOT
    from cli.supervise import interruptible, leave
    from settings import SettingsError, get_settings

    try:
        settings = get_settings().require("database_url", "broker_url", "blob_url", "secret_key")
    except SettingsError as error:
        raise UsageProblem(str(error)) from None
    interruptible()
    receivers = [
        subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=dies_with_us(),  # noqa: PLW1509 - calls prctl and getppid, takes no lock
        )
        for module in ["interop.gateway"] * settings.gateway_processes + ["interop.poller"]
    ]
    try:
        while all(receiver.poll() is None for receiver in receivers):
            time.sleep(0.2)
        told = USAGE in {receiver.poll() for receiver in receivers}  # by a sentence of its own
        status = USAGE if told else OUR_ERROR
        if not told:
            click.echo("A receiver ended by itself.", err=True)
    except KeyboardInterrupt:
        status = 0
    for receiver in receivers:
        receiver.terminate()
    for receiver in receivers:
        try:
            receiver.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            receiver.kill()
    leave(status)


@gateway.command("site")
@click.option("--ae-title", help="By which the site is called; up to 16 letters.")
@click.option("--quiet", type=float, help="Seconds without a new image after which a study is complete.")
@click.option("--release", type=float, help="The same after its sender has ended the association.")
@click.option("--longest", type=float, help="Seconds after which a study is read however much still comes.")
@click.option(
    "--urgent-if",
    "rules",
    multiple=True,
    help="An element that makes a study urgent, such as 0040,1003=HIGH; several times. '' removes all.",
)
@site_options
@client_command
def set_site(home: Path | None, site: str | None, rules: tuple[str, ...], **named: Any) -> None:
    """Give a site its AE title, or change when its studies are complete and which are urgent."""
    with on_site(home, site) as (session, found):
        from store.intake import gateway_peers

        kept = gateway_peers.set_site(
            session, found.id, urgent_rules=[rule for rule in rules if rule] if rules else None, **named
        )
        click.echo(
            f"{found.name} is {kept.ae_title}: a study is complete {kept.quiet_seconds:g} s after its last "
            f"image, {kept.release_seconds:g} s after its association, {kept.longest_seconds:g} s at most."
        )
        if kept.urgent_rules:
            click.echo(f"Urgent: {', '.join(kept.urgent_rules)}")


@gateway.command()
@click.argument("ae_title")
@click.argument("networks", nargs=-1, required=True)
@click.option("--urgent", is_flag=True, help="All that it sends is urgent.")
@site_options
@client_command
def allow(
    ae_title: str, networks: tuple[str, ...], urgent: bool, home: Path | None, site: str | None
) -> None:
    """Let a device or archive send to a site, from the NETWORKS named (10.1.2.3 or 10.1.2.0/24)."""
    with on_site(home, site) as (session, found):
        from store.intake import gateway_peers

        peer = gateway_peers.allow(session, found.id, ae_title, networks, urgent=urgent)
        click.echo(f"{peer.ae_title} may send to {found.name} from {', '.join(peer.networks)}.")


@gateway.command()
@click.argument("ae_title")
@site_options
@client_command
def forbid(ae_title: str, home: Path | None, site: str | None) -> None:
    """Take nothing more from a device or archive."""
    with on_site(home, site) as (session, found):
        from store.intake import gateway_peers

        gateway_peers.forbid(session, found.id, ae_title)
    click.echo(f"Nothing more is taken from {ae_title}.")


@gateway.command()
@click.option(
    "--keys",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the private key.  [default: FRACTUREAI_GATEWAY_KEYS, or gateway-keys at home]",
)
@site_options
@client_command
def key(keys: Path | None, home: Path | None, site: str | None) -> None:
    """Make the key pair to which a site's identities are sealed, or a new one in its place.

    The private key stays in the folder, which only the process that delivers may read, and is in no backup:
    keep a copy apart. Without it nothing that was sealed can go back to an archive; earlier ones stay needed
    for what was sealed to them.
    """
    from cli.home import default_home
    from interop.private_keys import make_key_pair
    from settings import get_settings

    with on_site(home, site) as (session, found):
        from store.intake import envelopes

        named = get_settings().gateway_keys
        folder = keys or (Path(named) if named else (home or default_home()) / "gateway-keys")
        public = make_key_pair(folder)
        envelopes.add_key(session, found.id, public)
    click.echo(f"Sealed from now on. The private key: {folder / envelopes.key_id_of(public)}.key")


@gateway.command("poll")
@click.argument("name")
@click.argument("address")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d"]), help="Day of the oldest studies.  [default: today]"
)
@click.option(
    "--where",
    "filters",
    multiple=True,
    help="What the studies must have, such as ModalitiesInStudy=DX; several times.",
)
@click.option(
    "--every", "seconds", type=float, default=60.0, show_default=True, help="Seconds between two rounds."
)
@click.option(
    "--overlap",
    "overlap_days",
    type=int,
    default=2,
    show_default=True,
    help="Days before the last complete one that are asked for again: for images that come late.",
)
@click.option(
    "--authorization-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with the Authorization header.",
)
@site_options
@client_command
def poll(
    name: str,
    address: str,
    since: datetime | None,
    filters: tuple[str, ...],
    seconds: float,
    overlap_days: int,
    authorization_file: Path | None,
    home: Path | None,
    site: str | None,
) -> None:
    """Fetch new studies from an archive's DICOMweb service (QIDO-RS, WADO-RS) at ADDRESS."""
    with on_site(home, site) as (session, found):
        from store.intake import poll_sources

        poll_sources.add(
            session,
            found.id,
            name,
            address,
            since=(since or datetime.now(UTC)).date(),
            filters=filters,
            authorization=authorization_file.read_text().strip() if authorization_file else "",
            seconds=seconds,
            overlap_days=overlap_days,
        )
    click.echo(f"New studies are fetched from {name}.")


@gateway.command("unpoll")
@click.argument("name")
@site_options
@client_command
def unpoll(name: str, home: Path | None, site: str | None) -> None:
    """Fetch nothing more from an archive."""
    with on_site(home, site) as (session, found):
        from store.intake import poll_sources

        poll_sources.remove(session, found.id, name)
    click.echo(f"Nothing more is fetched from {name}.")


@gateway.command("polls")
@site_options
@client_command
def list_polls(home: Path | None, site: str | None) -> None:
    """List the archives from which new studies are fetched, and how far."""
    with on_site(home, site) as (session, found):
        from store.intake import poll_sources

        rows = [
            (each.name, each.address, ", ".join(each.filters), f"{each.cursor_day}", each.error or "")
            for each in poll_sources.list_sources(session, found.id)
        ]
    print_rows(open_console(), ("name", "address", "where", "complete to", ""), rows)


@gateway.command("list")
@site_options
@client_command
def list_peers(home: Path | None, site: str | None) -> None:
    """List who may send to a site."""
    with on_site(home, site) as (session, found):
        from store.intake import gateway_peers

        rows = [
            (peer.ae_title, ", ".join(peer.networks), "urgent" if peer.urgent else "")
            for peer in gateway_peers.list_peers(session, found.id)
        ]
    print_rows(open_console(), ("AE title", "networks", ""), rows)
