"""dcmjs-dimse, a DICOM stack that is neither DCMTK's nor the one that the receiver is built on."""

from __future__ import annotations

import json

import pytest

from tests.interop.conftest import CALLED, CALLING, Receiver, arrived, film
from tests.npm import npm_folder, run_script

pytestmark = pytest.mark.faults  # packages from npm

_SEND = """
const {Client, requests, constants, Dataset} = require("dcmjs-dimse");
const dcmjsDimse = require("dcmjs-dimse");
dcmjsDimse.log.level = "error";
const [port, called, calling, ...paths] = process.argv.slice(2);
const client = new Client();
const told = [];
const echo = new requests.CEchoRequest();
echo.on("response", (response) => told.push(["echo", response.getStatus()]));
client.addRequest(echo);
for (const path of paths) {
  const store = new requests.CStoreRequest(path);
  store.on("response", (response) => told.push(["store", response.getStatus()]));
  client.addRequest(store);
}
const end = (word) => { told.push([word, 0]); console.log(JSON.stringify(told)); process.exit(0); };
client.on("associationRejected", () => end("rejected"));
client.on("associationReleased", () => end("released"));
client.on("networkError", (error) => { console.error(error); process.exit(1); });
client.send("127.0.0.1", Number(port), calling, called);
"""


def test_a_third_stack_sends_and_is_understood(receiver: Receiver, pytestconfig: pytest.Config) -> None:
    folder = npm_folder(pytestconfig, "dcmjs-dimse@0.3.3")
    files = receiver.files(film("one", 1), film("one", 2), film("two", 1), film("one", 1))

    def send(called: str) -> list[tuple[str, int]]:
        said = run_script(folder, _SEND, str(receiver.port), called, CALLING, *files)
        return [(word, status) for word, status in json.loads(said.strip().splitlines()[-1])]

    assert send(CALLED) == [("echo", 0), *[("store", 0)] * 4, ("released", 0)]
    assert sorted(batch.n_total for _, batch in arrived()) == [1, 2]
    assert send("NOBODY") == [("rejected", 0)]
