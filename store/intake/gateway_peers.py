"""Who may send by DICOM: a site's own AE title, and the devices and archives that it knows."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.accounts.accounts import write_audit
from store.base.errors import NotFound, ServiceError
from store.intake.gateway_tables import GatewayPeer, GatewaySite
from store.intake.received import Source
from store.intake.urgent_rules import UrgentRule

_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}")  # PS3.5, 6.2: no backslash, no control characters


class InvalidPeer(ServiceError):
    """An AE title, a network or a time is not one."""

    code, status = "invalid_peer", 422
    title = "That is not an AE title, a network or a time."
    advice = "An AE title has up to 16 letters; a network is written like 10.1.2.0/24 or 10.1.2.3."


class AeTitleTaken(ServiceError):
    """Another site answers to this AE title."""

    code, status = "ae_title_taken", 409
    title = "Another site answers to this AE title."
    advice = "Choose another one: it tells for which site an image comes."


def _ae_title(title: str) -> str:
    if not _AE_TITLE.fullmatch(title.strip()) or not title.strip():
        raise InvalidPeer(repr(title[:20]))
    return title.strip()


def set_site(
    session: Session,
    site_id: uuid.UUID,
    *,
    ae_title: str | None = None,
    quiet: float | None = None,
    release: float | None = None,
    longest: float | None = None,
    urgent_rules: Sequence[str] | None = None,
    by: uuid.UUID | None = None,
) -> GatewaySite:
    """Enable or change a site's DICOM receiver; None leaves a value as it is.

    Raises
    ------
    InvalidPeer, AeTitleTaken, InvalidUrgentRule
    """
    site = session.get(GatewaySite, site_id)
    if site is None:
        if ae_title is None:
            raise InvalidPeer("the site has no AE title yet")
        site = GatewaySite(site_id=site_id, ae_title=_ae_title(ae_title))
        session.add(site)
    if ae_title is not None:
        site.ae_title = _ae_title(ae_title)
        with session.no_autoflush:
            taken = select(GatewaySite.site_id).where(
                GatewaySite.ae_title == site.ae_title, GatewaySite.site_id != site_id
            )
            if session.scalar(taken) is not None:
                raise AeTitleTaken
    for name, value in (("quiet_seconds", quiet), ("release_seconds", release), ("longest_seconds", longest)):
        if value is not None:
            if not 0 <= value <= 86_400:
                raise InvalidPeer(f"{value} seconds")
            setattr(site, name, value)
    if urgent_rules is not None:
        for rule in urgent_rules:
            UrgentRule.parse(rule)
        site.urgent_rules = list(urgent_rules)
    session.flush()
    session.refresh(site)
    write_audit(session, site_id, by, "gateway_set", site_id, ae_title=site.ae_title)
    return site


def allow(
    session: Session,
    site_id: uuid.UUID,
    ae_title: str,
    networks: Sequence[str],
    *,
    urgent: bool = False,
    by: uuid.UUID | None = None,
) -> GatewayPeer:
    """Allow a device or archive to send to a site, or change its addresses.

    Raises
    ------
    NotFound
        The site has no AE title yet.
    InvalidPeer
    """
    if session.get(GatewaySite, site_id) is None:
        raise NotFound("the site has no AE title yet")
    title = _ae_title(ae_title)
    try:
        written = [str(ip_network(network)) for network in networks]
    except ValueError as error:
        raise InvalidPeer(str(error)) from None
    if not written:
        raise InvalidPeer("no network")
    peer = session.scalar(
        select(GatewayPeer).where(GatewayPeer.site_id == site_id, GatewayPeer.ae_title == title)
    )
    if peer is None:
        peer = GatewayPeer(site_id=site_id, ae_title=title, networks=written, urgent=urgent)
        session.add(peer)
    peer.networks, peer.urgent = written, urgent
    session.flush()
    write_audit(
        session, site_id, by, "gateway_peer_allowed", peer.id, ae_title=title, networks=", ".join(written)
    )
    return peer


def forbid(session: Session, site_id: uuid.UUID, ae_title: str, *, by: uuid.UUID | None = None) -> None:
    """Take nothing more from a device. Raises `NotFound`."""
    peer = session.scalar(
        select(GatewayPeer).where(GatewayPeer.site_id == site_id, GatewayPeer.ae_title == ae_title.strip())
    )
    if peer is None:
        raise NotFound
    write_audit(session, site_id, by, "gateway_peer_forbidden", peer.id, ae_title=peer.ae_title)
    session.delete(peer)


def list_peers(session: Session, site_id: uuid.UUID) -> list[GatewayPeer]:
    """Return who may send to a site."""
    query = select(GatewayPeer).where(GatewayPeer.site_id == site_id).order_by(GatewayPeer.ae_title)
    return list(session.scalars(query))


class CalledUnknown(Exception):
    """No site answers to the called AE title."""


class CallingUnknown(Exception):
    """The site does not know who calls, or not from there."""


@dataclass(frozen=True)
class Caller:
    """Who asks for an association: the AE titles of both sides, and from which address."""

    called: str
    calling: str
    address: str


def admit(session: Session, caller: Caller) -> Source:
    """Return for which site a caller may send. Raises `CalledUnknown`, `CallingUnknown`."""
    site = session.scalar(select(GatewaySite).where(GatewaySite.ae_title == caller.called.strip()))
    if site is None:
        raise CalledUnknown
    peer = session.scalar(
        select(GatewayPeer).where(
            GatewayPeer.site_id == site.site_id, GatewayPeer.ae_title == caller.calling.strip()
        )
    )
    address = ip_address(caller.address)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if peer is None or not any(address in ip_network(network) for network in peer.networks):
        raise CallingUnknown
    return Source(site.site_id, peer.ae_title, peer.urgent)
