"""`fractureai destinations`, `deliveries`: where results go, and what became of each object."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.accounts import on_site, site_options
from cli.client import UsageProblem, client_command
from cli.output import open_console, print_rows
from vocabulary.states import Triage

if TYPE_CHECKING:
    from store.outgoing.delivery_tables import Destination

KINDS = click.Choice(["sc", "summary", "sr", "signed", "pdf"])
TRIAGE = click.Choice([triage.value for triage in Triage])
STATES = click.Choice(["waiting", "sent", "committed", "failed", "identity_conflict", "suppressed"])


@click.group(invoke_without_command=True)
@site_options
@click.pass_context
def destinations(ctx: click.Context, home: Path | None, site: str | None) -> None:
    """List the archives that a site's results go to, or change them."""
    if ctx.invoked_subcommand is None:
        client_command(_list_destinations)(home, site)


def _list_destinations(home: Path | None, name: str | None) -> None:
    with on_site(home, name) as (session, site):
        from store.outgoing import deliveries

        rows = [
            (
                each.name,
                each.protocol,
                each.address,
                ", ".join(each.kinds),
                ", ".join(each.triage) or "all",
                each.bundle or "any",
                _standing(each),
            )
            for each in deliveries.list_destinations(session, site.id)
        ]
    heads = ("name", "protocol", "address", "objects", "studies", "bundle", "")
    print_rows(open_console(), heads, rows)


def _standing(destination: Destination) -> str:
    """Return what stands in the way of a destination, in a few words."""
    if destination.stopped:
        return f"stopped: {destination.stopped}"
    if destination.failures:
        return f"resting: {destination.last_error}, {destination.failures} in a row"
    return ""


@destinations.command("add")
@click.argument("name")
@click.argument("address")
@click.option("--called", default="", help="AE title of the archive: DICOM; without, DICOMweb.")
@click.option("--fhir", is_flag=True, help="A FHIR R4 server, and the address of its base.")
@click.option("--calling", default="", help="AE title by which we call.")
@click.option("--tls", is_flag=True, help="Over TLS, with the certificates of FRACTUREAI_GATEWAY_TLS_*.")
@click.option(
    "--authorization-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="DICOMweb and FHIR: a file with the Authorization header.",
)
@click.option("--kind", "kinds", multiple=True, type=KINDS, help="What goes there.  [default: all]")
@click.option("--triage", multiple=True, type=TRIAGE, help="Only studies that came out so.  [default: all]")
@click.option("--bundle", help="Only what this bundle says.")
@click.option("--no-patient-check", is_flag=True, help="Send without asking whose study the archive has.")
@site_options
@client_command
def add_destination(
    name: str,
    address: str,
    called: str,
    fhir: bool,
    calling: str,
    tls: bool,
    authorization_file: Path | None,
    kinds: tuple[str, ...],
    triage: tuple[str, ...],
    bundle: str | None,
    no_patient_check: bool,
    home: Path | None,
    site: str | None,
) -> None:
    """Send a site's results to an archive: host:port with AE titles, or the address of a service."""
    with on_site(home, site) as (session, found):
        from store.outgoing import deliveries
        from store.outgoing.deliveries import ObjectKind, Protocol
        from vocabulary.states import Triage

        deliveries.add_destination(
            session,
            found.id,
            name,
            Protocol.FHIR if fhir else Protocol.DIMSE if called else Protocol.STOW,
            address,
            called=called,
            calling=calling,
            tls=tls,
            authorization=authorization_file.read_text().strip() if authorization_file else "",
            kinds=[ObjectKind(kind) for kind in kinds],
            triage=[Triage(each) for each in triage],
            bundle=bundle,
            check_patient=not no_patient_check,
        )
    click.echo(f"From now on results go to {name}. Try it: fractureai destinations test {name}")


@destinations.command("test")
@click.argument("name")
@site_options
@client_command
def test_destination(name: str, home: Path | None, site: str | None) -> None:
    """Ask whether an archive hears us: C-ECHO, or a query."""
    from interop.peers import Refused, Stopped, Trouble, peer_of
    from settings import get_settings

    with on_site(home, site) as (session, found):
        from store.outgoing import deliveries

        peer = peer_of(deliveries.get_destination(session, found.id, name), get_settings())
    try:
        peer.echo()
    except (Trouble, Refused, Stopped) as error:
        raise UsageProblem(f"{name} does not answer as it should: {error}") from None
    click.echo(f"{name} answers.")


@destinations.command("remove")
@click.argument("name")
@site_options
@client_command
def remove_destination(name: str, home: Path | None, site: str | None) -> None:
    """Send nothing more to an archive."""
    with on_site(home, site) as (session, found):
        from store.outgoing import deliveries

        deliveries.remove_destination(session, deliveries.get_destination(session, found.id, name))
    click.echo(f"Nothing more goes to {name}.")


@destinations.command("resume")
@click.argument("name")
@site_options
@client_command
def resume_destination(name: str, home: Path | None, site: str | None) -> None:
    """Let an archive that refused us for good have what waits for it."""
    with on_site(home, site) as (session, found):
        from store.outgoing import deliveries

        deliveries.resume(session, deliveries.get_destination(session, found.id, name))
    click.echo(f"What waits for {name} goes there.")


@click.group("deliveries", invoke_without_command=True)
@click.option("--state", type=STATES, help="Only these.")
@site_options
@click.pass_context
def deliveries_group(ctx: click.Context, state: str | None, home: Path | None, site: str | None) -> None:
    """List a site's objects on their way to archives; send one again, or never."""
    if ctx.invoked_subcommand is None:
        client_command(_list_deliveries)(home, site, state)


def _list_deliveries(home: Path | None, name: str | None, state: str | None) -> None:
    with on_site(home, name) as (session, site):
        from store.outgoing import deliveries

        counts = deliveries.count(session, site.id)
        rows = [
            (
                str(each.id),
                to.name,
                each.kind,
                str(each.study_id),
                each.state,
                str(each.attempts),
                each.detail,
            )
            for each, to in deliveries.list_deliveries(session, site.id, state=state).items
        ]
    heads = ("id", "destination", "object", "study", "state", "tries", "")
    print_rows(open_console(), heads, rows)
    click.echo(", ".join(f"{n} {word}" for word, n in sorted(counts.items())) or "Nothing was sent yet.")


@deliveries_group.command()
@click.argument("delivery", type=click.UUID)
@site_options
@client_command
def retry(delivery: uuid.UUID, home: Path | None, site: str | None) -> None:
    """Send an object again that failed, was held, or suppressed."""
    with on_site(home, site) as (session, found):
        from store.outgoing import deliveries

        deliveries.retry(session, deliveries.get_delivery(session, found.id, delivery))
    click.echo("It is sent again.")


@deliveries_group.command()
@click.argument("delivery", type=click.UUID)
@site_options
@client_command
def suppress(delivery: uuid.UUID, home: Path | None, site: str | None) -> None:
    """Never send an object that has not been sent."""
    with on_site(home, site) as (session, found):
        from store.outgoing import deliveries

        deliveries.suppress(session, deliveries.get_delivery(session, found.id, delivery))
    click.echo("It is not sent.")
