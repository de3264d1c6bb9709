"""The second journey of `crash_points`: a study comes by DICOM, is read, goes back, is looked at, is erased.

A receiver keeps two images of one study (`received.keep` is all that it does between an object and its
answer), reconcile submits the study, and its results go to an archive: a process of its own, which keeps what
it gets in a folder and answers queries. Sending is one more kind of point, an *exchange*.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import AllStoragePresentationContexts

from cli.embedded import free_port
from tests.conftest import ROOT

if TYPE_CHECKING:
    from tests.faults.crash_points import Client, World

ARCHIVE, OURS = "ARCHIVE", "FRACTURES"
VERIFICATION, STUDY_ROOT_FIND = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.2.2.1"


# the archive


def archive(folder: Path, port: int) -> None:
    """Keep each object under its UID and its hash, and say what is there; for ever."""
    entity = ApplicationEntity(ARCHIVE)
    entity.supported_contexts = AllStoragePresentationContexts
    for uid in (VERIFICATION, STUDY_ROOT_FIND):
        entity.add_supported_context(uid)

    def keep(event: evt.Event) -> int:
        data = event.encoded_dataset(include_meta=False)
        uid = str(event.request.AffectedSOPInstanceUID)
        (folder / f"{uid}-{uuid.uuid5(uuid.NAMESPACE_OID, data.hex()).hex}").write_bytes(data)
        return 0x0000

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        wanted = event.identifier
        if wanted.QueryRetrieveLevel == "IMAGE" and any(folder.glob(f"{wanted.SOPInstanceUID}-*")):
            yield 0xFF00, wanted
        yield 0x0000, None

    entity.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, keep), (evt.EVT_C_FIND, find)])


@contextmanager
def running_archive(folder: Path) -> Iterator[int]:
    """Run an archive that keeps what it gets in a folder; give its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.faults.dicom_journey", str(folder), str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


# who acts


def films() -> dict[str, bytes]:
    """Return two images of one study, by the names under which they are filed."""
    import io

    from phantoms.files import encode_phantom
    from phantoms.film import make_phantom

    made = (
        encode_phantom(make_phantom(n, "hand", size=(160, 160)), "dicom", study="a study", number=n)
        for n in (1, 2)
    )
    return {f"{pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID}.dcm": data for data in made}


def set_up(world: World) -> None:
    """Let a modality send, and results go back."""
    from interop.private_keys import make_key_pair
    from store.base.session import session_scope
    from store.intake import envelopes, gateway_peers
    from store.outgoing import deliveries
    from store.outgoing.deliveries import Protocol

    site = uuid.UUID(world.known["site"])
    with session_scope() as session:
        gateway_peers.set_site(session, site, ae_title=OURS, release=0)
        envelopes.add_key(session, site, make_key_pair(world.keys))
        address = f"127.0.0.1:{world.archive_port}"
        deliveries.add_destination(
            session, site, "archive", Protocol.DIMSE, address, called=ARCHIVE, calling=OURS
        )


def receive(client: Client) -> None:
    """Send two objects, each until it is acknowledged, and end the association."""
    from sqlalchemy import select

    from pipeline.dicom.elements import split_file
    from store.base.session import session_scope
    from store.intake import received
    from store.intake.gateway_tables import ReceivedStudy

    source = received.Source(uuid.UUID(client.world.known["site"]), "MODALITY")
    studies = set()
    for data in client.world.files.values():
        found = split_file(data)
        arrival = received.keep(
            source, found.dataset, found.syntax, sop_class=found.sop_class, sop_uid=found.sop_uid
        )
        studies |= {arrival.study} - {None}
    received.sending_ended(source.site_id, studies)  # type: ignore[arg-type]
    with session_scope() as session:
        client.world.known["batch"] = str(session.scalars(select(ReceivedStudy.batch_id)).one())


def complete(_: Client) -> None:
    """Submit the study, as reconcile does, and dispatch."""
    from store.intake import received
    from store.queue.dispatch import dispatch

    received.complete_due()
    dispatch()


def look(client: Client) -> None:
    """Ask for an image at full depth, as the viewer does."""
    from sqlalchemy import select

    from store.base.session import session_scope
    from store.base.tables import Image
    from store.queue.dispatch import dispatch
    from store.reading import full_depth

    with session_scope() as session:
        image_id = session.scalars(select(Image.id).order_by(Image.seq)).first()
        assert image_id is not None
        full_depth.ask(session, image_id)
    dispatch()
    client.study()  # remembered, as a page does that then asks for its erasure, twice if the answer is lost


# the oracle


def check(world: World, done: str) -> None:
    """Look at what came, and at what went back."""
    from sqlalchemy import func, select, text

    from store.base.blobs import get_blobs
    from store.base.session import session_scope
    from store.base.tables import Image
    from store.intake.gateway_tables import ReceivedObject, ReceivedStudy
    from store.outgoing.delivery_tables import Delivery

    kept = [path.name.partition("-")[0] for path in world.archive.iterdir()]
    assert len(kept) == len(set(kept)), "one object came with other bytes"
    with session_scope() as session:
        if done == "erase":
            for table in ("received_objects", "received_studies", "deliveries", "images"):
                assert not session.scalar(text(f"SELECT count(*) FROM {table}")), table
            assert not [key for key in get_blobs().keys("") if not key.startswith("bundles/")]
            return
        assert session.scalar(select(func.count()).select_from(ReceivedObject)) == len(world.files)
        assert session.scalar(select(func.count()).select_from(ReceivedStudy)) == 1
        assert session.scalar(select(func.count()).select_from(Image)) == len(world.files)
        rows = session.scalars(select(Delivery)).all()
        states = {(row.kind, row.state) for row in rows}
        kinds = Counter(row.kind for row in rows)
        assert kinds.pop("sc") == len(world.files)  # a picture each
        assert {"sr", "pdf"} <= kinds.keys(), kinds
        assert set(kinds.values()) == {1}, kinds
        assert {state for _, state in states} == {"committed"}, states
        assert {row.instance_uid for row in rows} == set(kept)
        if done == "pixels":
            shown = session.scalars(select(Image).where(Image.pixels_key.is_not(None))).one()
            assert get_blobs().get(shown.pixels_key or "").startswith(b"\x89PNG")


def let_time_pass(session: Any) -> None:
    """Have studies complete and archives rested."""
    from sqlalchemy import text

    session.execute(text("UPDATE received_studies SET due_at = least(due_at, now())"))
    session.execute(text("UPDATE destinations SET rest_until = NULL"))


if __name__ == "__main__":
    archive(Path(sys.argv[1]), int(sys.argv[2]))
