"""Many at once: clients that upload, and watchers that poll; nothing is lost, and nobody sees a 500."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from store.accounts.accounts import create_api_key
from store.base.session import session_scope
from store.base.tables import Batch, User
from tests.faults.web import running_web
from tests.running import PATIENCE, assert_sound, images_of, light_service


class Crowd:
    """Clients of one batch, and what they were answered."""

    def __init__(self, client: httpx.AsyncClient, batch: str) -> None:
        self.client, self.batch = client, batch
        self.answers: Counter[int] = Counter()
        self.ended = asyncio.Event()

    async def upload(self, number: int, files: dict[str, bytes]) -> None:
        """Send the files in one request; each client's bytes are its own."""
        named = [
            ("files", (f"{number}-{name}", data + number.to_bytes(2, "big"))) for name, data in files.items()
        ]
        answer = await self.client.post(f"/batches/{self.batch}/files", files=named)
        self.answers[answer.status_code] += 1
        assert answer.json()["counts"]["accepted"] == len(files), answer.text

    async def watch(self) -> str:
        """Poll as the pages do until the batch has ended; return how."""
        tag, total = "", 0
        while True:
            answer = await self.client.get(f"/batches/{self.batch}", headers={"If-None-Match": tag})
            self.answers[answer.status_code] += 1
            if answer.status_code == 200:
                tag, said = answer.headers["ETag"], answer.json()
                assert said["counts"]["total"] >= total, "what was counted is not lost"
                total = said["counts"]["total"]
                if said["finished_at"]:
                    return str(said["status"])
            await asyncio.sleep(0.5)


async def come_at_once(
    base: str, key: str, files: dict[str, bytes], clients: int, watchers: int
) -> tuple[str, Counter[int]]:
    # a connection each time: the server meets more of them, and closes none that somebody is about to use
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    header = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=base, headers=header, timeout=PATIENCE, limits=limits) as client:
        made = (await client.post("/batches", json={})).json()["id"]
        crowd = Crowd(client, made)
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(crowd.watch()) for _ in range(watchers)]
            async with asyncio.TaskGroup() as uploading:
                for number in range(clients):
                    uploading.create_task(crowd.upload(number, files))
            (await client.post(f"/batches/{made}/submit")).raise_for_status()
        assert {task.result() for task in watching} == {"done"}
    return made, crowd.answers


@pytest.mark.parametrize(
    ("clients", "watchers", "each"),
    [
        pytest.param(8, 20, 2, id="few"),
        pytest.param(50, 200, 4, id="many", marks=pytest.mark.faults),
    ],
)
def test_clients_that_upload_and_watchers_that_poll(
    clients: int,
    watchers: int,
    each: int,
    site_id: uuid.UUID,
    few: dict[str, bytes],
    calm: dict[str, float],
    tmp_path: Path,
) -> None:
    files = dict(list(few.items())[:each])
    with session_scope() as session:
        key = create_api_key(session, session.scalars(select(User)).one(), "tests")[1]
    with light_service(tmp_path), running_web(tmp_path) as web:
        base = f"http://{web.address}/api/v1"
        made, answers = asyncio.run(come_at_once(base, key, files, clients, watchers))
    assert set(answers) <= {200, 304}, answers
    with session_scope() as session:
        batch = session.get_one(Batch, uuid.UUID(made))
    assert batch.n_done == clients * each
    assert {image.path for image in images_of(batch)} == {
        f"{n}-{name}" for n in range(clients) for name in files
    }
    assert_sound(batch, {f"{n}-{name}": calm[name] for n in range(clients) for name in files})
