"""What the watcher costs while nothing happens: ``python -m bench.watching [--files N] [--polling]``.

A folder of N files that were all filed long ago is watched for S seconds; no server is asked anything.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from cli.client import Client
from cli.local_files import find_files
from cli.submit import SubmitOptions
from cli.watch import Watcher
from cli.watch_journal import FILED, SENDING, Journal

FILES_A_FOLDER = 500


def main() -> None:
    """Print the processor's time in parts of one core, and how long a look takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument(
        "--polling", action="store_true", help="as on a share, where the kernel tells of nothing"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        inbox, out = Path(home, "in"), Path(home, "out")
        for number in range(asked.files):
            folder = inbox / f"{number // FILES_A_FOLDER:04}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:06}.dcm").write_bytes(b"x")
        out.mkdir()
        journal = Journal(out / ".fractureai-watch")
        journal.begin(((file, file.name) for file in find_files([inbox]).files), {})
        for batch in journal.batches(SENDING):
            journal.set_state(batch, FILED)
        with Client("http://127.0.0.1:9", "none", patience=1.0) as client:
            watcher = Watcher(client, journal, inbox, out, SubmitOptions(), settle=5.0, say=print)
            if asked.polling:
                watcher.changes_are_told = False
            started, used, looks = time.monotonic(), time.process_time(), 0
            watcher.look()
            first = time.process_time() - used
            while time.monotonic() - started < asked.seconds:
                time.sleep(watcher.look())
                looks += 1
            took, spent = time.monotonic() - started, time.process_time() - used
        journal.close()
    way = "polling" if asked.polling else "told by the kernel"
    print(
        f"{asked.files} known files, {way}: {100 * spent / took:.2f}% of a core over {took:.0f} s, "
        f"{looks} looks; the first, thorough one took {first:.2f} s of it"
    )


if __name__ == "__main__":
    main()
