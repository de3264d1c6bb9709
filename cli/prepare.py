"""What has to be there before a server runs: tables, bucket, bundles, the first site and administrator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from cli.client import UsageProblem

ROOT = Path(__file__).resolve().parent.parent
BUNDLES = ROOT / "models" / "bundles"
ADMIN = "admin@localhost"


@dataclass(frozen=True)
class Access:
    """How the administrator gets in: a one-time link for the browser, a key for programs."""

    sign_in: str
    api_key: str


def migrate_database() -> None:
    """Bring the tables of the database that the settings name up to date.

    Raises
    ------
    UsageProblem
        They are of a version that this one does not know.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script.revision import ResolutionError
    from alembic.util import CommandError

    config = Config()  # not alembic.ini: a wheel has none
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        if not isinstance(error.__cause__, ResolutionError):
            raise
        raise UsageProblem(
            "This database belongs to a later version of FractureAI, or to one from before 0.1.0."
            " Run the version that made it, or begin with an empty database."
        ) from error


def prepare() -> None:
    """Make or update everything; safe to repeat, and to run twice at once."""
    from settings import get_settings
    from store.accounts.sites import bootstrap
    from store.base.session import refuse_unnamed_pooler, session_scope
    from store.bundles.bundles import BundleExists, add_bundle

    settings = get_settings().require("database_url", "blob_url", "secret_key")
    migrate_database()  # one transaction on one connection: a pooler does it no harm
    refuse_unnamed_pooler()  # asks with the application's account, which the migration may have made just now
    make_bucket()
    for manifest in sorted(BUNDLES.glob("*/manifest.json")):
        try:
            add_bundle(manifest.parent)
        except BundleExists:  # findings of the one that is here refer to it: it stays
            name = manifest.parent.name
            click.echo(f"Bundle {name} differs from the server's of that name, which stays.", err=True)
    with session_scope() as session:
        bootstrap(session, settings.site_name, ADMIN)


def convert_networks(say: Callable[[str], None]) -> None:
    """Convert the networks of the sites' bundles for OpenVINO now, where that is still to be done.

    A worker does it too, but beside everything else, and it takes a gigabyte. A failure is left to it.
    """
    from sqlalchemy import select

    from models.bundle import load_bundle
    from models.convert import ConversionError, convert_in_process, converted_folder
    from settings import get_settings
    from store.base.session import session_scope
    from store.base.tables import Site
    from store.bundles.bundles import fetch_bundle

    settings = get_settings()
    if settings.scorer_backend == "tensorflow" or find_spec("openvino") is None:
        return
    cache = settings.cache_folder / "networks"
    with session_scope() as session:
        names = set(session.scalars(select(Site.default_bundle).where(Site.default_bundle.is_not(None))))
    for name in filter(None, names):
        bundle = load_bundle(fetch_bundle(name, settings.cache_folder / "bundles"))
        if all(converted_folder(bundle, network, cache).is_dir() for network in bundle.networks):
            continue
        say(f"Converting the networks of {name}, once: a minute or two ...")
        try:
            convert_in_process(bundle, bundle.region_network, cache, settings.conversion_seconds)
        except ConversionError as error:
            say(f"{error}. The worker tries again.")


def issue_admin_access(known_key: str | None = None) -> Access:
    """Return a fresh sign-in link for the administrator, and the known API key, or a new one in its place."""
    from settings import get_settings
    from store.accounts.accounts import Permission, create_api_key, create_sign_in_token, identify_key
    from store.accounts.sites import bootstrap
    from store.base.session import session_scope

    settings = get_settings()
    with session_scope() as session:
        _, admin, _ = bootstrap(session, settings.site_name, ADMIN)
        token = create_sign_in_token(session, admin)
        if known_key is None or identify_key(session, known_key) is None:
            known_key = create_api_key(
                session, admin, "this machine", scope=set(Permission) - {Permission.ADMINISTER}
            )[1]
    return Access(f"{settings.public_url.rstrip('/')}/sign-in?token={token}", known_key)


def make_bucket() -> None:
    """Make the bucket that FRACTUREAI_BLOB_URL names, where it names one that is not there."""
    from botocore.exceptions import ClientError

    from store.base.blobs import S3Store, get_blobs

    blobs = get_blobs()
    if isinstance(blobs, S3Store):
        try:
            blobs.client.head_bucket(Bucket=blobs.bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            blobs.client.create_bucket(Bucket=blobs.bucket)


def first_link() -> str | None:
    """Return the one-time link by which the first administrator chooses a password; None if there was one.

    What is printed lies in a container's log: it is never a key, and no second link.
    """
    from settings import get_settings
    from store.accounts import people
    from store.accounts.sites import bootstrap
    from store.base.session import session_scope

    settings = get_settings()
    with session_scope() as session:
        _, admin, _ = bootstrap(session, settings.site_name, ADMIN)
        token = people.first_link(session, admin)
    return token and f"{settings.public_url.rstrip('/')}/sign-in?token={token}"


@click.command()
def migrate() -> None:
    """Make or update a server's tables, bucket, bundles, first site.

    Works on the servers that FRACTUREAI_DATABASE_URL and FRACTUREAI_BLOB_URL name. The first time it prints a
    one-time link by which the administrator chooses a password; later `fractureai people link` makes another.
    """
    prepare()
    link = first_link()
    if link:
        click.echo(f"Ready. Choose the administrator's password, within a day: {link}")
    else:
        click.echo("Ready. Somebody has no access? fractureai people; fractureai people link EMAIL")
