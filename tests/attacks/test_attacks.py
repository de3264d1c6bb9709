"""The attacks that anyone can run against a server are refused by a server as it is deployed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from store.base.session import session_scope
from store.base.tables import Site
from store.intake import gateway_peers
from tests.attacks.every import ATTACKS
from tests.attacks.target import Target
from tests.faults.web import running_web
from tests.interop.conftest import receiving
from tests.web.serving import site_key

__all__ = ["site_key"]


@pytest.fixture
def target(site_key: str, settings_env: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Target]:
    with session_scope() as session:
        gateway_peers.set_site(session, session.scalars(select(Site.id)).one(), ae_title="A SECRET PLACE")
    with receiving(settings_env, tmp_path) as receiver, running_web(tmp_path) as web:
        yield Target(
            f"http://{web.address}",
            site_key,
            clients=70,  # more than all threads together
            dicom=f"127.0.0.1:{receiver.port}",
        ).measured()


@pytest.mark.timeout(900)
def test_every_attack_is_refused(target: Target) -> None:
    """One server for all: what one attack leaves behind must not help the next."""
    refused: dict[str, str] = {}
    failed: dict[str, str] = {}
    for attack in ATTACKS:
        if attack.lacks(target, workers=False):
            continue
        try:
            refused[attack.title] = attack.run(target)
            print(f"{attack.title}: {refused[attack.title]}")
        except (AssertionError, OSError, httpx.HTTPError) as error:
            failed[attack.title] = repr(error)
            print(f"NOT REFUSED {attack.title}: {error!r}")
    assert not failed, "\n".join(f"{title}: {why}" for title, why in failed.items())
    assert all(refused.values())
