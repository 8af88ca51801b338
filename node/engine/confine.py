"""What an engine may not do: reach the network, look into the owner's files, write, or take all.

An engine reads weights that strangers made with a million lines of C++, and runs templates that
they wrote. So it is started as if it were the stranger:

- limits          of memory (address space), open files and what is written into one file; no core
                  dump, which would hold prompts
- no new rights   whatever it executes
- seccomp         no socket but Unix streams, and no connection to anybody: it can only be spoken
                  to. No other process beside it, unless it needs some: limits are per process
- landlock        files are read below the folders that it is given, and written nowhere else;
                  no signal, no debugger and no abstract socket reaches out of it
- or a network namespace of its own, with nothing in it but loopback, for engines whose parts talk
  to each other over TCP. Unix sockets know no network, so ``node.engine.tcp_runner`` takes them
  away (``forbid_unix_sockets``) once it has made the one that leads to the engine

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
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000

_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
"""What a machine is called in linux/audit.h."""
_NUMBERS_X86: Final = {
    "socket": 41, "connect": 42, "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58,
    "setpgid": 109, "setsid": 112, "io_uring_setup": 425, "clone3": 435,
}  # fmt: skip
_NUMBERS: Final = {
    "setpgid": 154, "setsid": 157, "socket": 198, "socketpair": 199, "connect": 203, "clone": 220,
    "io_uring_setup": 425, "clone3": 435,
}  # fmt: skip
"""System calls in asm-generic/unistd.h, which newer machines share; they have no fork."""
_X32: Final = 0x40000000  # the other set of numbers that x86_64 has
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_DENY: Final = 0x00050000 | 13  # the call fails with EACCES
_LACK: Final = 0x00050000 | 38  # ... with ENOSYS: libc does without
_CLONE_THREAD: Final = 0x00010000

# linux/landlock.h. Rights to files, and in which version of landlock they came.
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_ALL_RIGHTS: Final = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: _IOCTL}
_OF_A_FILE: Final = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_SCOPES: Final = 3  # abstract sockets, signals: since version 6


@dataclass(frozen=True, slots=True)
class Confinement:
    """``memory``: bytes of address space, or of data for what reserves much more than it uses.

    ``write``: bytes that one file may have that is written (pipes and sockets are none).
    ``processes``: whether it may start others; each of them has the limits for itself.
    ``readable`` and ``writable``: folders and files; ``devices`` may be spoken to as well.
    """

    memory: int | None
    measure: Literal["space", "data"] = "space"
    write: int | None = None
    network: Literal["none", "loopback"] = "none"
    processes: bool = False
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


def confine(rules: Confinement) -> None:
    """Confine this process, for good. OSError if it may not be let loose."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    if rules.write is not None:
        _limit(resource.RLIMIT_FSIZE, rules.write)
    if not sys.platform.startswith("linux"):
        if rules.memory is not None:
            with suppress(ValueError, OSError):  # macOS has the limit and does not keep it
                _limit(resource.RLIMIT_AS, rules.memory)
        return
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if rules.network == "loopback":
        _own_network()
    _restrict_files(rules)
    _forbid_calls(rules)
    if rules.memory is not None:
        space = rules.measure == "space"
        _limit(resource.RLIMIT_AS if space else resource.RLIMIT_DATA, rules.memory)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent``, whose main thread made it, dies."""
    if sys.platform.startswith("linux"):
        _prctl(_PR_SET_PDEATHSIG, 9)
        if os.getppid() != parent:  # it was quicker
            os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of what our descendants start and leave behind."""
    if sys.platform.startswith("linux"):
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


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


# --- the network, and other processes -----------------------------------------------------------

# Classic BPF, a program as (code, value, where to go on if the test holds, and if it does not): the
# names of places, "" for the next instruction. A place is a name that stands before it.
_Line = tuple[int, int, str, str]
_LOAD, _AND, _IS, _FROM, _HAS, _ANSWER = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ARCH, _CALL, _FIRST, _SECOND = 4, 0, 16, 24  # in seccomp_data; of arguments, the low half
_UNIX, _STREAM = 1, 1
_FAMILIES: Final = (2, 10, 16)
"""Sockets that a network namespace keeps in: IPv4, IPv6, netlink; not so vsock and others."""


