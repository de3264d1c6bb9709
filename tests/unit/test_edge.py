"""Networks exported for edge devices say what the bundle says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.main import main
from models import edge, outputs
from models.bundle import load_bundle
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from tests.bundles import write_untrained_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("to", edge.FORMATS)
def test_an_exported_bundle_says_the_same(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out, images = tmp_path / "bundle", tmp_path / "edge", tmp_path / "images"
    write_untrained_bundle(folder)
    images.mkdir()
    for seed in range(3):
        (images / f"{seed}.png").write_bytes(encode_phantom(make_phantom(seed, "hand", size=(160, 160))))
    (images / "notes.txt").write_text("no image")
    arguments = ["bundles", "export", str(folder), "--to", to, "--out", str(out)]
    done = CliRunner().invoke(main, [*arguments, "--images", str(images)])
    assert done.exit_code == 0, done.output
    said = json.loads((out / edge.MANIFEST).read_text())
    assert {each["network"] for each in said["networks"]} == {"region", "pooled"}
    for each in said["networks"]:
        assert each["difference"] < 1e-3
        assert each["images"] == 7
        assert (out / each["file"]).stat().st_size == each["bytes"]
    bundle = load_bundle(folder)
    size = bundle.input_size("pooled")
    answer = edge.open_edge(out / f"pooled.{to}")(np.zeros((size, size), np.uint8))
    assert answer[outputs.LOGIT].shape == (1, 1)
    assert answer[outputs.ATTENTION].shape[0] == 1
    monkeypatch.setattr(edge, "TOLERANCE", -1.0)
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "differs from the network" in refused.output


def test_without_the_converter_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_untrained_bundle(tmp_path / "bundle")
    monkeypatch.setattr(edge.importlib.util, "find_spec", lambda _: None)
    refused = CliRunner().invoke(
        main, ["bundles", "export", str(tmp_path / "bundle"), "--to", "onnx", "--out", str(tmp_path / "edge")]
    )
    assert refused.exit_code == 2
    assert "fractureai[edge]" in refused.output
    assert not (tmp_path / "edge").exists()
