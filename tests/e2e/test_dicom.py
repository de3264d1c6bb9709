"""From a modality to the archive and back, by the commands that docs/pacs.md gives."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from cli.embedded import free_port
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from tests.conftest import ROOT
from tests.e2e.conftest import bare_environment
from tests.e2e.test_up import COMMAND, Running, client_of
from tests.interop.orthanc import AE_TITLE, running_orthanc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

#: Seconds for a study to be read and its results to be in the archive, on a busy machine.
PATIENCE = 600


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fractureai-dicom-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def test_a_film_goes_in_and_its_results_lie_in_the_archive(home: Path, tmp_path: Path) -> None:
    port = free_port()

    def fractureai(*arguments: str) -> str:
        done = subprocess.run(
            [*COMMAND, *arguments, "--home", str(home)],
            cwd=ROOT,
            env=bare_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    film = tmp_path / "film.dcm"
    film.write_bytes(encode_phantom(make_phantom(3, "hand"), "dicom", study="a study"))
    source = pydicom.dcmread(film)
    with running_orthanc(tmp_path / "orthanc") as archive:
        server = Running(*COMMAND, "up", "--home", str(home), "--dicom", str(port))
        try:
            server.wait_for(r"(Receiving DICOM on port \d+)")
            fractureai("gateway", "site", "--ae-title", "FRACTURES", "--release", "1")
            fractureai("gateway", "allow", AE_TITLE, "127.0.0.1")
            fractureai("gateway", "key")
            address = f"127.0.0.1:{archive.dicom}"
            fractureai("destinations", "add", "pacs", address, "--called", AE_TITLE, "--calling", "FRACTURES")
            fractureai("destinations", "test", "pacs")
            archive.put(film.read_bytes())
            sender = [
                "/usr/bin/storescu",
                "-R",
                "-aet",
                AE_TITLE,
                "-aec",
                "FRACTURES",
                "127.0.0.1",
                str(port),
            ]
            subprocess.run([*sender, film], check=True, capture_output=True)
            until = time.monotonic() + PATIENCE
            while "4 committed" not in (told := fractureai("deliveries")):
                assert time.monotonic() < until, told
                time.sleep(2)
            files = archive.files()
            assert len(files) == 5
            for data in files.values():
                found = pydicom.dcmread(io.BytesIO(data))
                assert found.PatientID == source.PatientID
                assert found.StudyInstanceUID == source.StudyInstanceUID
            # what the archive forwards back is acknowledged, and makes no new batch
            for uid, data in files.items():
                if uid != source.SOPInstanceUID:
                    film.write_bytes(data)
                    subprocess.run([*sender, film], check=True, capture_output=True)
            time.sleep(5)
            with client_of(home) as client:
                assert [batch["label"] for batch in client.batches()] == [f"DICOM from {AE_TITLE}"]
        finally:
            server.close()