def _forbid_calls(rules: Confinement) -> None:
    alone = rules.network == "none"
    if platform.machine() not in _AUDIT:  # what can be had without seccomp
        if alone:
            _own_network()
        return
    denied = ["setsid", "setpgid", "connect", "io_uring_setup"] if alone else ["io_uring_setup"]
    _install(denied, "streams" if alone else "any", rules.processes)


def forbid_unix_sockets(*, but_streams: bool = False) -> None:
    """Let this process and all it starts make no Unix socket, and only sockets with a network.

    Those that it has still accept. ``but_streams``: it may make and connect Unix streams, for
    what can't run without. Pairs of streams, which lead nowhere, may always be made.
    """
    if sys.platform.startswith("linux") and platform.machine() in _AUDIT:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _install(["io_uring_setup"], "streams or network" if but_streams else "network", True)


def _install(denied: Sequence[str], sockets: str, processes: bool) -> None:
    """Have the kernel ask a program about every system call of this process, for good."""
    code, count = _assembled(_program(denied, sockets, processes))
    buffer = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("@HP", count, ctypes.addressof(buffer)))
    _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(head))


def _program(denied: Sequence[str], sockets: str, processes: bool) -> list[_Line | str]:
    """``sockets``: any; streams (Unix ones); network (no Unix ones); streams or network."""
    numbers = _NUMBERS_X86 if platform.machine() == "x86_64" else _NUMBERS
    denied = [*denied, *(() if processes else ("fork", "vfork"))]
    program: list[_Line | str] = [
        (_LOAD, _ARCH, "", ""), (_IS, _AUDIT[platform.machine()], "", "kill"),
        (_LOAD, _CALL, "", ""), (_FROM, _X32, "deny", ""),
        *((_IS, numbers[name], "deny", "") for name in denied if name in numbers),
    ]  # fmt: skip
    if not processes:  # clone3 keeps its flags where no filter sees them
        program += [(_IS, numbers["clone3"], "lack", ""), (_IS, numbers["clone"], "clone", "")]
    if sockets != "any":
        program += [(_IS, numbers["socket"], "socket", "")]
        program += [(_IS, numbers["socketpair"], "pair", "")]
    program += ["allow", (_ANSWER, _ALLOW, "", ""), "deny", (_ANSWER, _DENY, "", "")]
    program += ["lack", (_ANSWER, _LACK, "", ""), "kill", (_ANSWER, _KILL, "", "")]
    program += ["clone", (_LOAD, _FIRST, "", ""), (_HAS, _CLONE_THREAD, "allow2", "deny2")]
    program += ["socket", (_LOAD, _FIRST, "", "")]
    if sockets != "streams":
        program += [(_IS, family, "allow2", "") for family in _FAMILIES]
    if sockets == "network":
        program += [(_ANSWER, _DENY, "", "")]
    # Datagrams are sent to any address without a connection.
    program += ["pair", (_LOAD, _FIRST, "", ""), (_IS, _UNIX, "", "deny2")]
    program += [(_LOAD, _SECOND, "", ""), (_AND, 0xF, "", ""), (_IS, _STREAM, "allow2", "deny2")]
    program += ["allow2", (_ANSWER, _ALLOW, "", ""), "deny2", (_ANSWER, _DENY, "", "")]
    return program


def _assembled(program: Sequence[_Line | str]) -> tuple[bytes, int]:
    """Instructions and their number: a jump says how many to leap; it goes forward only."""
    places: dict[str, int] = {}
    lines: list[_Line] = []
    for one in program:
        if isinstance(one, str):
            places[one] = len(lines)
        else:
            lines.append(one)
    code = b""
    for at, (kind, value, then, other) in enumerate(lines, 1):
        leaps = [places[name] - at if name else 0 for name in (then, other)]
        code += struct.pack("=HBBI", kind, *leaps, value)
    return code, len(lines)


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


QUIET_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
"""Devices that every program may use. /dev/shm is none: other programs keep their secrets there."""
