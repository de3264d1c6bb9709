"""A client that a public generator makes of the published description walks the README's tour."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from tests.reading import read_batch
from tests.web.asking import png
from tests.web.serving import Serving

#: What the generator would leave out, since it knows no such media type: it takes them as bytes.
BYTES = (
    "application/zip", "application/pdf", "application/dicom", "application/jsonl", "image/jpeg", "image/png",
    "application/vnd.apache.parquet", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
)  # fmt: skip
CLIENT = "fractureai_client"


@pytest.fixture
def client(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The generated client's package, which asks the server with the site's key."""
    published, config = tmp_path / "openapi.json", tmp_path / "config.json"
    published.write_text(httpx.get(f"{serving.url}/api/v1/openapi.json").text)
    overrides = dict.fromkeys(BYTES, "application/octet-stream")
    config.write_text(json.dumps({"content_type_overrides": overrides, "post_hooks": []}))
    command = [Path(sys.executable).with_name("openapi-python-client"), "generate", "--meta", "none"]
    command += ["--path", published, "--config", config, "--output-path", tmp_path / CLIENT]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(CLIENT)


def part(name: str) -> ModuleType:
    return importlib.import_module(f"{CLIENT}.{name}")


def test_the_tour_of_the_readme(client: ModuleType, serving: Serving) -> None:
    models, asked = part("models"), client.AuthenticatedClient(f"{serving.url}/api/v1", token=serving.key)
    with asked:
        said = models.NewBatch(label="night shift")
        batch = part("api.batches.create_batch").sync(client=asked, body=said)
        assert batch.label == "night shift"
        assert batch.status.value == "draft"
        batch_id = uuid.UUID(str(batch.id))

        file = part("types").File(io.BytesIO(png("hand")), "hand.png", "image/png")
        sent = part("api.batches.add_files").sync(
            batch_id, client=asked, body=models.AddFilesBody(files=[file])
        )
        assert [(answer.filename, answer.status.value) for answer in sent.files] == [("hand.png", "accepted")]

        submitted = part("api.batches.submit_batch").sync(batch_id, client=asked, body=models.Submission())
        assert submitted.status.value == "queued"
        read_batch(str(batch_id))
        ended = part("api.batches.get_batch").sync(batch_id, client=asked)
        assert (ended.counts.total, ended.counts.done) == (1, 1)

        results = part("api.batches.results_zip").sync(batch_id, client=asked)
        assert "results.csv" in zipfile.ZipFile(results.payload).namelist()

        nobody = part("api.batches.get_batch").sync(uuid.uuid4(), client=asked)
        assert (nobody.code, nobody.status) == ("not_found", 404)
