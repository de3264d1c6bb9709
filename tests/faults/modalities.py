"""Modalities of three makes (dcmsend, storescu, dcmjs-dimse) that send and say what was acknowledged."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

CALLED, CALLING = "FRACTURES", "MODALITY"
#: Sends files by one association; returns those that were not acknowledged.
Modality = Callable[[Sequence[Path]], list[Path]]

#: What dcmjs-dimse does: send all, and say after the association's end, whatever it was, what was taken.
_DCMJS = """
const {Client, requests, log} = require("dcmjs-dimse");
log.level = "error";
const [port, called, calling, ...paths] = process.argv.slice(2);
const client = new Client();
const acknowledged = [];
for (const path of paths) {
  const store = new requests.CStoreRequest(path);
  store.on("response", (response) => { if (response.getStatus() === 0) acknowledged.push(path); });
  client.addRequest(store);
}
const end = () => { process.stdout.write(JSON.stringify(acknowledged) + "\\n", () => process.exit(0)); };
for (const event of ["associationRejected", "associationReleased", "networkError", "closed"]) {
  client.on(event, end);
}
setTimeout(end, 100000);
client.send("127.0.0.1", Number(port), calling, called);
"""


def _run(command: str, *arguments: str | Path) -> str:
    # DCMTK's own: pynetdicom's programs are called the same
    program = shutil.which(command, path="/usr/bin") or shutil.which(command) or command
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    return done.stderr + done.stdout


def dcmsend(port: int, folder: Path) -> Modality:
    """DCMTK's dcmsend, which writes a report of each object's status."""

    def send(paths: Sequence[Path]) -> list[Path]:
        report = folder / f"{uuid.uuid4()}.txt"
        _run(
            *("dcmsend", "-nh", "-to", "10", "-td", "20", "+crf", report),
            *("-aet", CALLING, "-aec", CALLED, "127.0.0.1", str(port), *paths),
        )
        text = report.read_text() if report.exists() else ""
        said = re.findall(r"^Filename +: (.+)$(?:\n.+)*?\nDIMSE Status +: 0x0000", text, re.MULTILINE)
        return [path for path in paths if str(path) not in said]

    return send


def storescu(port: int, tls: Path) -> Modality:
    """DCMTK's storescu over TLS, by the certificate `modality` of a folder; it ends at the first failure."""
    secure = ("+tls", tls / "modality.key", tls / "modality.crt", "+cf", tls / "ca.crt")

    def send(paths: Sequence[Path]) -> list[Path]:
        said = _run(
            *("storescu", "-v", "-to", "10", "-td", "20", *secure),
            *("-aet", CALLING, "-aec", CALLED, "127.0.0.1", str(port), *paths),
        )
        left, last = list(paths), Path()
        for line in said.splitlines():
            if (found := re.search(r"Sending file: (.+)$", line)) is not None:
                last = Path(found.group(1))
            elif "Received Store Response (Success)" in line:
                left.remove(last)
        return left

    return send


def dcmjs(port: int, npm: Path) -> Modality:
    """dcmjs-dimse, a stack that is neither DCMTK's nor the one that the receiver is built on."""

    script = npm / "modality.cjs"
    script.write_text(_DCMJS)

    def send(paths: Sequence[Path]) -> list[Path]:
        said = _run("node", script, str(port), CALLED, CALLING, *paths)
        acknowledged = set(json.loads(said.strip().splitlines()[-1]))
        return [path for path in paths if str(path) not in acknowledged]

    return send
