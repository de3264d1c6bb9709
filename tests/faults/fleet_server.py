"""The database or the broker of a host by itself: ``python -m tests.faults.fleet_server KIND HOME ADDRESS``.

The embedded server, made to listen on every address of its host. Prints its addresses as JSON; ends with its
standard input.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from cli.child import Child, stop_all
from cli.embedded import POSTGRES, embedded, postgres_answers, valkey_answers
from tests.running import PATIENCE, wait_for


def open_postgres(child: Child) -> None:
    """Let it be reached from other hosts."""
    assert child.cwd is not None
    with (child.cwd / "pg_hba.conf").open("a") as rules:
        rules.write("host all all samenet scram-sha-256\n")
    child.argv = [part.replace("listen_addresses=127.0.0.1", "listen_addresses=*") for part in child.argv]


def open_valkey(child: Child) -> None:
    """Let it be reached from other hosts."""
    conf = Path(child.argv[1])
    conf.write_text(conf.read_text().replace("bind 127.0.0.1", "bind *"))


def main(kind: str, home: Path, address: str) -> None:
    """Run it."""
    postgres = kind == "postgres"
    with embedded(home, postgres=postgres, valkey=not postgres) as (servers, (child,)):
        stop_all([child], 30)
        (open_postgres if postgres else open_valkey)(child)
        child.start()
        told = {name: url.replace("127.0.0.1", address) for name, url in asdict(servers).items()}
        if postgres:
            wait_for(lambda: postgres_answers(told["database_owner_url"]), PATIENCE, POSTGRES)
        else:
            wait_for(lambda: valkey_answers(told["broker_url"]), PATIENCE, "valkey")
        print(json.dumps(told), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
