"""The operator's commands for DICOM: who may send, to which key identities are sealed, where results go."""

from __future__ import annotations

import stat
import uuid
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from cli.embedded import free_port
from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Audit
from store.intake import envelopes, gateway_peers
from store.intake.gateway_tables import GatewaySite
from tests.db.conftest import site
from tests.db.test_account_commands import fractureai

__all__ = ["site"]


def test_a_site_and_who_may_send(database: Engine, site: uuid.UUID) -> None:
    fractureai("gateway", "allow", "MOD1", "10.0.0.1", code=4)  # no AE title yet
    said = fractureai(
        "gateway", "site", "--ae-title", "FRACTURES", "--quiet", "30", "--urgent-if", "0040,1003=HIGH"
    )
    assert "30 s after its last image" in said.output
    fractureai("gateway", "site", "--urgent-if", "0010,0010=X", code=4)
    fractureai("gateway", "site", "--ae-title", "a name that is too long", code=4)
    fractureai("gateway", "allow", "MOD1", "10.0.0.0/8", "192.168.1.7", "--urgent")
    fractureai("gateway", "allow", "MOD2", "not-a-network", code=4)
    listed = fractureai("gateway", "list").output
    assert "MOD1" in listed
    assert "10.0.0.0/8" in listed
    with session_scope() as session:
        known = session.get_one(GatewaySite, site)
        assert (known.ae_title, known.quiet_seconds, known.longest_seconds) == ("FRACTURES", 30, 900)
        caller = gateway_peers.Caller("FRACTURES", "MOD1", "::ffff:192.168.1.7")
        assert gateway_peers.admit(session, caller).urgent
    fractureai("gateway", "site", "--urgent-if", "")
    fractureai("gateway", "forbid", "MOD1")
    fractureai("gateway", "forbid", "MOD1", code=4)
    with session_scope() as session:
        assert session.get_one(GatewaySite, site).urgent_rules == []
        actions = set(session.scalars(select(Audit.action)))
        assert actions >= {"gateway_set", "gateway_peer_allowed", "gateway_peer_forbidden"}


def test_a_key_pair_is_readable_by_its_owner_alone(
    database: Engine, site: uuid.UUID, tmp_path: Path, settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_GATEWAY_KEYS", str(tmp_path / "keys"))
    get_settings.cache_clear()
    for n in (1, 2):
        fractureai("gateway", "key")
        assert len(list((tmp_path / "keys").iterdir())) == n
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
    with session_scope() as session:
        public = envelopes.current_key(session, site)
    assert public is not None
    assert (tmp_path / "keys" / f"{envelopes.key_id_of(public)}.key").exists()


def test_destinations(database: Engine, site: uuid.UUID) -> None:
    address = f"127.0.0.1:{free_port()}"
    fractureai("destinations", "add", "archive", "nowhere", "--called", "A", "--calling", "B", code=4)
    fractureai("destinations", "add", "web", "archive.example", code=4)
    fractureai("destinations", "add", "archive", address, "--called", "A", "--calling", "B", "--kind", "sr")
    assert "archive" in fractureai("destinations").output
    assert "does not answer" in fractureai("destinations", "test", "archive", code=2).output
    assert "Nothing was sent yet" in fractureai("deliveries").output
    fractureai("deliveries", "retry", str(uuid.uuid4()), code=4)
    fractureai("destinations", "remove", "archive")
    fractureai("destinations", "remove", "archive", code=4)
