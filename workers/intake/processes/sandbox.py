"""The sandbox of a decoding child, which only computes.

An image that takes over its decoder can do everything that the process can. So a child holds no secret and no
descriptor but its own socket, and renounces files, sockets, new processes and threads, and access to other processes.
Each layer works without the others: Landlock (Linux 5.13) forbids the file system, binding and connecting; seccomp
forbids every system call that a decoder does not make.

A forbidden call fails with EPERM and does not kill, because libraries make calls that they don't need, and no image
must be blamed for that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable
from typing import Final

PROTECTIONS: Final = ("Landlock", "seccomp")
"""Optional protections; every supported Linux has the others."""

_libc = ctypes.CDLL(None, use_errno=True)

# prctl(2), capset(2)
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

# landlock(7); the numbers are the same on every architecture.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of rights to the file system by version of the ABI; versions 6 and 7 add no right."""
_LANDLOCK_NET_RIGHTS, _LANDLOCK_SCOPES = 2, 2
"""Bind and connect by TCP, since version 4; abstract sockets of others and signals to others, since version 6."""

# seccomp(2) and its filters: struct sock_filter, and the offsets in struct seccomp_data.
_FILTER = struct.Struct("=HBBI")
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM

_ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""By machine: its column below, and the kernel's AUDIT_ARCH of it."""

CALLS: Final = {
    # memory; without mremap, which extends a mapping of shared memory (realloc copies instead)
    "brk": (12, 214),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    # the socket, and the numbers of our own memory
    "close": (3, 57),
    "pread64": (17, 67),
    "read": (0, 63),
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "write": (1, 64),
    # locks, time, chance, signals to ourselves
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "futex": (202, 98),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "sigaltstack": (131, 132),
    # the end
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""Calls that stay allowed, by their numbers on x86_64 and aarch64."""

CALLS_ON_OURSELVES: Final = {"kill": (62, 129), "prlimit64": (302, 261), "tgkill": (234, 131)}
"""Allowed where the first argument names our own process: an abort, and a limit lowered for one image."""


def close_off(keep: Iterable[int], *, stderr: int, address_bytes: int) -> tuple[str, ...]:
    """Enter the sandbox; no process can leave it.

    Import, open and map everything that is needed later before.

    Args:
        keep: descriptors that stay open, above 2. Standard input and output become /dev/null.
        stderr: becomes standard error.
        address_bytes: the limit of addresses (private and shared memory) of this process.

    Returns:
        the PROTECTIONS that this kernel lacks.

    Raises:
        OSError: the kernel refused a protection that every Linux has.
    """
    _close_all_but(keep, stderr)
    harden()
    landlock = _landlock()
    _limit(address_bytes)
    _drop_capabilities()
    applied = {"Landlock": landlock, "seccomp": _seccomp()}
    return tuple(name for name in PROTECTIONS if not applied[name])


def harden() -> None:
    """Set no new privileges and no dump."""
    os.environ.clear()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # no core, and no access to /proc/self for our other processes
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _close_all_but(keep: Iterable[int], stderr: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard, stream in enumerate((nothing, nothing, stderr)):
        os.dup2(stream, standard)
    first = 3
    for kept in [*sorted(keep), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(first, kept)
        first = kept + 1


def _limit(address_bytes: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, address_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NOFILE, 0),  # of new ones; open ones stay
        (resource.RLIMIT_NPROC, 0),  # threads count as well
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _drop_capabilities() -> None:
    """Drop root's capabilities: the limits above would not hold a process that has them."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)) != 0:
        raise _last_error("capset")


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise _last_error(f"prctl {option}")


def _landlock() -> bool:
    """Deny every right that Landlock knows; False: this kernel lacks Landlock."""
    create = _LANDLOCK_CREATE_RULESET
    version = _libc.syscall(create, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return False
    files = (1 << _LANDLOCK_FS_RIGHTS[min(version, 5)]) - 1
    rules = struct.pack("=Q", files)
    if version >= 4:
        rules += struct.pack("=Q", (1 << _LANDLOCK_NET_RIGHTS) - 1)
    if version >= 6:
        rules += struct.pack("=Q", (1 << _LANDLOCK_SCOPES) - 1)
    ruleset = _libc.syscall(create, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        raise _last_error("landlock_create_ruleset")
    try:
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
            raise _last_error("landlock_restrict_self")
    finally:
        os.close(ruleset)
    return True


def _seccomp() -> bool:
    """Install the filter of system calls; False: this kernel or machine lacks it."""
    if platform.machine() not in _ARCHITECTURES:
        return False
    program = _program(*_ARCHITECTURES[platform.machine()], os.getpid())
    instructions = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HP", len(program) // _FILTER.size, ctypes.addressof(instructions))
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described, 0, 0) == 0)


def _program(column: int, architecture: int, pid: int) -> bytes:
    """Allow the calls above; refuse all others, and every call in another architecture's numbers."""
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for numbers in CALLS.values():
        program += [(_IF_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    for numbers in CALLS_ON_OURSELVES.values():
        program += [
            (_IF_EQUAL, 0, 5, numbers[column]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_IF_EQUAL, 1, 0, 0 if numbers == CALLS_ON_OURSELVES["prlimit64"] else pid),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _REFUSE),
        ]
    program.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(_FILTER.pack(*instruction) for instruction in program)


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
