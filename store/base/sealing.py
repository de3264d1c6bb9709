"""Ciphers for secrets that rows hold: their keys come from the secret key, which is not in the database."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet

from settings import get_settings


def sealer(purpose: bytes) -> Fernet:
    """Return the cipher for one kind of secret."""
    secret = get_settings().require("secret_key").secret_key.encode()
    return Fernet(base64.urlsafe_b64encode(hmac.new(secret, purpose, hashlib.sha256).digest()))
