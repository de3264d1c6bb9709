"""Extreme values in every parameter that the description names, and in bodies: nothing answers 500."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from tests.attacks.target import API, Target, attack

NOBODY = "00000000-0000-4000-8000-000000000000"
EXTREMES = (
    "",
    "0",
    "-1",
    "9" * 10,
    "9" * 40,
    "1e308",
    "NaN",
    "0001-01-01",
    "9999-12-31",
    "9999-12-31T23:59:59Z",
    "\0",
    "\r\nX-Injected: yes",
    "'; DROP TABLE batches; --",
    "../../../../etc/passwd",
    "{{7*7}}",
    "\u0661\u0662\u0663",
    "\N{SKULL}" * 100,
    "\u9aa8" * 1000,
    "a" * 3000,
)
BODIES = {
    "deep": b'{"label":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "900 deep": b'{"label":' + b"[" * 900 + b"]" * 900 + b"}",
    "long number": b'{"label":' + b"9" * 10_000 + b"}",
    "infinite": b'{"label": 1e999, "priority": NaN}',
    "half a character": b'{"label": "\\ud800"}',
    "NUL": b'{"label": "a\\u0000b"}',
    "no object": b"[]",
    "nothing": b"null",
    "not UTF-8": b'{"label": "\xff\xfe"}',
    "long name": b'{"' + b"a" * 500_000 + b'": 1}',
    "other types": b'{"label": {"a": []}, "priority": 7, "bundle": true, "report": "x"}',
}


def requests(description: dict[str, Any]) -> Iterator[str]:
    """Yield the address of each GET with each extreme in each of its parameters."""
    for path, operations in description["paths"].items():
        operation = operations.get("get")
        if operation is None:
            continue
        named = [*operations.get("parameters", []), *operation.get("parameters", [])]
        named = [resolve(description, parameter) for parameter in named]
        plain = filled(description, path, named)
        for parameter in named:
            for value in EXTREMES:
                text = quote(value, safe="")
                if parameter["in"] == "query":
                    yield f"{plain}?{parameter['name']}={text}"
                elif parameter["in"] == "path" and text:
                    yield filled(description, path.replace("{" + parameter["name"] + "}", text), named)


def filled(description: dict[str, Any], path: str, named: list[dict[str, Any]]) -> str:
    """Return a path with a value of the right type, that names nothing, for each parameter."""
    for parameter in named:
        schema = resolve(description, parameter.get("schema", {}))
        number = "1" if schema.get("type") == "integer" else NOBODY
        value = str(schema["enum"][0]) if "enum" in schema else number
        path = path.replace("{" + parameter["name"] + "}", value)
    return re.sub(r"\{[^}]+\}", NOBODY, path)


def resolve(description: dict[str, Any], parameter: dict[str, Any]) -> dict[str, Any]:
    """Follow the references of the description."""
    while "$ref" in parameter:
        found: Any = description
        for step in parameter["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        parameter = found
    return parameter


@attack("extremes in every parameter", needs_key=True)
def extremes(target: Target) -> str:
    """Ask each documented address with values that no person would send."""
    with target.client() as client:
        description = client.get(f"{API}/openapi.json").json()
        asked, failed = 0, []
        for address in requests(description):
            full = address if address.startswith("/api") else f"{API}{address}"
            answer = client.get(full)
            asked += 1
            assert "x-injected" not in answer.headers
            if answer.status_code >= 500:
                failed.append((answer.status_code, full[:120]))
    assert asked > 200
    assert not failed, failed
    return f"{asked} requests, none answered 5xx"


@attack("bodies that are not what they should be", needs_key=True)
def bodies(target: Target) -> str:
    """Send JSON that is deep, long, of other types or no JSON."""
    answers = {}
    with target.client() as client:
        for name, body in BODIES.items():
            headers = {"Content-Type": "application/json"}
            answers[name] = client.post(f"{API}/batches", content=body, headers=headers).status_code
    assert all(400 <= status < 500 for status in answers.values()), answers
    return f"{len(answers)} bodies refused"


@attack("line breaks in addresses and headers")
def line_breaks(target: Target) -> str:
    """Try to end a header of the answer early."""
    with target.client(known=False) as client:
        for path in (
            "/sign-in?next=%0d%0aSet-Cookie:%20a=b",
            "/%0d%0aSet-Cookie:%20a=b",
            "/batches?label=%0d%0aSet-Cookie:%20a=b",
            "/sign-in?next=//example.org",
            "/sign-in?next=/%5cexample.org",
        ):
            answer = client.get(path)
            assert answer.status_code < 500, path
            assert "a=b" not in answer.headers.get("Set-Cookie", ""), path
            assert "example.org" not in answer.headers.get("Location", ""), path
        page = client.get("/sign-in").text
        token = re.search(r'name="csrf" value="([^"]+)"', page)
        form = {"csrf": token[1] if token else "", "email": "a@b.invalid", "password": "a long guess"}
        for wish in ("\r\nSet-Cookie: a=b", "//example.org", "/\\example.org", "https://example.org"):
            answer = client.post("/sign-in", data={**form, "next": wish})
            assert answer.status_code in {401, 429}, (wish, answer.status_code)
            assert "a=b" not in answer.headers.get("Set-Cookie", ""), wish
    split = b"GET /sign-in HTTP/1.1\r\nHost: x\r\nX-A: b\rSet-Cookie: a=b\r\nConnection: close\r\n\r\n"
    assert b"a=b" not in target.answer(split).partition(b"\r\n\r\n")[0]
    return "no header of the attacker's in any answer"


@attack("requests inside requests")
def smuggling(target: Target) -> str:
    """State the length of a body twice, or in ways that two servers could read differently."""
    host = f"Host: {target.host}\r\n"
    inner = f"GET /healthz HTTP/1.1\r\n{host}\r\n"
    for head in (
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length: +4\r\n",
        "Content-Length : 4\r\n",
    ):
        sent = f"POST /sign-in HTTP/1.1\r\n{host}{head}\r\n0\r\n\r\n{inner}"
        answer = target.answer(sent.encode(), 5.0)
        assert answer.count(b"HTTP/1.1 ") == 1, (head, answer[:200])
        assert re.match(rb"HTTP/1.1 [45]\d\d", answer), (head, answer[:200])
        assert not answer.startswith(b"HTTP/1.1 500"), head
    return "each refused, the connection closed"
