"""Sealed identity: what a returned object needs of its patient, for nobody but the holder of a private key.

X25519 (RFC 7748) with a fresh key for each envelope, HKDF-SHA-256 (RFC 5869), AES-256-GCM. An envelope is
bound to its site, study and image: moved to another one it does not open.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.dicom.elements import HeaderUnreadable, cut_out, split_file
from store.accounts.accounts import write_audit
from store.intake.gateway_tables import EnvelopeKey

_MAGIC = b"FAE1"
_KEY_ID, _PUBLIC = 8, 32
_INFO = b"fractureai envelope 1"

#: What is sealed, with the value representation of each (PS3.6): patient, study, and whose picture it is.
ELEMENTS: Mapping[int, str] = {
    0x00080005: "CS",  # Specific Character Set, in which the others are written
    0x00080016: "UI",
    0x00080018: "UI",
    0x00080020: "DA",
    0x00080030: "TM",
    0x00080050: "SH",  # Accession Number
    0x00080060: "CS",
    0x00080090: "PN",  # Referring Physician's Name
    0x00081030: "LO",  # Study Description
    0x00100010: "PN",  # Patient's Name
    0x00100020: "LO",  # Patient ID
    0x00100021: "LO",  # Issuer of Patient ID
    0x00100030: "DA",
    0x00100040: "CS",
    0x00180015: "CS",
    0x0020000D: "UI",
    0x0020000E: "UI",
    0x00200010: "SH",  # Study ID
    0x00200013: "IS",
    0x00200020: "CS",  # Patient Orientation
    0x00200060: "CS",
    0x00200062: "CS",
}


class EnvelopeUnreadable(Exception):
    """The envelope was sealed to another key or for another image, or was altered."""


@dataclass(frozen=True)
class Binding:
    """To what an envelope belongs."""

    site_id: uuid.UUID
    study_uid: str
    image_id: uuid.UUID

    @property
    def bytes(self) -> bytes:
        """As associated data."""
        return f"{self.site_id}|{self.study_uid}|{self.image_id}".encode()


def key_id_of(public: bytes) -> str:
    """Return the name of a key pair."""
    return hashlib.sha256(public).hexdigest()[: 2 * _KEY_ID]


def _cipher(shared: bytes, ephemeral: bytes, recipient: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=ephemeral + recipient, info=_INFO).derive(shared))


def seal(public: bytes, plain: bytes, binding: Binding) -> bytes:
    """Seal bytes to a public key. The key of the cipher is used once, so that its nonce may be zero."""
    ephemeral = X25519PrivateKey.generate()
    ours = ephemeral.public_key().public_bytes_raw()
    cipher = _cipher(ephemeral.exchange(X25519PublicKey.from_public_bytes(public)), ours, public)
    sealed = cipher.encrypt(bytes(12), plain, binding.bytes)
    return _MAGIC + bytes.fromhex(key_id_of(public)) + ours + sealed


def sealed_to(sealed: bytes) -> str:
    """Return the name of the key pair to which an envelope is sealed. Raises `EnvelopeUnreadable`."""
    if not sealed.startswith(_MAGIC) or len(sealed) < len(_MAGIC) + _KEY_ID + _PUBLIC + 16:
        raise EnvelopeUnreadable
    return sealed[len(_MAGIC) :][:_KEY_ID].hex()


def open_sealed(private: bytes, sealed: bytes, binding: Binding) -> bytes:
    """Return what an envelope holds. Raises `EnvelopeUnreadable`."""
    sealed_to(sealed)
    at = len(_MAGIC) + _KEY_ID
    theirs, cipher_text = sealed[at : at + _PUBLIC], sealed[at + _PUBLIC :]
    key = X25519PrivateKey.from_private_bytes(private)
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(theirs))
        cipher = _cipher(shared, theirs, key.public_key().public_bytes_raw())
        return cipher.decrypt(bytes(12), cipher_text, binding.bytes)
    except (InvalidTag, ValueError):
        raise EnvelopeUnreadable from None


def identity_of(data: bytes) -> bytes | None:
    """Return the elements of a DICOM file that are sealed, as a data set (Explicit VR Little Endian).

    None where the bytes are no such file.
    """
    try:
        found = split_file(data)
        return cut_out(found.dataset, found.syntax, ELEMENTS)
    except HeaderUnreadable:
        return None


# keys


def add_key(
    session: Session, site_id: uuid.UUID, public: bytes, *, by: uuid.UUID | None = None
) -> EnvelopeKey:
    """Seal a site's identities to this key from now on; what was sealed before needs the earlier one."""
    key = EnvelopeKey(key_id=key_id_of(public), site_id=site_id, public_key=base64.b64encode(public).decode())
    session.add(key)
    session.flush()
    write_audit(session, site_id, by, "envelope_key_added", site_id, key=key.key_id)
    return key


def current_key(session: Session, site_id: uuid.UUID) -> bytes | None:
    """Return the public key to which a site's identities are sealed; None where it has none."""
    query = select(EnvelopeKey.public_key).where(EnvelopeKey.site_id == site_id)
    text = session.scalar(query.order_by(EnvelopeKey.created_at.desc(), EnvelopeKey.key_id).limit(1))
    return base64.b64decode(text) if text else None
