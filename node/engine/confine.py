"""What an engine may not do: reach the network, look into the owner's files, write, or take all.

An engine reads weights that strangers made with a million lines of C++, and runs templates that
they wrote. So it is started as if it were the stranger:

- limits          of memory (address space) and open files; no core dump, which would hold prompts
- no new rights   whatever it executes
- seccomp         no socket but Unix ones, and no connection to anybody: it can only be spoken to
- landlock        files are read below the folders that it is given, and written nowhere else;
                  no signal, no debugger and no abstract socket reaches out of it
- or a network namespace of its own, with nothing in it but loopback, for engines whose parts talk
  to each other over TCP

Everything works without root. What a kernel lacks is left out (landlock before Linux 5.13, all of
it but the limits on other systems), with one exception: an engine that is to have no network is
not started where that cannot be had on Linux.

Called between fork() and exec(): knows the standard library only.
"""

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

MAX_OPEN_FILES: Final = 4096
"""File descriptors of an engine: one a connection, one a shard of the weights."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000

# linux/audit.h and the numbers of socket, connect, io_uring_setup (which opens sockets as well).
_SYSCALLS: Final = {
    "x86_64": (0xC000003E, 41, 42, 425),
    "aarch64": (0xC00000B7, 198, 203, 425),
    "riscv64": (0xC00000F3, 198, 203, 425),
}
_X32: Final = 0x40000000  # the other set of numbers that x86_64 has
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_DENY: Final = 0x00050000 | 13  # the call fails with EACCES

# linux/landlock.h. Rights to files, and in which version of landlock they came.
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_ALL_RIGHTS: Final = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: _IOCTL}
_OF_A_FILE: Final = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_SCOPES: Final = 3  # abstract sockets, signals: since version 6


@dataclass(frozen=True, slots=True)
class Confinement:
    """``memory``: bytes of address space, or of data for what reserves much more than it uses.

    ``readable`` and ``writable``: folders and files; ``devices`` may be spoken to as well.
    """

    memory: int | None
    measure: Literal["space", "data"] = "space"
    network: Literal["none", "loopback"] = "none"
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


def confine(rules: Confinement) -> None:
    """Confine this process, for good. OSError if it may not be let loose."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    if not sys.platform.startswith("linux"):
        if rules.memory is not None:
            with suppress(ValueError, OSError):  # macOS has the limit and does not keep it
                _limit(resource.RLIMIT_AS, rules.memory)
        return
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if rules.network == "loopback":
        _own_network()
    _restrict_files(rules)
    if rules.network == "none":
        _forbid_sockets()
    if rules.memory is not None:
        space = rules.measure == "space"
        _limit(resource.RLIMIT_AS if space else resource.RLIMIT_DATA, rules.memory)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent``, whose main thread made it, dies."""
    if sys.platform.startswith("linux"):
        _prctl(_PR_SET_PDEATHSIG, 9)
        if os.getppid() != parent:  # it was quicker
            os._exit(1)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl(option: int, value: int, more: int = 0) -> None:
    words = [ctypes.c_ulong(one) for one in (value, more, 0, 0)]
    _checked(_libc().prctl(option, *words), "prctl")


# --- the network --------------------------------------------------------------------------------


def _forbid_sockets() -> None:
    """Let socket() make Unix sockets only, and connect() none at all."""
    known = _SYSCALLS.get(platform.machine())
    if known is None:
        _own_network()
        return
    arch, make, connect, ring = known
    domain = 16  # where seccomp_data has the low half of the first argument
    program = [
        _load(4), _unless(arch, 8),  # another architecture's calls: killed
        _load(0), _from(_X32, 6),
        _if(connect, 4), _if(ring, 3), _unless(make, 3),
        _load(domain), _if(1, 1),  # AF_UNIX
        _answer(_DENY), _answer(_ALLOW), _answer(_KILL),
    ]  # fmt: skip
    code = b"".join(program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(head))


# Instructions of classic BPF: a jump says how many instructions to leap where the test holds, and
# where it does not.
def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", 0x20, 0, 0, offset)


def _if(value: int, leap: int) -> bytes:
    return struct.pack("=HBBI", 0x15, leap, 0, value)


def _unless(value: int, leap: int) -> bytes:
    return struct.pack("=HBBI", 0x15, 0, leap, value)


def _from(value: int, leap: int) -> bytes:
    return struct.pack("=HBBI", 0x35, leap, 0, value)


def _answer(value: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, value)


def _own_network() -> None:
    """Move into a network of one's own: loopback, up, and nothing else."""
    import fcntl
    import socket

    user, group = os.getuid(), os.getgid()
    libc = _libc()
    if libc.unshare(_CLONE_NEWNET) < 0:  # root may, others need a user namespace for it
        _checked(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET), "unshare")
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        request = struct.pack("16sh14x", b"lo", 1)  # IFF_UP
        fcntl.ioctl(one, 0x8914, request)  # SIOCSIFFLAGS


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as stream:
        stream.write(text)


# --- files --------------------------------------------------------------------------------------


def _restrict_files(rules: Confinement) -> None:
    libc = _libc()
    version = libc.syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return  # a kernel without landlock
    handled = 0
    for since, rights in _ALL_RIGHTS.items():
        handled |= rights if version >= since else 0
    # Struct landlock_ruleset_attr: files, TCP ports (seccomp's business), scopes.
    fields = struct.pack("=QQQ", handled, 0, _SCOPES)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _checked(
        libc.syscall(444, fields, ctypes.c_size_t(size), ctypes.c_uint32(0)), "landlock"
    )
    try:
        looking = _EXECUTE | _READ | _LIST
        speaking = looking | _WRITE | _TRUNCATE | _IOCTL
        allowed = [*((path, looking) for path in rules.readable)]
        allowed += [*((path, speaking) for path in rules.devices)]
        allowed += [*((path, handled & ~_EXECUTE) for path in rules.writable)]
        for path, rights in allowed:
            _allow(libc, ruleset, path, rights & handled)
        _checked(libc.syscall(446, ruleset, ctypes.c_uint32(0)), "landlock")
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no right
    try:
        if not os.path.isdir(path):
            rights &= _OF_A_FILE
        rule = struct.pack("=Qi", rights, fd)
        _checked(libc.syscall(445, ruleset, 1, rule, ctypes.c_uint32(0)), "landlock")
    finally:
        os.close(fd)


def usual_places(*, more: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what every program has to read: libraries, and facts of the machine."""
    house = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    own = (sys.prefix, sys.base_prefix, house)
    return ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime",
            "/etc/ssl", "/proc", "/sys", *own, *more)  # fmt: skip


QUIET_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/shm")
"""Devices that every program may use."""
