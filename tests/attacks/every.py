"""Every attack, file by file."""

from tests.attacks import access, accounts, connections, forms, parameters
from tests.attacks.target import ATTACKS

__all__ = ["ATTACKS", "access", "accounts", "connections", "forms", "parameters"]
