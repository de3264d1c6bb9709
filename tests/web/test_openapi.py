"""The API's description is complete, valid, and true of what the API answers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png
from vocabulary.reasons import Reason
from web.openapi import document


def routes(app: Any) -> set[tuple[str, str]]:
    found = set()
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith("/api/v1"):
            continue
        path = re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"{\1}", rule.rule.removeprefix("/api/v1"))
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            choices = next((c.items for c in rule._converters.values() if hasattr(c, "items")), [None])
            for choice in choices:
                found.add((re.sub(r"{(action|kind)}", str(choice), path), method.lower()))
    return found


def test_every_route_and_method_is_described_and_the_reverse(app: Any) -> None:
    described = {
        (path, method)
        for path, item in document()["paths"].items()
        for method in item
        if method in {"get", "post", "put", "patch", "delete"}
    }
    assert described == routes(app)


def test_the_document_is_valid_and_served(app: Any) -> None:
    served = app.test_client().get("/api/v1/openapi.json").json
    validate(served, cls=OpenAPIV31SpecValidator)
    assert served == document()
    codes = {error["code"] for error in served["x-error-codes"]}
    assert codes >= {
        "not_found", "unauthorized", "batch_not_draft", "manifest_invalid", "storage_full",
    }  # fmt: skip
    assert set(served["components"]["schemas"]["Reason"]["properties"]["code"]["enum"]) == set(Reason)


@pytest.fixture
def check() -> Any:
    registry: Registry[Any] = Registry().with_resource(
        "urn:api", Resource.from_contents(document(), default_specification=DRAFT202012)
    )

    def check(name: str, value: Any) -> None:
        schema = {"$ref": f"urn:api#/components/schemas/{name}"}
        errors = [e.message for e in Draft202012Validator(schema, registry=registry).iter_errors(value)]
        assert errors == []

    return check


def test_the_answers_are_as_described(ask: Asker, check: Any) -> None:
    batch = ask.post("/batches", json={}).json
    check("Batch", batch)
    check("FileAnswers", ask.send(batch["id"], ("a.png", png("1")), ("b.txt", b"x")).json)
    ask.post(f"/batches/{batch['id']}/submit")
    read_batch(batch["id"])
    check("Batches", ask.get("/batches").json)
    images = ask.get(f"/batches/{batch['id']}/images").json
    check("Images", images)
    check("Image", ask.get(images["items"][0]["links"]["self"]).json)
    check("Bundles", ask.get("/bundles").json)
    check("Problem", ask.get("/nothing").json)


def test_the_page_shows_every_address(app: Any, browser: Browser) -> None:
    for client in (app.test_client(), browser.client):
        page = client.get("/api/v1/docs")
        assert page.status_code == 200
        for path in document()["paths"]:
            assert f"<code>{path}</code>" in page.text
        assert 'id="error-batch_not_draft"' in page.text
