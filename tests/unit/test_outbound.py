"""Notices go to no inner address, in whatever form it is written."""

from __future__ import annotations

import pytest

from worker.base.outbound import is_public

INNER = {
    "loopback": "127.0.0.1",
    "private": "10.0.0.8",
    "link-local": "169.254.169.254",
    "shared": "100.64.0.1",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "this host": "0.0.0.0",
    "a 6to4 relay": "192.88.99.1",
    "loopback 6": "::1",
    "unspecified 6": "::",
    "mapped": "::ffff:127.0.0.1",
    "compatible": "::127.0.0.1",
    "translated": "::ffff:0:127.0.0.1",
    "NAT64": "64:ff9b::127.0.0.1",
    "NAT64 to a private network": "64:ff9b::10.0.0.8",
    "NAT64 of a network": "64:ff9b:1::7f00:1",
    "6to4": "2002:7f00:1::",
    "6to4 to the internet": "2002:5db8:d822::1",
    "Teredo": "2001:0:5db8:d822::80ff:fffe",
    "ISATAP": "2a00:1450::5efe:127.0.0.1",
    "unique local": "fd00::1",
    "link-local 6": "fe80::1%eth0",
    "site-local": "fec0::1",
    "multicast 6": "ff02::1",
    "documentation": "2001:db8::1",
    "discard": "100::1",
}


@pytest.mark.parametrize("address", INNER.values(), ids=INNER.keys())
def test_inner_addresses_are_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2a00:1450:4001:82f::200e", "64:ff9b::93.184.216.34"])
def test_public_addresses_are_not(address: str) -> None:
    assert is_public(address)
