"""Ports, reachability, the DHT, peers: what this node knows of them without asking anybody.

Whether strangers get through can be seen from inside only when one has, or when others have tried
and said so: where nobody has yet, it is told what would have to be open, and no more is claimed.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from node.config import Config
from node.doctor.finding import Finding, count_text
from node.kinds import split_endpoint
from p2p.address import Address, Reach
from p2p.errors import UsageError

if TYPE_CHECKING:
    from p2p.discovery import Discovery
    from p2p.host import Host

PRIVILEGED: Final = 1024
"""Ports below are root's."""
SILENT: Final = 1800.0
"""Seconds without any answer in the DHT: it is refreshed every ten minutes."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket that listens: its process, None where that is another user's, and its name."""

    port: int
    pid: int | None
    program: str


# -- ports


def listening() -> list[Listening] | None:
    """Return the TCP sockets that listen on this machine; None where the system does not say."""
    try:
        sockets = psutil.net_connections("tcp")
    except (psutil.Error, OSError):  # macOS tells root only
        return None
    found = {
        (one.laddr.port, one.pid)
        for one in sockets
        if one.laddr and one.status == psutil.CONN_LISTEN
    }
    return [Listening(port, pid, _program(pid)) for port, pid in sorted(found, key=str)]


def _program(pid: int | None) -> str:
    try:
        return psutil.Process(pid).name() if pid else "a program of another user"
    except psutil.Error:
        return "a program that ended"


def look_at_ports(
    config: Config, taken: Sequence[Listening] | None, *, running: bool
) -> Iterator[Finding]:
    """Look who has the ports of the configuration; ``running``: this process is the node."""
    for name, key, port in _ports(config):
        said = f"Port {port} ({key})"
        fix = f"allod config set {key} 0"
        if key == "gateway.listen":
            fix = "allod config set gateway.listen, with another port."
        if port == 0:
            yield Finding(name, "ok", f"{key} is 0: a free port is taken at each start.")
        elif taken is None:
            yield Finding(name, "note", f"{said}: this system does not say who listens there.")
        elif running:
            mine = any(one.port == port and one.pid == os.getpid() for one in taken)
            if mine:
                yield Finding(name, "ok", f"{said} is this node's.")
            else:
                yield Finding(name, "problem", f"The node does not listen on port {port} ({key}).",
                              "Start it again with `allod up`.")  # fmt: skip
        elif who := next((one for one in taken if one.port == port), None):
            process = f" (process {who.pid})" if who.pid else ""
            text = f"{said} is taken by {who.program}{process}."
            yield Finding(name, "problem", text, f"Stop it, or {fix}")
        elif port < PRIVILEGED and os.geteuid() != 0:
            yield Finding(name, "warning", f"{said} is one of those below 1024, which only root "
                          "may open on most systems.", fix)  # fmt: skip
        else:
            yield Finding(name, "ok", f"{said} is free.")


def _ports(config: Config) -> Iterator[tuple[str, str, int]]:
    if not config.p2p.offline:
        yield "port.peers", "p2p.port", config.p2p.port
        if config.lane.enabled:
            yield "port.lane", "lane.port", config.lane.port
        for endpoint in config.gateway.listen:
            yield "port.gateway", "gateway.listen", split_endpoint(endpoint)[1]
    yield "port.http", "http.port", config.http.port


# -- reach, the DHT, peers


def look_at_reach(host: "Host") -> Iterator[Finding]:
    """Say how far this node's addresses lead, and whether somebody came in from there."""
    own = host.own_addresses()
    widest = max(host.interfaces(), key=lambda address: address.reach, default=None)
    came = [one for one in host.peers() if one.inbound]
    far = [one for one in came if one.path == "direct" and _reach(one.addresses) is Reach.WORLD]
    verdict, mapped = host.reachability.verdict, host.reachability.mapped
    if widest is None:
        text = "This node only dials; nobody can reach it."
        yield Finding("reach", "note", text, "allod config unset p2p.listen")
    elif widest.reach <= Reach.MACHINE:
        text = "This node listens on loopback only: no other machine can reach it."
        yield Finding("reach", "warning", text, "allod config unset p2p.listen")
    elif verdict == "public":
        works = ", ".join(str(one) for one in host.reachability.confirmed)
        text = f"Strangers get through to this node at {works}, as others have tried."
        yield Finding("reach", "ok", text)
    elif verdict == "private":
        yield _behind(host, widest)
    elif far:
        text = f"{count_text(len(far), 'peer')} from outside of this network connected to it."
        yield Finding("reach", "ok", text)
    elif mapped is not None:
        text = f"The router passes {mapped} on to this node; nobody has tried it yet."
        yield Finding("reach", "ok", text)
    elif relays := _relays(own):
        text = f"It is reached through {count_text(len(relays), 'relay')}, {', '.join(relays)}."
        yield Finding("reach", "ok", text)
    elif widest.reach is Reach.WORLD:
        text = f"It has a public address, {widest.host}, and nobody from outside connected yet."
        fix = f"Let the firewall pass TCP port {widest.port}, if it does not."
        yield Finding("reach", "note", text, fix)
    else:
        where = f"Its addresses, such as {widest.host}, lead to this network alone"
        text = f"{where}; {count_text(len(came), 'peer')} of it connected."
        fix = f"Forward TCP port {widest.port} of the router to this machine. A node that is not"
        fix += " reached fetches all the same, and gives to those whom it dials."
        yield Finding("reach", "note", text, fix)


