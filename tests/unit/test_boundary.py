"""Every error of the command line is a sentence with an exit code; exit 1 is kept for images."""

from __future__ import annotations

import ast
import http.server
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import certifi
import click
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.exc import ArgumentError, OperationalError

from cli.client import Client, ServerUnreachable, UsageProblem, require_plain
from cli.main import LazyGroup
from models.scorer import ScorerError
from settings import SettingsError
from tests.conftest import ROOT


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, BaseException]:
    """The group with one command, which raises what the test puts under "error"."""
    raised: dict[str, BaseException] = {}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def fail() -> None:
        raise raised["error"]

    command = click.Command("fail", callback=fail)
    monkeypatch.setattr(LazyGroup, "get_command", lambda self, ctx, name: command)
    return raised


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(13, "Permission denied", "/x"), 2, "Permission denied: /x"),
        (RuntimeError("Could not determine home directory."), 2, "no home folder"),
        (ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow"), 2, "'tensorflow'"),
        (sqlite3.OperationalError("database or disk is full"), 70, "disk is full"),
        (OperationalError("select 1", {}, Exception("connection refused\nmore")), 3, "connection refused."),
        (ArgumentError("Could not parse SQLAlchemy URL"), 3, "Could not parse"),
        (SettingsError("chunk_size must be 1 to 64"), 2, "chunk_size must be 1 to 64"),
        (ScorerError("converting b1 took longer than 9 s"), 70, "converting b1 took longer than 9 s"),
        (KeyError("patient.png"), 70, "failed (KeyError)"),
    ],
)
def test_each_kind_of_error_is_told(
    failing: dict[str, BaseException], tmp_path: Path, error: Exception, code: int, said: str
) -> None:
    failing["error"] = error
    done = CliRunner().invoke(LazyGroup("fractureai"), ["fail"])
    assert done.exit_code == code
    assert said in done.output
    assert "Traceback" not in done.output
    log = tmp_path / "fractureai" / "errors.log"
    assert log.exists() == (type(error) is KeyError)
    if log.exists():
        assert "in fail" in log.read_text()
        assert "patient" not in log.read_text()


def test_no_command_ends_as_if_images_had_been_rejected() -> None:
    """click's own exception ends with 1, which says that some images were rejected."""
    for path in (ROOT / "cli").glob("*.py"):
        raised = [node.exc for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)]
        assert not [each for each in raised if "ClickException" in ast.unparse(each or ast.Constant(0))], path


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"TLS_CERT": "/nowhere"}, "go together"),
        ({"TLS_CERT": "/nowhere", "TLS_KEY": "/nowhere", "TLS_CA": "/nowhere"}, "cannot be used"),
        ({"HOST": "192.0.2.1"}, "Cannot listen on 192.0.2.1"),
        ({"ASSOCIATIONS": "0"}, "must be at least 1"),
    ],
)
def test_a_receiver_that_cannot_start_says_why(settings: dict[str, str], said: str) -> None:
    servers = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x",
        "BROKER_URL": "redis://127.0.0.1:1/0",
        "BLOB_URL": "file:///nowhere",
        "SECRET_KEY": "x" * 40,
        **{f"GATEWAY_{name}": value for name, value in settings.items()},
    }
    done = run("gateway", **{f"FRACTUREAI_{name}": value for name, value in servers.items()})
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "FRACTUREAI_API_KEY": "k", **environment},
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        ({"FRACTUREAI_URL": "http://hospital.example", "ALL_PROXY": "socks5://127.0.0.1:9"}, 2, b"socksio"),
        ({"FRACTUREAI_URL": "http://hospital.example", "ALL_PROXY": "ftp://127.0.0.1:9"}, 2, b"proxy"),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, 2, b"SSL_CERT_FILE"),
        ({"FRACTUREAI_API_KEY": "schlüssel"}, 2, b"beyond ASCII"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named(
    environment: dict[str, str], code: int, said: bytes
) -> None:
    done = run("status", **environment)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_what_a_terminal_of_latin_1_cannot_show_is_escaped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "骨.png")
    done = run("submit", str(tmp_path), PYTHONIOENCODING="latin-1")
    assert done.returncode == 2, done.stderr
    assert b"\\u9aa8.png" in done.stdout
    assert b"There are no files to send" in done.stderr


