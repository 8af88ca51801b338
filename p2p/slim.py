"""Import the part of libp2p that is used, without the part that isn't: 0.5 s instead of 1.2 s.

``import libp2p.anything`` runs ``libp2p/__init__``, which brings QUIC, WebRTC, ACME, UPnP, relays
and a DNS library along; a node with TCP, noise and yamux needs none of them.

Two tricks, both undone as far as anybody can notice:

- Some packages are entered without running their ``__init__``; the first look at a name that only
  ``__init__`` gives runs it after all, so ``libp2p.new_host`` is still there for who asks.
- Some leaves are replaced, while we import, by modules of empty classes: names that libp2p's host
  mentions in code which this host never reaches. Afterwards the real ones can be imported.

Where libp2p is imported already, nothing happens.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

SHELLS = (
    "libp2p",
    "libp2p.discovery",
    "libp2p.discovery.bootstrap",
    "libp2p.discovery.mdns",
    "libp2p.discovery.upnp",
    "libp2p.kad_dht",
    "libp2p.relay",
    "libp2p.relay.circuit_v2",
    "libp2p.security",
    "libp2p.security.tls",
    "libp2p.security.tls.autotls",
    "libp2p.transport",
    "libp2p.transport.quic",
)
"""Packages whose ``__init__`` waits until it is needed."""

LEAVES = {
    "libp2p.discovery.bootstrap.bootstrap": ("BootstrapDiscovery",),
    "libp2p.discovery.mdns.mdns": ("MDNSDiscovery", "create_mdns_discovery"),
    "libp2p.discovery.upnp.upnp": ("UpnpManager",),
    "libp2p.relay.circuit_v2.nat": ("is_private_ip",),
    "libp2p.security.tls.autotls.acme": ("ACMEClient", "compute_b36_peer_id"),
    "libp2p.security.tls.autotls.broker": ("BrokerClient",),
    "libp2p.transport.quic.stream": ("QUICStream",),
    "multiaddr.resolvers": ("DNSResolver",),
}
"""Modules that are mentioned and not used, with the names that are mentioned."""


@contextmanager
def slim_imports() -> Iterator[None]:
    """Import libp2p's modules inside this block."""
    if "libp2p" in sys.modules:
        yield
        return
    stubs: dict[str, ModuleType] = {}
    for name, words in LEAVES.items():
        if name not in sys.modules:
            stubs[name] = sys.modules[name] = ModuleType(name)
            for word in words:
                setattr(stubs[name], word, type(word, (), {}))
    try:
        for name in SHELLS:
            if name not in sys.modules:
                _enter(name)
        yield
    finally:
        for name, stub in stubs.items():
            if sys.modules.get(name) is stub:
                del sys.modules[name]
            parent, _, word = name.rpartition(".")
            around = sys.modules.get(parent)
            if around is not None and vars(around).get(word) is stub:
                delattr(around, word)


def _enter(name: str) -> None:
    """Put a package into sys.modules without running it."""
    parent, _, word = name.rpartition(".")
    path = importlib.import_module(parent).__path__ if parent else None
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None:
        return  # another libp2p than the pinned one: the plain import will do
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader

    def run_it(wanted: str) -> object:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        vars(module).pop("__getattr__", None)
        loader.exec_module(module)
        return getattr(module, wanted)

    vars(module)["__getattr__"] = run_it
    sys.modules[name] = module
    if parent:
        setattr(sys.modules[parent], word, module)
