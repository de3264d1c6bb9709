"""OHIF, a viewer of others, hangs the radiograph first though our objects lie in the same study."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import sync_playwright

from interop import objects
from interop.reading import SERIES
from tests.interop.conftest import film
from tests.interop.orthanc import Orthanc, running_orthanc
from tests.interop.test_objects import made, reading
from tests.npm import npm_folder

pytestmark = pytest.mark.faults  # half a minute of a browser, and a package of 30 MB

_CONFIG = """
window.config = {
  routerBasename: null, extensions: [], modes: [], showStudyList: true, defaultDataSourceName: "dicomweb",
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  investigationalUseDialog: {option: "never"},
  dataSources: [{
    namespace: "@ohif/extension-default.dataSourcesModule.dicomweb", sourceName: "dicomweb",
    configuration: {
      friendlyName: "Orthanc", name: "orthanc", wadoUriRoot: "/dicom-web", qidoRoot: "/dicom-web",
      wadoRoot: "/dicom-web", qidoSupportsIncludeField: false, imageRendering: "wadors",
      thumbnailRendering: "wadors", enableStudyLazyLoad: true, supportsFuzzyMatching: false,
      supportsWildcard: true, singlepart: "bulkdata,video,pdf",
    },
  }],
};
"""


class Proxy(SimpleHTTPRequestHandler):
    """OHIF's files, and behind ``/dicom-web`` the archive."""

    archive = ""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path.startswith("/dicom-web"):
            headers = {"Accept": self.headers.get("Accept", "*/*")}
            answer = httpx.get(self.archive + self.path, headers=headers, timeout=60)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)
            return
        if "." not in self.path.partition("?")[0].rpartition("/")[2]:
            self.path = "/index.html"
        super().do_GET()

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@contextmanager
def serving(folder: Path, archive: Orthanc) -> Iterator[str]:
    """Serve a built OHIF and the archive behind it while the block runs."""

    class Here(Proxy):
        pass

    Here.archive = f"http://127.0.0.1:{archive.http}"
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Here, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_radiograph_is_hung_first(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    built = npm_folder(pytestconfig, "@ohif/app@3.13.2", alone=True) / "node_modules/@ohif/app/dist"
    folder = tmp_path / "ohif"
    shutil.copytree(built, folder)
    (folder / "app-config.js").write_text(_CONFIG)
    said = reading((1, 10, 20, 30, 40))
    with running_orthanc(tmp_path / "orthanc") as archive:
        for kind, sop_class in objects.CLASSES.items():
            archive.put(made(said, kind, sop_class))  # before the radiographs: no order of arrival helps
        films = [
            film("a study", n, longest=160, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
            for n in (1, 2)
        ]
        for data in films:
            archive.put(data)
        with serving(folder, archive) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium",
                args=["--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader"],
            )
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.goto(f"{address}/viewer?StudyInstanceUIDs={said.study_uid}")
            page.wait_for_selector("[data-cy='study-browser-thumbnail']", timeout=180_000)
            pane = page.locator("[data-cy='viewport-pane']")
            pane.get_by_text("SYNTHETIC PHANTOM").first.wait_for(timeout=120_000)
            if picture := os.environ.get("FRACTUREAI_TEST_PAGES"):
                page.wait_for_timeout(10_000)  # until the picture is drawn
                page.screenshot(path=f"{picture}/ohif.png")
            hung, listed = pane.first.inner_text(), page.locator("body").inner_text()
            browser.close()
    assert "NOT FOR DIAGNOSIS" not in hung
    assert "AI fracture" not in hung
    assert listed.index("S:1") < listed.index("S:9001")
    assert {f"S:{number}" for number in SERIES.values()} <= set(listed.split())
