"""One exchange with an address that a person of a site chose: to no inner address, within one deadline."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from store.base.deadline import Deadline


class Refused(Exception):
    """The address is not one that the service goes to; trying again would not help."""


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
_6TO4_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")


def is_public(text: str) -> bool:
    """Tell whether an address lies in the public internet, whatever form it has.

    Several forms of IPv6 address carry an IPv4 address, to which a gateway or the system itself leads: mapped
    ones and those of NAT64 (RFC 6052) count as what they carry; 6to4, Teredo, ISATAP and the old compatible
    form are no longer used by servers, and refused. A network's own NAT64 prefix cannot be recognised.
    """
    ip = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped or ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        isatap = int(ip) >> 32 & 0xFDFFFFFF == 0x00005EFE
        if ip not in _UNICAST or ip.sixtofour or ip.teredo or isatap:
            return False
    elif ip in _6TO4_RELAYS:
        return False
    return ip.is_global and not ip.is_multicast


def look_up(host: str, port: int, deadline: Deadline) -> list[str]:
    """Return the addresses of a name, within the deadline: the C library alone may wait for a minute.

    Raises
    ------
    OSError
        The name has none, or its servers do not answer.
    """
    found: list[str] = []
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            found.extend(
                dict.fromkeys(
                    str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                )
            )
        except (OSError, UnicodeError) as error:
            failed.append(error)

    thread = threading.Thread(target=ask, name="look-up", daemon=True)
    thread.start()
    thread.join(deadline.left)
    if thread.is_alive():
        raise TimeoutError("the name was not found in time")
    if failed:
        raise failed[0]
    return found


def connect(addresses: Sequence[str], port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address that answers; each one gets its share of the time that is left.

    Raises
    ------
    OSError
        None answers; the last one's error.
    """
    last: OSError = ConnectionError("the name has no address")
    for n, address in enumerate(addresses):
        try:
            left = deadline.left
            sock = socket.create_connection((address, port), left / (len(addresses) - n))
        except OSError as error:
            last = error
            continue
        sock.settimeout(deadline.left)
        deadline.watch(sock)
        return sock
    raise last


def _vetted(host: str, port: int, deadline: Deadline, *, allow_private: bool) -> list[str]:
    """Return the addresses of `host`. Raises `Refused` if any of them is an inner one."""
    try:
        addresses = look_up(host, port, deadline)
    except UnicodeError:
        raise Refused("the name is not one") from None
    for address in addresses:
        if not allow_private and not is_public(address):
            raise Refused("the address lies in a private network, which this server's settings do not allow")
    return addresses


def post(url: str, body: bytes, headers: Mapping[str, str], *, timeout: float, allow_private: bool) -> int:
    """Send one POST and return the status; redirects are not followed.

    The name is looked up once, and the connection goes to an address that was vetted: a name that changes
    its mind in between leads nowhere else. Plain HTTP is for private networks only.

    Parameters
    ----------
    timeout
        Seconds for all of it: looking up, connecting, sending, and the answer.

    Raises
    ------
    Refused
        The address is not allowed.
    OSError
        Nobody answers, or not in HTTP, or not in time.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise Refused("the port is not one") from None
    if parts.scheme not in ({"https", "http"} if allow_private else {"https"}) or not parts.hostname:
        raise Refused("the address must begin with https://")
    if parts.username is not None or parts.password is not None:
        raise Refused("the address must hold no password")
    with Deadline(timeout) as deadline:
        addresses = _vetted(parts.hostname, port, deadline, allow_private=allow_private)
        connection = http.client.HTTPConnection(parts.hostname, port)
        connection.auto_open = False  # type: ignore[assignment]
        connection.sock = connect(addresses, port, deadline)
        try:
            if parts.scheme == "https":
                context = ssl.create_default_context()
                connection.sock = context.wrap_socket(
                    connection.sock, server_hostname=parts.hostname, do_handshake_on_connect=False
                )
                deadline.watch(connection.sock)
                connection.sock.do_handshake()
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", target, body, {**headers, "Host": parts.netloc})
            return connection.getresponse().status
        except http.client.HTTPException as error:
            raise ConnectionError(type(error).__name__) from error
        finally:
            connection.close()
