"""A network of hosts, each a namespace of its own: ``python -m tests.faults.network HOST=ADDRESS,MS ...``.

Each host has one link, a TUN device, whose packets pass through this process: it delays them, loses some, and
cuts a link when it is told to (``cut HOST`` and ``heal HOST`` on its standard input). For kernels without
netem, and the same everywhere. A name that begins with ``@`` is a link into the namespace in which this runs.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 9000
#: Packets that each link loses, each way.
LOSS = 0.01
libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Link:
    """A host's way to all others."""

    descriptor: int
    delay: float  # seconds, each way
    up: bool = True


def _enter(namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def open_link(name: str, address: str) -> int:
    """Make a host's device, in its namespace; the descriptor works from here."""
    own = name.startswith("@")
    device = name[1:] if own else "net0"
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    if not own:
        there = os.open(f"/run/netns/{name}", os.O_RDONLY)
        _enter(there)
        os.close(there)
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
        for command in (
            f"ip addr add {address}/24 dev {device}",
            f"ip link set {device} mtu {MTU} up",
            "ip link set lo up",
        ):
            subprocess.run(command.split(), check=True)
    finally:
        _enter(here)
        os.close(here)
    return descriptor


class Network:
    """All links, and the packets on their way."""

    def __init__(self, hosts: dict[str, tuple[str, float]], seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.links = {name: Link(open_link(name, address), delay) for name, (address, delay) in hosts.items()}
        self.by_address = {
            socket.inet_aton(address): self.links[name] for name, (address, _) in hosts.items()
        }
        self.on_the_way: list[tuple[float, int, Link, bytes]] = []
        self.number = 0

    def take(self, link: Link) -> None:
        """Take the packets that a host sends."""
        while True:
            try:
                packet = os.read(link.descriptor, MTU + 100)
            except BlockingIOError:
                return
            target = self.by_address.get(packet[16:20])
            if target is None or packet[0] >> 4 != 4 or not (link.up and target.up):
                continue
            if self.random.random() < LOSS or self.random.random() < LOSS:
                continue
            self.number += 1
            due = time.monotonic() + link.delay + target.delay
            heapq.heappush(self.on_the_way, (due, self.number, target, packet))

    def deliver(self) -> float | None:
        """Deliver what is due; return after how many seconds something will be."""
        while self.on_the_way and self.on_the_way[0][0] <= time.monotonic():
            *_, target, packet = heapq.heappop(self.on_the_way)
            if target.up:
                try:
                    os.write(target.descriptor, packet)
                except OSError:
                    continue  # lost, as on a real line
        return max(0.0, self.on_the_way[0][0] - time.monotonic()) if self.on_the_way else None

    def obey(self, command: str) -> None:
        """Cut a link, or heal it."""
        word, name = command.split()
        self.links[name].up = word == "heal"

    def run(self) -> None:
        """Carry packets until standard input ends."""
        selector = selectors.DefaultSelector()
        for link in self.links.values():
            selector.register(link.descriptor, selectors.EVENT_READ, link)
        selector.register(sys.stdin, selectors.EVENT_READ, None)
        while True:
            for key, _ in selector.select(self.deliver()):
                if key.data is not None:
                    self.take(key.data)
                elif line := sys.stdin.readline():
                    self.obey(line)
                    print(line.strip(), flush=True)
                else:
                    return


if __name__ == "__main__":
    named = dict(argument.split("=") for argument in sys.argv[1:])
    parts = {name: told.split(",") for name, told in named.items()}
    network = Network({name: (address, float(ms) / 1000) for name, (address, ms) in parts.items()})
    print("ready", flush=True)
    network.run()
