"""Model bundles as the server keeps them: files in the blob store, one row that the web reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.base.blobs import get_blobs
from store.base.errors import NotFound, ServiceError, UnknownBundle
from store.base.session import session_scope
from store.base.tables import Bundle, Site


class BundleExists(ServiceError):
    """A bundle of this name with other contents is here; bundles never change."""

    code, status = "bundle_exists", 409
    title = "A bundle of this name with other contents is here already."
    advice = "Give the new version a new name."


def _folder_hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def add_bundle(folder: Path) -> str:
    """Add a verified bundle folder to the server; return its name. Adding it again is a no-op.

    Raises
    ------
    BundleExists
        The name is taken by other contents.
    """
    manifest_bytes = (folder / "manifest.json").read_bytes()
    # NaN is none of JSON's words, though Python writes it: an undefined figure is null
    manifest = json.loads(manifest_bytes, parse_constant=lambda _: None)
    name = str(manifest["name"])
    files = _folder_hashes(folder)
    with session_scope() as session:
        known = session.get(Bundle, name)
        if known is not None:
            if known.files != files:
                raise BundleExists(name)
            return name
    blobs = get_blobs()
    for file in files:
        with (folder / file).open("rb") as source:
            blobs.put(f"bundles/{name}/{file}", source)
    card = folder / "card.md"
    with session_scope() as session:
        row = insert(Bundle).values(
            name=name,
            sha256=hashlib.sha256(manifest_bytes).hexdigest(),
            manifest=manifest,
            card=card.read_text("utf-8") if card.is_file() else "",
            files=files,
        )
        session.execute(row.on_conflict_do_nothing())  # two starting at once bring the same one
        for site in session.scalars(select(Site).where(Site.default_bundle.is_(None))):
            site.default_bundle = name
    return name


def list_bundles(session: Session) -> list[Bundle]:
    """Return every bundle, the newest first."""
    return list(session.scalars(select(Bundle).order_by(Bundle.created_at.desc())))


def get_bundle(session: Session, name: str) -> Bundle:
    """Return one bundle. Raises `UnknownBundle`."""
    bundle = session.get(Bundle, name)
    if bundle is None:
        raise UnknownBundle(name)
    return bundle


def installed(session: Session, name: str) -> Bundle:
    """Return the bundle that an address names. Raises `NotFound`."""
    bundle = session.get(Bundle, name)
    if bundle is None:
        raise NotFound
    return bundle


def fetch_bundle(name: str, cache_folder: Path) -> Path:
    """Return a local folder that holds the bundle's files, fetching them once.

    The folder's name carries the manifest's hash, so that a stale copy is never used.
    """
    with session_scope() as session:
        bundle = get_bundle(session, name)
    target = cache_folder / f"{name}-{bundle.sha256[:16]}"
    if target.is_dir():
        return target
    cache_folder.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache_folder))
    try:
        for file, sha256 in bundle.files.items():
            data = get_blobs().get(f"bundles/{name}/{file}")
            if hashlib.sha256(data).hexdigest() != sha256:
                raise UnknownBundle(f"{name}: {file} is altered in the blob store")
            path = building / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        try:
            os.rename(building, target)
        except OSError:
            if not target.is_dir():  # another process of this machine was faster
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target
