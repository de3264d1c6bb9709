"""The processes in which files are decoded: a parent that has every codec loaded, and the children it forks.

The parent reads no file's bytes. It forks a child when it is told to, and says how it ended. A child reads
files, one after another, from one descriptor that it was forked with, and writes what it decoded to another.
`pipeline.decode.sandbox` starts them and talks to both; nothing else imports this module.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import sys

import cv2
import numpy as np

from pipeline.decode import confine, picture, samples, wire
from pipeline.decode.complaints import codecs
from pipeline.types import Radiograph, Rejected, Skipped
from vocabulary.reasons import Reason

#: Open files of a child: those it was forked with, and those of one request.
_FILES = 16


def main(control_fd: int) -> None:
    """Fork and reap children as the other end of the socket `control_fd` says, until it closes."""
    control = socket.socket(fileno=control_fd)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever started this decides: its socket closes
    cv2.setNumThreads(1)  # a child can start no thread
    samples.decode_all()  # a child can open no file, hence import nothing
    silence = os.open(os.devnull, os.O_RDWR)
    try:
        system_calls = confine.SystemCallFilter()
    except OSError:
        system_calls = None
    confine.keep_freed_memory()
    mapped = confine.mapped_bytes()
    confine.be_killed_first()
    confine.drop_privileges()
    layers = {
        "seccomp": int(system_calls is not None),
        "network": int(confine.leave_network()),
        "landlock": confine.close_file_system(),
    }
    gc.collect()
    gc.freeze()  # a child would copy every page by looking through it
    control.send(json.dumps(layers).encode())
    while True:
        message, files, *_ = socket.recv_fds(control, wire.MAX_MESSAGE, 3)
        if not message:
            os._exit(0)
        if message[:1] == wire.END:
            (pid,) = struct.unpack("<q", message[1:])
            _, status, used = os.wait4(pid, 0)
            control.send(struct.pack("<qdq", status, used.ru_utime + used.ru_stime, used.ru_maxrss))
            continue
        memory, file_size = struct.unpack("<qq", message[1:])
        pid = os.fork()
        if not pid:
            control.close()
            parent, incoming, outgoing = socket.socket(fileno=files[0]), *files[1:]
            confine.die_with_parent()
            for standard in range(2):
                os.dup2(silence, standard)
            codecs.start()
            confine.limit(address_space=mapped + memory, file_size=file_size, files=_FILES)
            if system_calls is not None:
                system_calls.apply()
            _serve(parent, incoming, outgoing)
        for descriptor in files:
            os.close(descriptor)
        control.send(struct.pack("<q", pid))


def _serve(parent: socket.socket, incoming: int, outgoing: int) -> None:
    """Decode one file after another until the parent closes its end."""
    ended = 1
    try:
        while True:
            message = parent.recv(wire.MAX_MESSAGE)
            if not message:
                ended = 0
                break
            parent.send(wire.ANSWER + _answer(parent, json.loads(message), incoming, outgoing))
    finally:
        os._exit(ended)


def _answer(parent: socket.socket, wanted: dict[str, int], incoming: int, outgoing: int) -> bytes:
    def pseudonymise(identity: str) -> str:
        parent.send(wire.IDENTITY + identity.encode("utf-8", "replace")[: wire.MAX_MESSAGE // 2])
        return parent.recv(wire.MAX_MESSAGE).decode()

    try:
        os.lseek(incoming, 0, os.SEEK_SET)
        with open(incoming, "rb", buffering=0, closefd=False) as file:
            data = file.read(wanted["size"])
        found = picture.decode(
            data,
            max_pixels=wanted["max_pixels"],
            pseudonymise=pseudonymise,
            refuse_burned_in=bool(wanted["refuse_burned_in"]),
            at_full_depth=bool(wanted["at_full_depth"]),
        )
        _write(outgoing, found)
        return wire.answer(found)
    except (Rejected, Skipped) as verdict:
        return wire.answer(verdict)
    except MemoryError:
        return wire.answer(Rejected(Reason.TOO_EXPENSIVE_TO_DECODE, "memory"))
    except Exception as error:
        return wire.failure(error)


def _write(outgoing: int, found: Radiograph) -> None:
    os.lseek(outgoing, 0, os.SEEK_SET)
    for part in (np.ascontiguousarray(found.pixels).data.cast("B"), memoryview(found.stored)):
        rest = part
        while rest:
            rest = rest[os.write(outgoing, rest) :]


if __name__ == "__main__":
    main(int(sys.argv[1]))
