"""The API's description is complete, valid, and true of what the API answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from flask import Response
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from werkzeug.exceptions import default_exceptions

from tests.conftest import ROOT
from tests.web.asking import Asker, Browser
from tests.web.contract import check_answer
from vocabulary.reasons import Reason
from web.base.binding import read_body
from web.base.errors import RequestFailed
from web.contract.people import NewPerson
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


def test_every_error_that_is_raised_is_listed() -> None:
    codes = {error["code"] for error in document()["x-error-codes"]}
    assert codes >= {"dataset_in_use", "rollback_changed", "not_comparable", "provider_refused", "code_wrong"}


def test_codes_are_those_of_the_published_table() -> None:
    made = [sys.executable, ROOT / "scripts" / "errors_table.py", "--check"]
    assert subprocess.run(made, check=False).returncode == 0, "run python scripts/errors_table.py"
    table = (ROOT / "docs" / "errors.md").read_text()
    listed = {
        (code, int(status)) for code, status in re.findall(r"^\| `(\w+)` \| (\d+) ", table, re.MULTILINE)
    }
    # what Python's own table called otherwise before 3.13 and since
    assert {("request_entity_too_large", 413), ("request_uri_too_long", 414)} <= listed
    assert ("unprocessable_entity", 422) in listed
    codes = {error["code"]: error["status"] for error in document()["x-error-codes"]}
    assert all(codes[code] == status for code, status in listed)
    raised = {
        status for status in default_exceptions if status in {400, 404, 405, 406, 408, 411, 412, 413, 414}
    }
    assert all((RequestFailed(status).code, status) in listed for status in raised)
    assert RequestFailed(418).code == "http_418"


def test_an_answer_with_a_member_too_many_or_too_few_is_seen(app: Any, ask: Asker) -> None:
    path = f"/api/v1/batches/{ask.draft()}"
    batch = ask.get(path)
    check_answer(app, "GET", path, batch)
    for wrong in (batch.json | {"patient": "x"}, {"id": "x"}, batch.json | {"label": 1}):
        with pytest.raises(AssertionError, match=path):
            check_answer(app, "GET", path, Response(json.dumps(wrong), content_type="application/json"))
    with pytest.raises(AssertionError, match="not described"):
        check_answer(app, "GET", path, Response(status=418))


def test_what_is_wrong_is_told_by_member_and_without_its_value(ask: Asker) -> None:
    told = ask.post("/batches", json={"label": 7, "report": "Quillfeather", "colour": "red"})
    assert (told.status_code, told.json["code"]) == (422, "invalid_request")
    assert {error["member"] for error in told.json["errors"]} == {"label", "report", "colour"}
    assert "Quillfeather" not in told.text
    told = ask.get("/batches?limit=many&order=up")
    assert (told.status_code, told.json["code"]) == (422, "invalid_query")
    assert {error["member"] for error in told.json["errors"]} == {"limit", "order"}


def test_every_day_of_an_address_has_the_same_bounds(ask: Asker) -> None:
    """A day that Python can hold but no sum of days can, and one of no form that the description names."""
    listed = [
        (path, parameter["name"])
        for path, operations in document()["paths"].items()
        for parameter in operations.get("get", {}).get("parameters", ())
        if "name" in parameter and "date" in json.dumps(parameter["schema"])
    ]
    assert ("/worklist", "until") in listed
    for path, name in listed:
        for day in ("9999-12-31", "0001-01-01", "1764547200", "2026-13-01"):
            answer = ask.get(f"/api/v1{path}?{name}={day}")
            assert answer.status_code == 422, (path, name, day)
            assert name in answer.get_data(as_text=True)


def test_a_view_takes_no_body_that_its_route_does_not_describe(app: Any) -> None:
    with (
        app.test_request_context("/api/v1/batches", method="POST", json={}),
        pytest.raises(TypeError, match="NewPerson"),
    ):
        read_body(NewPerson)


def test_the_page_shows_every_address(app: Any, browser: Browser) -> None:
    for client in (app.test_client(), browser.client):
        page = client.get("/api/v1/docs")
        assert page.status_code == 200
        for path in document()["paths"]:
            assert f"<code>{path}</code>" in page.text
        assert 'id="error-batch_not_draft"' in page.text
