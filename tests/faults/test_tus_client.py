"""The resumable uploads against tus-js-client, the client that the authors of the protocol keep.

It is fetched from the npm registry once; without node, npm or the registry these tests skip.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

from store.base.session import session_scope
from store.base.tables import Image, Upload
from tests.faults.test_cut_lines import CutLine
from tests.faults.test_cut_lines import cut as cut_line
from tests.web.serving import Serving, serving, site_key

__all__ = ["serving", "site_key"]

pytestmark = pytest.mark.faults

CLIENT = "tus-js-client@4.3.1"
SCRIPT = Path(__file__).parent / "tus" / "client.mjs"
PIECE = 1 << 20
SIZE = 6 * PIECE + 12_345
#: What the client does that the server may announce.
EXTENSIONS = {"creation", "expiration", "termination"}

Send = Callable[..., Any]


@pytest.fixture(scope="session")
def client_folder(pytestconfig: pytest.Config) -> Path:
    """A folder with tus-js-client and the script beside it, kept by pytest."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("tus-js-client needs node and npm")
    folder = pytestconfig.cache.mkdir(CLIENT.replace("@", "-"))
    if not (folder / "node_modules" / "tus-js-client").is_dir():
        install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder, CLIENT]
        done = subprocess.run(install, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"npm does not get {CLIENT}: {done.stderr.strip()[:200]}")
    shutil.copy(SCRIPT, folder)
    return folder


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(SIZE - 8))
    return path


@pytest.fixture
def api(serving: Serving) -> httpx.Client:
    return httpx.Client(
        base_url=f"{serving.url}/api/v1",
        headers={"Authorization": f"Bearer {serving.key}"},
        timeout=60,
        trust_env=False,
    )


@pytest.fixture
def draft(api: httpx.Client) -> str:
    return str(api.post("/batches", json={}).raise_for_status().json()["id"])


@pytest.fixture
def send(client_folder: Path, serving: Serving, film: Path, draft: str) -> Send:
    """Run the client on the film, by default to the draft; return what it says."""

    def run(*, address: str = serving.url, **options: Any) -> Any:
        given = {
            "endpoint": f"{address}/api/v1/batches/{draft}/uploads",
            "headers": {"Authorization": f"Bearer {serving.key}"},
            "metadata": {"filename": "ward/film.png", "filetype": "image/png"},
            "chunkSize": PIECE,
            "retryDelays": [0, 100, 300, 1000, 1000, 1000],
            **options,
        }
        node = ["node", client_folder / SCRIPT.name, film, json.dumps(given)]
        done = subprocess.run(node, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def taken(api: httpx.Client, url: str) -> str:
    """Take what was uploaded into its batch; return the SHA-256 that the batch has of it."""
    path = "/" + url.split("/api/v1/")[1]
    api.post(f"{path}/take", json={}).raise_for_status()
    with session_scope() as session:
        image = session.scalars(select(Image)).one()
        assert image.path == "ward/film.png"
        return image.sha256


def sha256(film: Path) -> str:
    return hashlib.sha256(film.read_bytes()).hexdigest()


def test_it_announces_what_is_tried_here(api: httpx.Client, draft: str) -> None:
    told = api.options(f"/batches/{draft}/uploads")
    assert told.status_code in {200, 204}
    assert told.headers["Tus-Version"] == "1.0.0"
    assert set(told.headers["Tus-Extension"].split(",")) == EXTENSIONS


def test_a_file_in_pieces(send: Send, api: httpx.Client, film: Path) -> None:
    said = send()
    assert said["how"] == "sent", said
    assert said["answers"] == [["POST", 201], *[["PATCH", 204]] * 7]
    assert taken(api, said["url"]) == sha256(film)


def test_a_line_that_is_cut(send: Send, serving: Serving, api: httpx.Client, film: Path) -> None:
    line: CutLine
    with cut_line(serving, after=PIECE // 2, cuts=4) as line:
        said = send(address=f"http://{line.address}")
        assert line.broken == 4
        assert line.carried < SIZE + 4 * PIECE  # what had arrived was not sent again
    assert said["how"] == "sent", said
    assert ["HEAD", 200] in said["answers"]
    assert taken(api, said["url"]) == sha256(film)


def test_another_run_goes_on_where_the_first_stopped(send: Send, api: httpx.Client, film: Path) -> None:
    first = send(stopAt=3 * PIECE)
    assert first["how"] == "stopped"
    second = send(uploadUrl=first["url"])
    assert second["how"] == "sent", second
    assert second["answers"][0] == ["HEAD", 200]
    assert 1 <= len(second["answers"]) - 1 <= 6  # pieces, of seven
    assert taken(api, second["url"]) == sha256(film)


def test_by_post_alone(send: Send, api: httpx.Client, film: Path) -> None:
    said = send(overridePatchMethod=True)
    assert said["how"] == "sent", said
    assert {method for method, _ in said["answers"]} == {"POST"}
    assert taken(api, said["url"]) == sha256(film)


def test_an_upload_that_is_taken_back(send: Send, api: httpx.Client) -> None:
    said = send(stopAt=2 * PIECE, terminate=True)
    assert said["how"] == "stopped", said
    path = "/" + said["url"].split("/api/v1/")[1]
    assert api.head(path, headers={"Tus-Resumable": "1.0.0"}).status_code in {404, 410}
    with session_scope() as session:
        assert session.scalars(select(Upload)).all() == []


def test_one_that_has_expired_is_begun_anew(send: Send, api: httpx.Client, film: Path) -> None:
    first = send(stopAt=2 * PIECE)
    with session_scope() as session:
        session.execute(text("UPDATE uploads SET expires_at = now() - interval '1 second'"))
    second = send(uploadUrl=first["url"])
    assert second["how"] == "sent", second
    assert second["url"] != first["url"]
    assert [method for method, _ in second["answers"]][:2] == ["HEAD", "POST"]
    assert taken(api, second["url"]) == sha256(film)


@pytest.mark.parametrize("options", [{"parallelUploads": 2}, {"uploadLengthDeferred": True}])
def test_what_is_not_announced_is_refused(send: Send, options: dict[str, Any]) -> None:
    said = send(**options, retryDelays=[])
    assert said["how"] == "failed"
    assert {status for method, status in said["answers"] if method == "POST"} <= {400, 409, 412, 422}, said
