"""The receiver with TLS: whoever has no certificate of ours is not even heard."""

from __future__ import annotations

import datetime
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import Engine

from interop.gateway import tls_context
from settings import SettingsError, from_environ
from store.base.session import session_scope
from store.intake import gateway_peers
from tests.interop.conftest import CALLED, CALLING, Receiver, arrived, film, receiving


def _name(said: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, said)])


def _write(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def make_certificates(folder: Path, *names: str) -> None:
    """Write an authority (``ca``), and certificates of it for each name."""
    folder.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)

    def build(subject: str, public: ec.EllipticCurvePublicKey, *, authority: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name("ca"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
        )

    root = ec.generate_private_key(ec.SECP256R1())
    _write(folder, "ca", root, build("ca", root.public_key(), authority=True).sign(root, hashes.SHA256()))
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        signed = build(name, key.public_key(), authority=False).sign(root, hashes.SHA256())
        _write(folder, name, key, signed)


@pytest.fixture
def secured(
    database: Engine, site: uuid.UUID, settings_env: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Receiver]:
    make_certificates(tmp_path / "tls", "receiver", "modality")
    make_certificates(tmp_path / "others", "stranger")
    with session_scope() as session:
        gateway_peers.set_site(session, site, ae_title=CALLED)
        gateway_peers.allow(session, site, CALLING, ["127.0.0.1"])
    tls = tmp_path / "tls"
    files = {"CERT": tls / "receiver.crt", "KEY": tls / "receiver.key", "CA": tls / "ca.crt"}
    with receiving(settings_env, tmp_path, **{f"TLS_{k}": str(v) for k, v in files.items()}) as found:
        yield found


def _options(tmp_path: Path, folder: str, name: str) -> tuple[str, ...]:
    own = tmp_path / folder
    return (
        "+tls",
        str(own / f"{name}.key"),
        str(own / f"{name}.crt"),
        "+cf",
        str(tmp_path / "tls" / "ca.crt"),
    )


def test_a_client_with_a_certificate_is_let_in_and_no_other(secured: Receiver, tmp_path: Path):
    assert secured.send(film("one")).returncode != 0
    assert secured.send(film("one"), options=_options(tmp_path, "others", "stranger")).returncode != 0
    assert not arrived()
    done = secured.send(film("one"), options=_options(tmp_path, "tls", "modality"))
    assert done.returncode == 0, done.stderr
    assert len(arrived()) == 1


def test_who_never_shakes_hands_keeps_nobody_waiting(secured: Receiver, tmp_path: Path):
    lines = [socket.create_connection(("127.0.0.1", secured.port)) for _ in range(5)]
    began = time.monotonic()
    assert secured.send(film("one"), options=_options(tmp_path, "tls", "modality")).returncode == 0
    assert time.monotonic() - began < 9  # less than one handshake may take
    for line in lines:
        line.close()


def test_certificates_come_whole(tmp_path: Path):
    with pytest.raises(SettingsError, match="go together"):
        tls_context(from_environ({"FRACTUREAI_GATEWAY_TLS_CERT": "a"}))
    named = {f"FRACTUREAI_GATEWAY_TLS_{name}": str(tmp_path / "none") for name in ("CERT", "KEY", "CA")}
    with pytest.raises(SettingsError, match="cannot be used"):
        tls_context(from_environ(named))
