"""What Linux offers to hold a process that decodes strangers' bytes: limits, seccomp, Landlock, namespaces.

Each layer is used where the kernel has it; `fractureai doctor` and the worker's log say which ones hold.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from ctypes.util import find_library

_libc = ctypes.CDLL(None, use_errno=True)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

# the same numbers on every architecture (they are newer than the common table)
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_VERSION = 1
#: Rights over files known to each version of Landlock (linux/landlock.h): 13 at first, then one or none each.
_LANDLOCK_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_LANDLOCK_FILE_RIGHTS_NOW = 16

_SECCOMP_ALLOW = 0x7FFF0000
_SECCOMP_ERRNO = 0x00050000
_SECCOMP_MASKED_EQUAL = 7
_PROT_EXEC = 4

#: All that decoding takes: memory, clocks, and the files and the socket that the process was given.
#: No file is opened, no process or socket made, no signal sent, no limit raised.
SYSTEM_CALLS = (
    "read", "readv", "pread64", "write", "writev", "pwrite64", "lseek", "close", "fstat", "ftruncate",
    "recvmsg", "recvfrom", "sendmsg", "sendto", "poll", "ppoll", "select", "pselect6",
    "brk", "munmap", "mremap", "madvise",
    "futex", "sched_yield", "sched_getaffinity", "rseq", "membarrier",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall",
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time",
    "getpid", "gettid", "getrandom", "getrusage",
    "exit", "exit_group",
)  # fmt: skip
#: Allowed where they do not make memory executable: the position of their `prot`.
_MAPPING_CALLS = {"mmap": 2, "mprotect": 2}


class _Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp` of libseccomp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


class SystemCallFilter:
    """A seccomp filter that allows `SYSTEM_CALLS`, made by libseccomp; all others answer EPERM.

    Raises
    ------
    OSError
        libseccomp is not installed, or is too old.
    """

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(find_library("seccomp") or "libseccomp.so.2")
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._lib.seccomp_init.argtypes = (ctypes.c_uint32,)
        self._lib.seccomp_load.argtypes = (ctypes.c_void_p,)
        self._lib.seccomp_rule_add_array.argtypes = (
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_void_p,
        )
        self._filter = self._lib.seccomp_init(_SECCOMP_ERRNO | errno.EPERM)
        if not self._filter:
            raise OSError("seccomp_init failed")
        for name in SYSTEM_CALLS:
            self._allow(name)
        for name, position in _MAPPING_CALLS.items():
            self._allow(name, _Comparison(position, _SECCOMP_MASKED_EQUAL, _PROT_EXEC, 0))

    def _allow(self, name: str, *comparisons: _Comparison) -> None:
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # not on this architecture
            return
        array = (_Comparison * len(comparisons))(*comparisons)
        if self._lib.seccomp_rule_add_array(self._filter, _SECCOMP_ALLOW, number, len(comparisons), array):
            raise OSError(f"seccomp has no rule for {name}")

    def apply(self) -> None:
        """Put this process under the filter, for good.

        Raises
        ------
        OSError
            The kernel refused.
        """
        if code := self._lib.seccomp_load(self._filter):
            raise OSError(-code, "seccomp_load")


def leave_network() -> bool:
    """Move into a network and IPC namespace of its own, without any interface; tell whether it was possible.

    Only a process of one thread can. It keeps its user id and loses every capability over what lies outside.
    """
    return int(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC)) == 0


def drop_privileges() -> None:
    """Never gain privileges again, not even by a set-uid program; leave no core dumps."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def close_file_system() -> int:
    """Take away every right to open, make or remove files (Landlock); return its version, 0 where absent."""
    version = int(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION))
    if version < 1:
        return 0
    files = (1 << _LANDLOCK_FILE_RIGHTS.get(version, _LANDLOCK_FILE_RIGHTS_NOW)) - 1
    network = 0b11 if version >= 4 else 0  # bind and connect TCP
    scoped = 0b11 if version >= 6 else 0  # abstract sockets and signals
    rights = (ctypes.c_uint64 * 3)(files, network, scoped)
    size = 8 * (1 + (version >= 4) + (version >= 6))
    ruleset = int(_libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(rights), size, 0))
    if ruleset < 0:
        return 0
    held = _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return version if held else 0


def die_with_parent() -> None:
    """Be killed when the process that forked this one ends."""
    parent = os.getppid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def be_killed_first() -> None:
    """When the machine runs out of memory, offer this process to the kernel before the worker."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        return  # a container may hide it


def keep_freed_memory() -> None:
    """Let this process reuse what it has freed, up to half a gibibyte, instead of giving it back each time.

    Taking fresh pages for every picture's arrays costs as much as decoding some of them (mallopt(3)).
    """
    _libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    _libc.mallopt(_M_TRIM_THRESHOLD, 512 << 20)


def mapped_bytes() -> int:
    """Return how much address space this process has mapped."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def limit(*, address_space: int, file_size: int, files: int) -> None:
    """Bound this process for good: bytes of address space and of a file that it writes, and open files."""
    for kind, most in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, files),
    ):
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))
