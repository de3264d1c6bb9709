"""Every attack, file by file."""

from tests.attacks import connections
from tests.attacks.target import ATTACKS

__all__ = ["ATTACKS", "connections"]
