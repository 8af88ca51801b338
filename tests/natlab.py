"""An internet in a box: hosts with public addresses, and homes behind routers that translate.

Every machine is a network namespace of Linux, every router's NAT is nftables, so what is measured
here is what the kernel of a home router does.
Nothing has a name: a namespace lives as long as this process has it open (and programs that were
started in it run), so nothing is left behind after a crash, and labs side by side never meet.
Addresses are of 11.0.0.0/16, which Python and the nodes take for public ones; no packet leaves.

Kinds of homes, by what happens to a TCP connection that goes out from one port (RFC 4787, 5382):

- full-cone: the same public port to everybody, and everybody may come in by it;
- port-restricted: the same public port to everybody; in comes only who was sent something;
- symmetric: another public port, by chance, for each destination; in comes only who was sent
  something;
- closed: a public address without NAT, behind a firewall that lets only answers in.

An unwanted SYN is dropped silently, or refused by a reset where ``rejects`` says so: routers of
both habits are sold.
"""

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

Kind = Literal["full-cone", "port-restricted", "symmetric", "closed"]
M = TypeVar("M", bound="Machine")
KINDS: tuple[Kind, ...] = ("full-cone", "port-restricted", "symmetric", "closed")

_CLONE_NEWNET = 0x40000000
_TOOLS = ("ip", "nft", "nsenter")
_MASQUERADE = {
    "full-cone": "masquerade",
    "port-restricted": "masquerade",
    "symmetric": "masquerade random,fully-random",
}
_FIREWALL = """
table ip firewall {{
  chain coming {{
    type filter hook {hook} priority filter; policy accept;
    iifname "eth0" ct state established,related accept
    iifname "eth0" {allowed}
    iifname "eth0" meta l4proto tcp {unwanted}
    iifname "eth0" drop
  }}
}}
"""
_NAT = """
table ip translate {{
  chain going {{
    type nat hook postrouting priority srcnat;
    oifname "eth0" {masquerade}
  }}
  chain coming {{
    type nat hook prerouting priority dstnat;
    {forward}
  }}
}}
"""


def missing() -> str | None:
    """What this machine lacks for a lab, as the reason of a skip; None: nothing."""
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"a NAT lab needs the programs {', '.join(absent)}"
    if os.geteuid():
        return "a NAT lab needs root, to make network namespaces"
    try:
        with Lab() as lab:
            lab.home("full-cone")
    except (OSError, RuntimeError) as exc:
        return f"this kernel gives no NAT lab ({exc})"
    return None


def _libc(call: str, *words: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*words):
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


class Machine:
    """One network namespace; ``address`` is that of its eth0."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _libc("unshare", _CLONE_NEWNET)
            self._space = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _libc("setns", self._home, _CLONE_NEWNET)
        except BaseException:
            os.close(self._home)
            raise

    @property
    def path(self) -> str:
        """The namespace as a file, for programs that enter it."""
        return f"/proc/{os.getpid()}/fd/{self._space}"

    @property
    def within(self) -> tuple[str, ...]:
        """The words before a command that make it run here; it keeps its process id."""
        return ("nsenter", f"--net={self.path}")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be here with this thread, for as long as the block lasts; it must not await."""
        _libc("setns", self._space, _CLONE_NEWNET)
        try:
            yield
        finally:
            _libc("setns", self._home, _CLONE_NEWNET)

    def run(self, *words: str, reads: str = "") -> None:
        """Run a short program here; RuntimeError with what it said when it fails."""
        with self.entered():
            done = subprocess.run(words, input=reads, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")

    def socket(self, port: int = 0, *, shared: bool = False) -> socket.socket:
        """Open a TCP socket of this machine, bound to a port; ``shared``: SO_REUSEPORT."""
        with self.entered():
            found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            found.bind((self.address, port))
        except OSError:
            found.close()
            raise
        return found

    def received(self) -> int:
        """How many bytes have come in by eth0."""
        with self.entered(), open("/proc/thread-self/net/dev") as table:
            for line in table:
                name, _, numbers = line.partition(":")
                if name.strip() == "eth0":
                    return int(numbers.split()[0])
        raise RuntimeError("There is no eth0.")

    def close(self) -> None:
        """Let the namespace go; it ends with the last program in it."""
        os.close(self._space)
        os.close(self._home)


class Home(Machine):
    """A machine at home, and how the world sees it: ``outside`` is its router's address."""

    def __init__(self, address: str, outside: str, kind: Kind) -> None:
        super().__init__(address)
        self.outside = outside
        self.kind: Kind = kind


class Lab:
    """An internet without anybody on it; ends with its block."""

    def __init__(self) -> None:
        self._machines: list[Machine] = []
        self._used = 0
        self._internet = self._machine(Machine("11.0.0.1"))
        self._ip(
            self._internet,
            "link set lo up",
            "link add bridge type bridge",
            "link set bridge up",
        )

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        while self._machines:
            self._machines.pop().close()

    def host(self) -> Machine:
        """A machine on the open internet."""
        host = self._machine(Machine(self._public()))
        self._connect(host, host.address)
        return host

    def home(self, kind: Kind, *, rejects: bool = False) -> Home:
        """A machine behind a router of this kind."""
        outside = self._public()
        if kind == "closed":
            home = self._machine(Home(outside, outside, kind))
            self._connect(home, outside)
            home.run("nft", "-f", "-", reads=_firewall("input", kind, rejects))
            return home
        router = self._machine(Machine(outside))
        self._connect(router, outside)
        # All homes share one range, as those of real people do; only the last number differs.
        inside = f"192.168.1.{100 + self._used}"
        home = self._machine(Home(inside, outside, kind))
        self._ip(router, f"link add eth1 type veth peer name eth0 netns {home.path}")
        self._ip(router, "address add 192.168.1.1/24 dev eth1", "link set eth1 up")
        self._ip(
            home,
            "link set lo up",
            f"address add {inside}/24 dev eth0",
            "link set eth0 up",
            "route add default via 192.168.1.1",
        )
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        forward = f'iifname "eth0" meta l4proto tcp dnat to {inside}' if kind == "full-cone" else ""
        nat = _NAT.format(masquerade=_MASQUERADE[kind], forward=forward)
        rules = nat + _firewall("input", kind, rejects) + _firewall("forward", kind, rejects)
        router.run("nft", "-f", "-", reads=rules)
        return home

    def _machine(self, machine: M) -> M:
        self._machines.append(machine)
        return machine

    def _public(self) -> str:
        self._used += 1
        return f"11.0.1.{self._used}"

    def _connect(self, machine: Machine, address: str) -> None:
        """Give a machine its place on the internet."""
        port = f"p{self._used}"
        self._ip(
            self._internet,
            f"link add {port} type veth peer name eth0 netns {machine.path}",
            f"link set {port} master bridge",
            f"link set {port} up",
        )
        self._ip(
            machine,
            "link set lo up",
            f"address add {address}/16 dev eth0",
            "link set eth0 up",
        )

    def _ip(self, machine: Machine, *lines: str) -> None:
        machine.run("ip", "-batch", "-", reads="\n".join(lines) + "\n")


def _firewall(hook: str, kind: Kind, rejects: bool) -> str:
    table = _FIREWALL.format(
        hook=hook,
        allowed="accept" if kind == "full-cone" else "ct state invalid drop",
        unwanted="reject with tcp reset" if rejects else "drop",
    )
    return table.replace("table ip firewall", f"table ip firewall_{hook}")
