"""Every attack, file by file."""

from tests.attacks import access, accounts, connections, decoders, dicom, forms, limits, parameters, webhooks
from tests.attacks.target import ATTACKS

__all__ = [
    "ATTACKS",
    "access",
    "accounts",
    "connections",
    "decoders",
    "dicom",
    "forms",
    "limits",
    "parameters",
    "webhooks",
]
