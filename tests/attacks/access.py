"""What a stranger, or somebody with too small a right, tries to see or do."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.attacks.parameters import NOBODY, filled, resolve
from tests.attacks.target import API, Target, attack

#: MiB that the web may grow by while 48 strangers sign in: a few checks at a time in each of its processes.
MAX_GROWN = 640
PUBLIC = {f"{API}/openapi.json", f"{API}/docs"}


def addresses(description: dict[str, Any]) -> list[tuple[str, str]]:
    """Return method and address of every documented operation, with ids of nothing."""
    found = []
    for path, operations in description["paths"].items():
        for method in operations.keys() & {"get", "post", "put", "patch", "delete"}:
            named = [*operations.get("parameters", []), *operations[method].get("parameters", [])]
            address = filled(description, path, [resolve(description, each) for each in named])
            found.append((method.upper(), address if address.startswith("/api") else f"{API}{address}"))
    return found


@attack("every address without a key, and with wrong ones")
def strangers(target: Target) -> str:
    """Ask everything that the description lists as somebody whom the server does not know."""
    with target.client(known=False) as client:
        described = addresses(client.get(f"{API}/openapi.json").json())
        assert len(described) > 40
        for method, address in described:
            if address in PUBLIC:
                continue
            for header in ({}, {"Authorization": "Bearer fai_wrong"}, {"Authorization": "Basic YTpi"}):
                answer = client.request(method, address, headers=header)
                assert answer.status_code == 401, (method, address, answer.status_code)
        for path in ("metadata", "DiagnosticReport", f"DiagnosticReport/{NOBODY}", f"Observation/{NOBODY}-1"):
            for header in ({}, {"Authorization": "Bearer fai_wrong"}):
                answer = client.get(f"/fhir/{path}", headers=header)
                assert answer.status_code == 401, (path, answer.status_code)
        for page in ("/batches", "/worklist", "/admin", "/account", "/research", "/downloads"):
            answer = client.get(page)
            assert answer.status_code == 302, page
            assert answer.headers["Location"].startswith("/sign-in"), page
    return f"{len(described)} operations"


@attack("readiness and metrics from outside")
def monitoring(target: Target) -> str:
    """Ask for what tells how the service is built and how busy a hospital is."""
    with target.client(known=False) as client:
        for path in (
            "/readyz",
            "/metrics",
            "/console",
            "/.git/config",
            "/.env",
            "/static/",
            "/server-status",
        ):
            assert client.get(path).status_code == 404, path
    return "404 each"


@attack("objects of nobody", needs_key=True)
def other_ids(target: Target) -> str:
    """Ask for ids that do not exist; those of other sites answer the same."""
    with target.client() as client:
        described = addresses(client.get(f"{API}/openapi.json").json())
        asked = [address for method, address in described if method == "GET" and NOBODY in address]
        for address in asked:
            assert client.get(address).status_code in {403, 404, 422}, address
    return f"{len(asked)} addresses"


@attack("paths that lead elsewhere", needs_key=True)
def paths(target: Target) -> str:
    """Climb out of addresses, plainly and encoded."""
    with target.client() as client:
        for path in (
            "/static/../../etc/passwd",
            "/static/%2e%2e/%2e%2e/etc/passwd",
            "/static/..%2f..%2fsettings.py",
            f"{API}/bundles/..%2f..%2f..%2fetc%2fpasswd",
            "/static/%00app.css",
            "//etc/passwd",
        ):
            answer = client.get(path)
            assert answer.status_code in {301, 302, 308, 400, 404}, (path, answer.status_code)
            assert "root:" not in answer.text, path
    raw = f"GET /static/../../../etc/passwd HTTP/1.1\r\nHost: {target.host}\r\nConnection: close\r\n\r\n"
    assert b"root:" not in target.answer(raw.encode())
    return "nothing but refusals"


@attack("methods that are not meant")
def methods(target: Target) -> str:
    """Ask with methods that pages and proxies might treat otherwise."""
    with target.client(known=False) as client:
        for method in ("TRACE", "CONNECT", "PUT", "PROPFIND", "BREW"):
            raw = f"{method} /sign-in HTTP/1.1\r\nHost: {target.host}\r\nConnection: close\r\n\r\n"
            answer = target.answer(raw.encode())
            assert re.match(rb"HTTP/1.1 (400|401|405|501)", answer), (method, answer[:80])
        headers = {"X-HTTP-Method-Override": "DELETE"}
        assert client.post("/sign-in", headers=headers, data={}).status_code == 403
    return "400, 401, 405 or 501"


@attack("one password after the other")
def guessing(target: Target) -> str:
    """Guess the password of one person until the server has had enough."""
    statuses = []
    with target.client(known=False) as client:
        page = client.get("/sign-in").text
        token = re.search(r'name="csrf" value="([^"]+)"', page)
        assert token is not None
        for number in range(15):
            form = {
                "csrf": token[1],
                "email": "attack@example.invalid",
                "password": f"guess {number} of many",
            }
            statuses.append(client.post("/sign-in", data=form).status_code)
    assert statuses[-1] == 429, statuses
    return f"429 after {statuses.index(429)} guesses"


@attack("many passwords at one time")
def crowd_of_guesses(target: Target) -> str:
    """Have 48 passwords checked at once: each takes 64 MiB, and a few at a time is all that they get."""
    processes = target.processes()

    def memory() -> int:
        return sum(process.memory_info().rss for process in processes)

    before = memory()
    with target.client(known=False) as client:
        page = client.get("/sign-in").text
        token = re.search(r'name="csrf" value="([^"]+)"', page)
        assert token is not None

        def guess(number: int) -> int:
            form = {"csrf": token[1], "email": f"crowd{number}@example.invalid", "password": "a long guess"}
            return client.post("/sign-in", data=form).status_code

        most = 0
        with ThreadPoolExecutor(48) as pool:
            guesses = [pool.submit(guess, number) for number in range(48)]
            while not all(each.done() for each in guesses):
                most = max(most, memory())
                time.sleep(0.02)
        statuses = [each.result() for each in guesses]
    assert set(statuses) <= {401, 429, 503}, statuses
    said = f"{statuses.count(401)} checked, {len(statuses) - statuses.count(401)} turned away"
    if not processes:
        return said
    grown = max(0, most - before) >> 20
    assert grown < MAX_GROWN, f"the web grew by {grown} MiB"
    return f"{said}, the web grew by {grown} MiB"
