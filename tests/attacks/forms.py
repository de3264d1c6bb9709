"""Forms and uploads that would fill memory or disk, or lead out of their folder."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx

from tests.attacks.target import API, Target, attack

BOUNDARY = "attack"
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
PNG = b"\x89PNG\r\n\x1a\n" + b"not looked at before a worker does"


def draft(client: httpx.Client) -> str:
    """Make a draft and return its address; `leave` cancels it."""
    made = client.post(f"{API}/batches", json={"label": "attack"})
    assert made.status_code == 201, made.text
    return f"{API}/batches/{made.json()['id']}"


def leave(client: httpx.Client, batch: str) -> None:
    """Cancel a draft, so that nothing stays."""
    client.post(f"{batch}/cancel")


def send(client: httpx.Client, batch: str, name: str, data: bytes) -> list[dict[str, Any]]:
    """Send one file and return what became of it, or of its members."""
    answer = client.post(f"{batch}/files", files={"files": (name, data)})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["files"])


def zipped(*members: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    """Return a ZIP of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return buffer.getvalue()


def endless_names() -> Iterator[bytes]:
    """Yield a form of 360 MB whose fields have names of a megabyte."""
    for number in range(360):
        yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{number}'.encode()
        for _ in range(16):
            yield b"n" * 65536
        yield b'"\r\n\r\n\r\n'


def many_fields() -> Iterator[bytes]:
    """Yield a form of 99,000 fields."""
    for number in range(99_000):
        yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{number}"\r\n\r\n\r\n'.encode()
    yield f"--{BOUNDARY}--\r\n".encode()


def refusal(client: httpx.Client, address: str, body: Iterator[bytes], headers: dict[str, str]) -> str:
    """Return how a body is refused: by its status, or by the end of the connection in its middle."""
    try:
        status = client.post(address, content=body, headers=headers).status_code
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        return "cut off"
    assert 400 <= status < 500, status
    return str(status)


@attack("a form of 360 MB of names", needs_key=True)
def names(target: Target) -> str:
    """Send names of a megabyte each, as somebody known."""
    with target.client() as client:
        batch = draft(client)
        said = refusal(client, f"{batch}/files", endless_names(), MULTIPART)
        leave(client, batch)
    return said


@attack("a form of 99,000 fields", needs_key=True)
def fields(target: Target) -> str:
    """Send very many small fields."""
    with target.client() as client:
        batch = draft(client)
        said = refusal(client, f"{batch}/files", many_fields(), MULTIPART)
        leave(client, batch)
    return said


@attack("a stranger's form of 360 MB")
def strangers(target: Target) -> str:
    """Send to the sign-in page what a file upload would be."""
    with target.client(known=False) as client:
        plain = {"Content-Type": "application/x-www-form-urlencoded"}
        body = (b"a=" + b"b" * (1 << 20) for _ in range(360))
        said = [refusal(client, "/sign-in", body, plain)]
        said.append(refusal(client, f"{API}/batches", endless_names(), MULTIPART))
    return ", ".join(said)


@attack("archives that lead out of their folder", needs_key=True)
def paths(target: Target) -> str:
    """Send members with paths of the server, a link, and names that other systems read otherwise."""
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    members = [
        ("../../outside.png", PNG + b"1"),
        ("/etc/absolute.png", PNG + b"2"),
        ("a/../../b.png", PNG + b"3"),
        ("..\\..\\windows.png", PNG + b"4"),
        (link, b"/etc/passwd"),
    ]
    with target.client() as client:
        batch = draft(client)
        answers = send(client, batch, "paths.zip", zipped(*members))
        leave(client, batch)
    taken = [answer["filename"] for answer in answers if answer["status"] == "accepted"]
    for name in taken:
        assert not name.startswith("/"), name
        assert ".." not in name.replace("\\", "/").split("/"), name
        assert name != "link.png"
    return f"{len(answers) - len(taken)} of {len(answers)} refused"


@attack("archives that unpack to far more than they are", needs_key=True)
def bombs(target: Target) -> str:
    """Send 64 MB of zeros in 64 KB, and an archive in an archive."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("big.png", "w") as member,
    ):
        member.write(PNG)
        for _ in range(64):
            member.write(bytes(1 << 20))
    with target.client() as client:
        batch = draft(client)
        big = send(client, batch, "big.zip", buffer.getvalue())
        nested = send(client, batch, "nested.zip", zipped(("inner.zip", zipped(("a.png", PNG)))))
        leave(client, batch)
    said = {}
    for answers in (big, nested):
        for answer in answers:
            assert answer["status"] == "rejected", answer
            said[answer["filename"]] = answer["reason"]["code"]
    return ", ".join(f"{name}: {code}" for name, code in said.items())
