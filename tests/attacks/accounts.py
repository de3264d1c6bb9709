"""What somebody with an administrator's API key tries, to become more than the key."""

from __future__ import annotations

import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

from tests.attacks.target import API, Target, attack


@attack("an administrator's key makes links, roles and administrators", needs_key=True)
def key_becomes_person(target: Target) -> str:
    """A key that leaked must not turn into a person who reads, signs and stays."""
    with target.client() as client:
        people = client.get(f"{API}/people")
        assert people.status_code == 200, "this takes a key with the scope `administer`"
        for role in ("admin", "clinician"):
            wish = {"email": f"{uuid.uuid4().hex}@attacker.example", "role": role, "name": "Prof. Chief"}
            answer = client.post(f"{API}/people", json=wish)
            assert (answer.status_code, answer.json()["code"]) == (403, "needs_person")
        administrators = [person for person in people.json()["items"] if person["role"] == "admin"]
        assert administrators
        for person in administrators:
            for action in ("role", "name", "link", "disable", "enable", "sign-out", "reset-second-factor"):
                body = {action: "admin"} if action in ("role", "name") else None
                answer = client.post(person["links"][action], json=body)
                assert (answer.status_code, answer.json()["code"]) == (403, "needs_person"), action
        for path in ("/account/keys", "/account/password", "/account/confirm", "/account/second-factor"):
            assert client.post(path, data={"name": "x", "scope": "administer"}).status_code == 403, path
        assert len(client.get(f"{API}/people").json()["items"]) == len(people.json()["items"])
    return f"{len(administrators)} administrators untouched"


@attack("a one-time link that was used", needs_link=True)
def link_again(target: Target) -> str:
    """Sign in by a link, then again by the same one, in another browser and in two at one time."""
    token = parse_qs(urlsplit(target.link).query)["token"][0]

    def sign_in(_: int) -> int:
        with target.client(known=False) as client:
            page = client.get("/sign-in", params={"token": token}).text
            twin = re.search(r'name="csrf" value="([^"]+)"', page)
            assert twin is not None
            form = {"csrf": twin[1], "token": token}
            return client.post("/sign-in", data=form).status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = [*pool.map(sign_in, range(4)), sign_in(0)]
    assert sorted(statuses) == [303, 401, 401, 401, 401], statuses
    return "one of five came in"


@attack("an administrator's key erases studies without a password", needs_key=True)
def key_erases(target: Target) -> str:
    """What cannot be undone takes the password, which is not where the key is."""
    with target.client() as client:
        wish = {"studies": [str(uuid.uuid4())]}
        for body in (wish, {**wish, "password": ""}, {**wish, "password": "a guess"}):
            answer = client.post(f"{API}/erasures", json=body)
            assert answer.status_code == 403, answer.text
            assert answer.json()["code"] in {"confirmation_needed", "confirmation_failed"}
    return "403 each"
