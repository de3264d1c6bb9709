"""Archives that hang, are full, refuse, or want certificates; a sender that is killed after it has sent."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from sqlalchemy import select, update

from cli.embedded import free_port
from interop import deliver as delivering
from interop.peers import Trouble, peer_of
from interop.private_keys import make_key_pair
from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Work, WorkKind, WorkState
from store.intake import envelopes
from store.outgoing import deliveries
from store.outgoing.deliveries import ObjectKind, Protocol
from store.outgoing.delivery_tables import Delivery, Destination
from tests.interop.conftest import film
from tests.interop.orthanc import AE_TITLE, Orthanc, running_orthanc
from tests.interop.test_delivery import committed, listens, run_due, states
from tests.interop.test_tls import make_certificates
from tests.running import wait_for
from tests.worker.conftest import cache_folder, kept_folder, service_settings, site_id, untrained_bundle
from tests.worker.test_reading import read
from vocabulary.dicom import SECONDARY_CAPTURE

__all__ = ["cache_folder", "kept_folder", "service_settings", "site_id", "untrained_bundle"]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as running:
        yield running


@pytest.fixture
def picture(site_id: uuid.UUID, tmp_path: Path, service_settings: pytest.MonkeyPatch) -> uuid.UUID:
    """One picture that waits for an archive at an address that is not known yet."""
    service_settings.setenv("FRACTUREAI_GATEWAY_KEYS", str(tmp_path / "keys"))
    service_settings.setenv("FRACTUREAI_DELIVERY_TIMEOUT_SECONDS", "3")
    get_settings.cache_clear()
    with session_scope() as session:
        envelopes.add_key(session, site_id, make_key_pair(tmp_path / "keys"))
        deliveries.add_destination(
            session, site_id, "archive", Protocol.DIMSE, "127.0.0.1:104",
            called=AE_TITLE, calling="FRACTURES", kinds=[ObjectKind.SC],
        )  # fmt: skip
    read(site_id, {"a.dcm": film("a study", longest=160)})
    return site_id


def lead_to(port: int) -> None:
    with session_scope() as session:
        session.execute(update(Destination).values(address=f"127.0.0.1:{port}"))


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Run an archive that answers every object with a status."""
    entity = ApplicationEntity(AE_TITLE)
    entity.add_supported_context(SECONDARY_CAPTURE)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: status)]
    )
    assert server is not None
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


def test_an_archive_that_is_full_hangs_or_refuses_gets_it_once_all_the_same(
    picture: uuid.UUID, archive: Orthanc
):
    with answering(0xA700) as port:  # out of resources
        lead_to(port)
        run_due()
        assert states()["sc"] == ("waiting", "status 0xA700")
    lead_to(archive.dicom)
    assert archive._process is not None
    os.killpg(archive._process.pid, signal.SIGSTOP)  # it takes the connection and says nothing
    run_due()
    assert states()["sc"][0] == "waiting"
    os.killpg(archive._process.pid, signal.SIGCONT)
    with answering(0x0122) as port:  # SOP class not supported: nothing that goes by itself
        lead_to(port)
        run_due()
        assert states()["sc"] == ("failed", "status 0x0122")
    lead_to(archive.dicom)
    with session_scope() as session:
        deliveries.retry(session, session.scalars(select(Delivery)).one())
    run_due()
    assert committed(), states()
    assert len(archive.files()) == 1


def test_a_sender_that_is_killed_after_its_object_left_sends_the_same_bytes_again(
    picture: uuid.UUID, archive: Orthanc, monkeypatch: pytest.MonkeyPatch
):
    lead_to(archive.dicom)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(delivering, "_ask_commitment", killed)
        with pytest.raises(Killed):
            run_due()
    first = archive.files()
    assert len(first) == 1
    with session_scope() as session:  # its lease has run out
        units = update(Work).where(Work.kind == WorkKind.DELIVER)
        session.execute(units.values(state=WorkState.DUE.value, lease_until=None, lease_token=None))
    run_due()
    assert committed(), states()
    assert archive.files() == first


def test_results_go_by_tls_with_our_certificate_and_to_no_stranger(
    picture: uuid.UUID, tmp_path: Path, service_settings: pytest.MonkeyPatch
):
    make_certificates(tmp_path / "ours", "us", "localhost")
    make_certificates(tmp_path / "others", "localhost")
    for name, file in {"CERT": "us.crt", "KEY": "us.key", "CA": "ca.crt"}.items():
        service_settings.setenv(f"FRACTUREAI_GATEWAY_TLS_{name}", str(tmp_path / "ours" / file))
    get_settings.cache_clear()
    taken = tmp_path / "taken"
    taken.mkdir()
    for folder, trusted in ((tmp_path / "others", False), (tmp_path / "ours", True)):
        port = free_port()
        command = [
            "/usr/bin/storescp", "+tls", folder / "localhost.key", folder / "localhost.crt",
            "+cf", tmp_path / "ours" / "ca.crt", "-od", taken, "-aet", AE_TITLE, str(port),
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                wait_for(lambda port=port: listens(port), 60, "storescp")
                with session_scope() as session:
                    session.execute(update(Destination).values(address=f"localhost:{port}", tls=True))
                if not trusted:
                    with pytest.raises(Trouble), session_scope() as session:
                        peer_of(session.scalars(select(Destination)).one(), get_settings()).echo()
                run_due()
            finally:
                process.kill()
        assert states()["sc"][0] == ("sent" if trusted else "waiting"), states()
    (file,) = taken.iterdir()
    assert pydicom.dcmread(io.BytesIO(file.read_bytes())).SeriesNumber == 9001
