"""`fractureai sites`, `people`, `keys`: the operator's way to a server's sites, their people and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from cli.client import UsageProblem, client_command
from cli.operate import home_option, server_parts
from cli.output import open_console, print_rows
from vocabulary.times import moment

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from store.base.tables import Site, User

ROLES = click.Choice(["submitter", "staff", "clinician", "researcher", "admin"])
SCOPES = click.Choice(["submit", "read", "work", "review", "research", "administer"])
site_option = click.option("--site", help="Name of the site; may be left out where there is only one.")


def site_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command say on which server, and for which site."""
    return home_option(site_option(command))


@contextmanager
def on_site(home: Path | None, name: str | None) -> Iterator[tuple[Session, Site]]:
    """Open a transaction on the server, and find the site that is meant."""
    with server_parts(home):
        from sqlalchemy import select

        from store.base.session import session_scope
        from store.base.tables import Site

        with session_scope() as session:
            sites = session.scalars(select(Site).order_by(Site.created_at)).all()
            found = [site for site in sites if name is None or site.name == name]
            if len(found) != 1:
                names = ", ".join(site.name for site in sites) or "none"
                raise UsageProblem(f"Name one site with --site; there are: {names}.")
            yield session, found[0]


def _person(session: Session, site: Site, email: str) -> User:
    from store.accounts.accounts import find_user

    user = find_user(session, site.id, email)
    if user is None:
        raise UsageProblem(f"Nobody at {site.name} has the address {email}.")
    return user


def _print_link(token: str) -> None:
    from settings import get_settings

    root = get_settings().public_url.rstrip("/") or "http://127.0.0.1:8000"
    click.echo(f"One-time link: {root}/sign-in?token={token}")


# sites


@click.group(invoke_without_command=True)
@home_option
@click.pass_context
def sites(ctx: click.Context, home: Path | None) -> None:
    """List a server's sites, or add one."""
    if ctx.invoked_subcommand is None:
        client_command(_list_sites)(home)


def _list_sites(home: Path | None) -> None:
    with server_parts(home):
        from sqlalchemy import select

        from store.base.session import session_scope
        from store.base.tables import Site

        with session_scope() as session:
            found = session.scalars(select(Site).order_by(Site.created_at)).all()
            rows = [
                (
                    s.name,
                    s.default_bundle or "",
                    str(s.keep_originals_days or ""),
                    str(s.keep_results_days or ""),
                )
                for s in found
            ]
    print_rows(open_console(), ("site", "bundle", "originals, days", "results, days"), rows)


@sites.command("add")
@click.argument("name")
@click.option("--admin", "email", required=True, help="Address of its first administrator.")
@home_option
@client_command
def add_site(name: str, email: str, home: Path | None) -> None:
    """Make a site with its first administrator, and print the link by which they choose a password."""
    with server_parts(home):
        from store.accounts.people import add_site
        from store.base.session import session_scope

        with session_scope() as session:
            token = add_site(session, name, email)
        _print_link(token)


@sites.command("viewer")
@click.option("--map", "starts_with_map", type=click.Choice(("on", "off")), required=True)
@site_options
@client_command
def change_viewer(starts_with_map: str, home: Path | None, site: str | None) -> None:
    """Let a site's readers start with the attention map on or off; what a person then chooses is kept."""
    with on_site(home, site) as (session, found):
        from store.accounts.sites import set_viewer_start

        set_viewer_start(session, found, starts_with_map == "on")
        click.echo(f"{found.name} starts with the attention map {starts_with_map}.")


@sites.command("time-zone")
@click.argument("zone")
@site_options
@client_command
def change_time_zone(zone: str, home: Path | None, site: str | None) -> None:
    """Write a site's times and days in ZONE, such as Europe/Berlin; `none` for UTC, and the browser's own."""
    from vocabulary.times import known_zone

    try:
        chosen = None if zone == "none" else known_zone(zone)
    except ValueError as error:
        raise UsageProblem(f"{zone}: {error}.") from error
    with on_site(home, site) as (session, found):
        from store.accounts.sites import set_time_zone

        set_time_zone(session, found, chosen)
        click.echo(f"{found.name} writes times in {chosen or 'UTC'}.")


# people


@click.group(invoke_without_command=True)
@site_options
@click.pass_context
def people(ctx: click.Context, home: Path | None, site: str | None) -> None:
    """List a site's people, invite somebody, or change what they may."""
    if ctx.invoked_subcommand is None:
        client_command(_list_people)(home, site)


def _list_people(home: Path | None, name: str | None) -> None:
    with on_site(home, name) as (session, site):
        from store.accounts.people import list_people

        rows = [
            (
                person.user.email,
                person.user.role,
                "disabled" if person.user.disabled_at else "",
                moment(person.seen_at) if person.seen_at else "",
                str(person.keys),
            )
            for person in list_people(session, site.id)
        ]
    print_rows(open_console(), ("email", "role", "", "last here", "keys"), rows)


