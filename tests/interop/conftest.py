"""A receiver in this process, and what DCMTK sends to it."""

from __future__ import annotations

import io
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import Engine, select

from cli.embedded import free_port
from interop.gateway import Gateway
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Batch
from store.intake import gateway_peers
from store.intake.gateway_tables import ReceivedStudy
from tests.db.conftest import make_site, site

__all__ = ["site"]

CALLED, CALLING = "FRACTURES", "MODALITY1"


@pytest.fixture(scope="session", autouse=True)
def _dcmtk() -> None:
    if not Path("/usr/bin/storescu").exists():
        pytest.skip("DCMTK is not installed; scripts/setup.sh test installs it")


def film(study: str, number: int = 1, *, longest: int = 64, **attributes: object) -> bytes:
    """A small synthetic radiograph as a DICOM file; attributes set to None are left out."""
    data = encode_phantom(make_phantom(number, "hand", longest=longest), "dicom", study=study, number=number)
    if not attributes:
        return data
    dataset = pydicom.dcmread(io.BytesIO(data))
    for word, value in attributes.items():
        if value is None:
            del dataset[word]
        else:
            setattr(dataset, word, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


@dataclass
class Receiver:
    """Where the receiver is, and what one sends to it with DCMTK."""

    port: int
    folder: Path

    def files(self, *data: bytes) -> list[str]:
        """Write files and return their paths."""
        paths = []
        for each in data:
            path = self.folder / f"{uuid.uuid4()}.dcm"
            path.write_bytes(each)
            paths.append(str(path))
        return paths

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of DCMTK: pynetdicom's are called the same."""
        command = (f"/usr/bin/{command[0]}", *command[1:])
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def send(
        self, *data: bytes, calling: str = CALLING, called: str = CALLED, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Send files by one association."""
        return self.run(
            *("storescu", "-v", "-aet", calling, "-aec", called, *options),
            *("127.0.0.1", str(self.port), *self.files(*data)),
        )


@pytest.fixture
def receiver(
    database: Engine, site: uuid.UUID, settings_env: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Receiver]:
    """A receiver that `CALLING` may reach at this machine; a study is complete at its association's end."""
    with session_scope() as session:
        gateway_peers.set_site(session, site, ae_title=CALLED, release=0)
        gateway_peers.allow(session, site, CALLING, ["127.0.0.0/8"])
    with receiving(settings_env, tmp_path) as found:
        yield found


class receiving:
    """Runs a receiver while the block runs."""

    def __init__(self, settings_env: pytest.MonkeyPatch, folder: Path, **settings: str) -> None:
        self.port = free_port()
        for name, value in {"PORT": str(self.port), "HOST": "127.0.0.1", **settings}.items():
            settings_env.setenv(f"FRACTUREAI_GATEWAY_{name}", value)
        get_settings.cache_clear()
        self.folder = folder / "sent"
        self.folder.mkdir(exist_ok=True)

    def __enter__(self) -> Receiver:
        self.gateway = Gateway(get_settings())
        self.thread = threading.Thread(target=self.gateway.serve)
        self.thread.start()
        return Receiver(self.port, self.folder)

    def __exit__(self, *_: object) -> None:
        self.gateway.stop()
        self.thread.join(timeout=10)


def arrived() -> list[tuple[ReceivedStudy, Batch]]:
    """What has come, in order."""
    with session_scope() as session:
        query = select(ReceivedStudy, Batch).join(Batch, Batch.id == ReceivedStudy.batch_id)
        return [(study, batch) for study, batch in session.execute(query.order_by(ReceivedStudy.first_at))]


__all__ += ["make_site"]
