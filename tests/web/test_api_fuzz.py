"""Every address of the API, asked what its description allows and what it does not: no 500 comes back.

Half of the requests name objects that are there; an administrator asks, in a world made for this test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from store.accounts import accounts
from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.base.tables import User
from tests.web.world import World, make_world
from web.openapi import document

#: Requests of each kind (allowed, not allowed) to each address.
EACH = 6
#: Addresses that take nothing at all: there is nothing to get wrong.
NOTHING_TO_SAY = frozenset({"/openapi.json", "/docs"})
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
]  # fmt: skip


@pytest.fixture
def world(app: Any) -> World:
    return make_world(app, accounts.Role.ADMIN)


@pytest.fixture
def headers(world: World) -> dict[str, str]:
    with session_scope() as session:
        admin = session.query(User).filter_by(email=world.email).one()
        key = accounts.create_api_key(session, admin, "fuzz", scope=set(Permission))[1]
    return {"Authorization": f"Bearer {key}"}


def ask_at_random(
    operation: APIOperation[Any, Any, Any, Any],
    mode: GenerationMode,
    ids: Mapping[str, Any],
    ask: Callable[[Case], Response],
) -> None:
    """Ask one address `EACH` times; the same every time, so that a failure is there again."""
    there = {name: str(value) for name, value in ids.items() if f"{{{name}}}" in operation.path}
    requests = operation.as_strategy(generation_mode=mode)
    if there:
        requests |= operation.as_strategy(generation_mode=mode, path_parameters=there)

    @settings(
        max_examples=EACH,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests)
    def once(case: Case) -> None:
        response = ask(case)
        case.validate_response(response, checks=CHECKS)
        declared = operation.definition.raw["responses"]
        assert response.status_code >= 400 or str(response.status_code) in declared, case

    once()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not"])
def test_no_request_breaks_the_api(
    mode: GenerationMode, app: Any, world: World, headers: dict[str, str]
) -> None:
    asked: Counter[int] = Counter()

    def ask(case: Case) -> Response:
        response = case.call(app=app, headers=headers)
        asked[response.status_code] += 1
        return response

    broken = []
    for operation in OPERATIONS:
        if mode is GenerationMode.NEGATIVE and operation.path in NOTHING_TO_SAY:
            continue
        try:
            ask_at_random(operation, mode, world.ids, ask)
        except (FailureGroup, AssertionError) as error:
            broken.append(f"{operation.label}: {error}")
    assert not broken, "\n".join(broken)
    assert asked.total() > EACH * len(OPERATIONS) / 2
    assert asked[404], "of what is not there"
    if mode is GenerationMode.POSITIVE:
        assert sum(n for status, n in asked.items() if status < 300) > len(OPERATIONS), asked
