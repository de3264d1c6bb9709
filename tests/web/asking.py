"""Programs and browsers that ask the web application, and bytes to send it."""

from __future__ import annotations

import io
import zipfile
from typing import Any

from flask.testing import FlaskClient

PNG = bytes.fromhex("89504e470d0a1a0a") + b"not looked at by the web process"
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 40


def png(text: str) -> bytes:
    """Bytes that pass for a PNG at the door, different for each text."""
    return PNG + text.encode()


def zipped(members: dict[str, bytes], **how: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class ClosingClient(FlaskClient):
    """Asks as Flask's own client does, and leaves nothing open.

    Werkzeug's writes a form of more than 500 kB to a temporary file and closes it only where it follows
    redirects; and an answer that is not read to the end keeps what it streams from.
    """

    def open(self, *args: Any, buffered: bool = True, **more: Any) -> Any:
        answer = super().open(*args, buffered=buffered, **more)
        if buffered:
            answer.request.input_stream.close()
        else:
            answer.call_on_close(answer.request.input_stream.close)
        return answer


class Asker:
    """A program that asks the API with a key."""

    def __init__(self, client: FlaskClient, key: str) -> None:
        self.client = client
        self.headers = {"Authorization": f"Bearer {key}"}

    def __call__(self, method: str, path: str, **more: Any) -> Any:
        headers = {**self.headers, **more.pop("headers", {})}
        address = path if path.startswith("/api") else f"/api/v1{path}"
        return self.client.open(address, method=method, headers=headers, **more)

    def get(self, path: str, **more: Any) -> Any:
        return self("GET", path, **more)

    def post(self, path: str, **more: Any) -> Any:
        return self("POST", path, **more)

    def draft(self, **wish: Any) -> str:
        return self.post("/batches", json=wish).json["id"]

    def send(self, batch: str, *files: tuple[str, bytes], manifest: bytes | None = None) -> Any:
        data: dict[str, Any] = {"files": [(io.BytesIO(content), name) for name, content in files]}
        if manifest is not None:
            data["manifest"] = (io.BytesIO(manifest), "manifest.csv")
        return self.post(f"/batches/{batch}/files", data=data, content_type="multipart/form-data")


class Browser:
    """A signed-in browser: cookies, and the token of its forms."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.csrf = ""

    def sign_in(self, **fields: str) -> Any:
        self.client.get("/sign-in", query_string={"token": fields.get("token", "")})
        twin = self.client.get_cookie("fractureai_form", path="/sign-in").value
        answer = self.client.post("/sign-in", data={"csrf": twin, **fields})
        if answer.status_code == 303:
            text = self.client.get("/account").text
            self.csrf = text.split('name="csrf" content="')[1].split('"')[0]
        return answer

    def post(self, path: str, **fields: Any) -> Any:
        return self.client.post(path, data={"csrf": self.csrf, **fields})

    def asker(self) -> Asker:
        """Asks the API as the person who is signed in."""
        asker = Asker(self.client, "")
        asker.headers = {"X-CSRF-Token": self.csrf}
        return asker
