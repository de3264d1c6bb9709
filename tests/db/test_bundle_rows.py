"""A bundle's manifest as a row, whatever figures it could not give."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import Engine

from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.bundles.bundles import add_bundle, get_bundle


def test_a_figure_that_could_not_be_given_is_null(database: Engine, blobs: BlobStore, tmp_path: Path) -> None:
    manifest = {"name": "b", "measured": {"precision": float("nan"), "recall": 0.5}}
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert add_bundle(folder) == add_bundle(folder) == "b"
    with session_scope() as session:
        assert get_bundle(session, "b").manifest["measured"] == {"precision": None, "recall": 0.5}