@people.command()
@click.argument("email")
@click.option("--role", type=ROLES, required=True)
@click.option("--name", "called", default="", help="As it stands on reports that they sign.")
@site_options
@client_command
def invite(email: str, role: str, called: str, home: Path | None, site: str | None) -> None:
    """Make a person, and print the link by which they choose a password."""
    with on_site(home, site) as (session, found):
        from store.accounts.accounts import Role
        from store.accounts.people import invite as invite_person

        token = invite_person(session, found.id, email, Role(role), name=called, by=None)[1]
    _print_link(token)


@people.command("role")
@click.argument("email")
@click.argument("role", type=ROLES)
@site_options
@client_command
def change_role(email: str, role: str, home: Path | None, site: str | None) -> None:
    """Give a person another role."""
    with on_site(home, site) as (session, found):
        from store.accounts.accounts import Role
        from store.accounts.people import set_role

        set_role(session, found.id, _person(session, found, email).id, Role(role), by=None)
    click.echo(f"{email} is {role} now.")


@people.command("name")
@click.argument("email")
@click.argument("name")
@site_options
@client_command
def change_name(email: str, name: str, home: Path | None, site: str | None) -> None:
    """Set the name that reports which a person signs carry."""
    with on_site(home, site) as (session, found):
        from store.accounts.people import rename

        rename(session, found.id, _person(session, found, email).id, name, by=None)
    click.echo(f"{email} signs as {name or email} now.")


@people.command()
@click.argument("email")
@site_options
@client_command
def link(email: str, home: Path | None, site: str | None) -> None:
    """Print a link by which a person chooses a new password."""
    with on_site(home, site) as (session, found):
        from store.accounts.people import new_link

        token = new_link(session, found.id, _person(session, found, email).id, by=None)
    _print_link(token)


@people.command("reset-second-factor")
@click.argument("email")
@site_options
@client_command
def reset_second_factor(email: str, home: Path | None, site: str | None) -> None:
    """Let a person whose phone is gone sign in by password alone, until they set a second factor anew."""
    with on_site(home, site) as (session, found):
        from store.accounts.second_factor import reset

        reset(session, found.id, _person(session, found, email).id, by=None)
    click.echo(f"{email} has no second factor now.")


@people.command()
@click.argument("email")
@site_options
@client_command
def disable(email: str, home: Path | None, site: str | None) -> None:
    """Shut a person out, with their sessions, keys and links."""
    with on_site(home, site) as (session, found):
        from store.accounts.people import disable as shut_out

        shut_out(session, found.id, _person(session, found, email).id, by=None)
    click.echo(f"{email} is disabled.")


@people.command()
@click.argument("email")
@site_options
@client_command
def enable(email: str, home: Path | None, site: str | None) -> None:
    """Let a disabled person in again."""
    with on_site(home, site) as (session, found):
        from store.accounts.people import enable as admit_again

        admit_again(session, found.id, _person(session, found, email).id, by=None)
    click.echo(f"{email} may sign in again.")


# keys


@click.group(invoke_without_command=True)
@site_options
@click.pass_context
def keys(ctx: click.Context, home: Path | None, site: str | None) -> None:
    """List a site's API keys, make one, or revoke one."""
    if ctx.invoked_subcommand is None:
        client_command(_list_keys)(home, site)


def _list_keys(home: Path | None, name: str | None) -> None:
    with on_site(home, name) as (session, site):
        from store.accounts.people import list_site_keys

        rows = [
            (
                str(key.id),
                key.name,
                user.email,
                " ".join(key.scope),
                moment(key.expires_at) if key.expires_at else "never",
                moment(key.last_used_at) if key.last_used_at else "never",
            )
            for key, user in list_site_keys(session, site.id)
        ]
    print_rows(open_console(), ("id", "name", "owner", "may", "ends", "last used"), rows)


@keys.command("add")
@click.argument("name")
@click.option("--for", "email", required=True, help="Address of the person who owns it.")
@click.option("--scope", type=SCOPES, multiple=True, default=("submit", "read"), show_default=True)
@click.option("--days", type=click.IntRange(1, 3650), help="How long it lives; for ever when left out.")
@site_options
@client_command
def add_key(
    name: str, email: str, scope: tuple[str, ...], days: int | None, home: Path | None, site: str | None
) -> None:
    """Make a key and print it, once."""
    with on_site(home, site) as (session, found):
        from store.accounts.accounts import Permission, create_api_key

        ends = datetime.now(UTC) + timedelta(days=days) if days else None
        user = _person(session, found, email)
        key = create_api_key(
            session, user, name, scope=set(map(Permission, scope)), expires_at=ends, by_operator=True
        )[1]
    click.echo(key)


@keys.command()
@click.argument("key_id", type=click.UUID)
@site_options
@client_command
def revoke(key_id: UUID, home: Path | None, site: str | None) -> None:
    """Make a key useless."""
    with on_site(home, site) as (session, found):
        from store.accounts.people import revoke_key

        revoke_key(session, found.id, key_id, by=None)
    click.echo("Revoked.")
