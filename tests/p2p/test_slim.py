"""Importing little of libp2p, in processes of their own."""

import subprocess
import sys

import pytest

# LangChain brings websockets along, and libp2p an old part of it.
WEBSOCKETS = "ignore:websockets.legacy is deprecated:DeprecationWarning"
SLIM = "from p2p.slim import slim_imports\nwith slim_imports():\n    import p2p.discovery\n"


def run(program: str) -> str:
    """What a program prints; it must end well."""
    command = [sys.executable, "-W", "error", "-W", WEBSOCKETS, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_what_a_node_does_not_need_is_not_imported() -> None:
    """QUIC, DNS resolvers, ACME and web clients stay out, and no stub stays behind."""
    unused = {"aioquic", "dns", "requests", "h2", "miniupnpc", "zeroconf", "multiaddr.resolvers"}
    out = run(f"{SLIM}import sys\nprint(sorted({unused!r} & set(sys.modules)))")
    assert out == "[]\n"


@pytest.mark.parametrize(
    "program",
    [
        "import libp2p; print(libp2p.new_host.__name__)",
        "from libp2p import new_host; print(new_host.__name__)",
        "from libp2p.transport.quic.transport import QUICTransport as q; print(q and 'new_host')",
        "from libp2p.discovery.mdns.mdns import MDNSDiscovery as m; print(m.start and 'new_host')",
        "from multiaddr.resolvers import DNSResolver as d; print(d.resolve and 'new_host')",
    ],
)
def test_the_rest_is_there_for_who_asks(program: str) -> None:
    """Whatever was left out can still be imported afterwards, whole."""
    assert run(SLIM + program) == "new_host\n"


def test_nothing_happens_where_libp2p_is_already() -> None:
    """A process that has libp2p keeps the one it has."""
    out = run(f"import libp2p\nbefore = libp2p.new_host\n{SLIM}print(libp2p.new_host is before)")
    assert out == "True\n"