def _behind(host: "Host", widest: Address) -> Finding:
    """Say what a node does that others tried to reach and could not."""
    mapped, relays = host.reachability.mapped, _relays(host.own_addresses())
    door = "a firewall" if widest.reach is Reach.WORLD else "the router"
    text = f"Others tried this node's addresses and did not get through {door}"
    if mapped is not None:
        text += f", although the router says that it passes {mapped} on"
    open_it = f"Forward TCP port {widest.port} of the router to this machine"
    if widest.reach is Reach.WORLD:
        open_it = f"Let the firewall pass TCP port {widest.port}"
    if host.settings.announce:
        text += "; it tells them of those in p2p.announce all the same"
        return Finding("reach", "warning", f"{text}.", "Look whether p2p.announce is right.")
    if relays:
        text += f"; it is reached through {count_text(len(relays), 'relay')}, {', '.join(relays)}."
        fix = f"{open_it}, and everything is faster."
        return Finding("reach", "ok", text, fix)
    text += ", and no relay has a place for it: only nodes that it dials get anything from it."
    fix = f"{open_it}, or name a relay in relay.at, which any node that is reached can be."
    return Finding("reach", "warning", text, fix)


def _relays(own: Sequence[Address]) -> list[str]:
    return list(dict.fromkeys(one.relay for one in own if one.relay is not None))


def _reach(addresses: Sequence[str]) -> Reach:
    found = Reach.NOWHERE
    for text in addresses:
        try:
            found = max(found, Address.parse(text).reach)
        except UsageError:
            continue
    return found


def look_at_dht(config: Config, discovery: "Discovery", now: float) -> Iterator[Finding]:
    """Say how many nodes the DHT's table has and when one answered; ``now`` is trio's time."""
    kad = discovery.kad
    entries = kad.table.entries()
    counts = ", ".join(f"{kad.counts[word]:,} {word}" for word in ("lookups", "answered", "failed"))
    records = count_text(len(kad.records), "record")
    fix = "`allod up --bootstrap MULTIADDR` names a node by which to enter."
    if entries:
        silent = now - max(entry.seen for entry in entries)
        text = f"{count_text(len(entries), 'node')} in the table, the last answered "
        text += f"{silent:.0f} s ago; {counts}; {records} kept for others."
        if silent > SILENT:
            fix = "Look whether this machine is on the network."
            yield Finding("dht", "warning", text, fix)
        else:
            yield Finding("dht", "ok", text)
    elif config.p2p.bootstrap or config.p2p.peers:
        text = f"No node that was named lets this one into the DHT yet; {counts}."
        yield Finding("dht", "warning", text, "allod config get p2p.bootstrap; is it still right?")
    elif config.p2p.mdns:
        text = "The DHT has nobody in it: no bootstrap node is named, and nobody is on this LAN."
        yield Finding("dht", "note", text, fix)
    else:
        text = "The DHT has nobody in it: no bootstrap node is named, and the LAN is not asked."
        yield Finding("dht", "warning", text, fix)


def look_at_peers(config: Config, host: "Host") -> Iterator[Finding]:
    """Say who is connected, and which peers that the owner named are not."""
    peers = host.peers()
    inbound = sum(one.inbound for one in peers)
    text = f"{count_text(len(peers), 'peer')}; {inbound} of them dialled this node."
    yield Finding("peers", "ok" if peers else "note", text)
    connected = {one.peer for one in peers}
    for text in config.p2p.peers:
        peer = text.rpartition("/p2p/")[2]
        if peer not in connected and peer != host.peer_id:
            said = f"{text} is named in p2p.peers and not connected."
            fix = "Look whether it runs, and whether its address is still right."
            yield Finding("peers", "warning", said, fix)
