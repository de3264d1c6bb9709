"""A real web server, for the tests that start a client outside the checkout."""

from tests.web.serving import serving, site_key

__all__ = ["serving", "site_key"]