def test_a_disk_that_is_full_is_told() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "--version"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
        assert done.returncode not in {0, 1}
    done = run("doctor", "--help")
    assert done.returncode == 0


@pytest.mark.parametrize("kind", ["link", "fifo", "device", "folder"])
def test_out_never_writes_through_what_is_no_file(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out.zip"
    match kind:
        case "link":
            (tmp_path / "elsewhere").write_text("kept")
            target.symlink_to(tmp_path / "elsewhere")
        case "fifo":
            os.mkfifo(target)
        case "device":
            target = Path("/dev/null")
        case "folder":
            target.mkdir()
    before = target.lstat().st_mode
    with pytest.raises(UsageProblem):
        require_plain(target)
    with Client("http://127.0.0.1:9", "k") as client, pytest.raises(UsageProblem):
        client.download("/x", target)
    assert target.lstat().st_mode == before
    require_plain(tmp_path / "new.zip")


# A server whose certificate comes from an authority of its own


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hospital")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    authority = tmp_path / "authority.pem"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + authority.read_bytes()
    )

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"items": []}')

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", authority
    server.shutdown()
    server.server_close()


def test_a_certificate_that_is_not_trusted_is_named_and_an_own_authority_counts(
    tls_server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, authority = tls_server
    with Client(url, "k") as client, pytest.raises(ServerUnreachable, match="SSL_CERT_FILE"):
        client.bundles()  # at once, and not after a minute
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with Client(url, "k") as client:
        assert client.bundles() == []


def test_an_authority_that_changes_while_a_command_runs_is_learned(
    tls_server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, authority = tls_server
    named = tmp_path / "named.pem"
    named.write_bytes(Path(certifi.where()).read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(named))
    with Client(url, "k") as client:
        with pytest.raises(ServerUnreachable, match="SSL_CERT_FILE"):
            client.bundles()
        named.write_bytes(authority.read_bytes())
        with pytest.raises(ServerUnreachable):  # which makes it look
            client.bundles()
        assert client.bundles() == []


# Patience


def test_patience_counts_from_the_break_and_a_download_goes_on(tmp_path: Path) -> None:
    whole = os.urandom(3_000_000)
    ranges: list[str | None] = []

    class Breaking(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ranges.append(self.headers["Range"])
            start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else 200)
            self.send_header("ETag", '"one"')
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(whole) - start))
            self.end_headers()
            for _ in range(5):  # longer than the patience, and broken off before the end
                self.wfile.write(whole[start : start + 100_000])
                self.wfile.flush()
                start += 100_000
                threading.Event().wait(0.15)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Breaking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    target = tmp_path / "results.zip"
    with Client(f"http://127.0.0.1:{server.server_port}", "k", patience=0.5) as client:
        client.download("/exports/1/file", target)
    server.shutdown()
    server.server_close()
    assert target.read_bytes() == whole
    assert ranges[0] is None
    assert all(ranges[1:])


def test_an_upload_that_is_cut_after_the_patience_is_sent_again() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[int] = []

    def serve() -> None:
        for _ in range(3):
            near, _ = listener.accept()
            with near:
                got = len(near.recv(1 << 16))
                if len(seen) < 2:
                    threading.Event().wait(1.0)  # longer than the patience, then the line breaks
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                else:
                    near.settimeout(0.5)
                    try:
                        while piece := near.recv(1 << 16):
                            got += len(piece)
                    except TimeoutError:
                        pass
                    near.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + b'{"files":[]}')
                seen.append(got)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    sent = 0

    class Body:
        def __init__(self) -> None:
            self.left = 20_000_000

        def read(self, size: int = -1) -> bytes:
            nonlocal sent
            piece = b"x" * min(self.left, size if size > 0 else self.left, 1 << 16)
            self.left -= len(piece)
            sent += len(piece)
            return piece

    port = listener.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", "k", patience=2.0) as client:
        answer = client.send_files("b", lambda opened: [("files", ("a.png", Body()))], lambda: sent)
    thread.join(10)
    listener.close()
    assert answer == {"files": []}
    assert len(seen) == 3
