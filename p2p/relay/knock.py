"""Two machines behind routers knock at each other's addresses until a TCP connection stands.

Knows sockets; must not know libp2p. Each side dials the other's address from the port that the
relay saw, and listens on it too: the two SYNs may cross, and make one connection that both have
dialled; or one of them may come in where the other has not dialled yet, or from a port that nobody
foresaw.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from p2p.address import Address
from p2p.network import SHARE_PORT

log = logging.getLogger(__name__)

KNOCK_TIME = 5.0
"""Seconds of one attempt: the kernel sends a SYN at 0, 1 and 3 s."""
REFUSED_AGAIN = 0.1
"""Seconds until a refused dial is repeated, doubled each time: the other side's hole may come a
moment later, but who named a stranger's address must not have it dialled without end."""
MOST_CALLERS = 4
"""Sockets that are greeted at the same time: one of them is the peer's."""

Met = TypeVar("Met")
Meet = Callable[[trio.SocketStream], Awaitable[Met | None]]
"""Makes of a socket what is wanted, or None; whatever it raises ends that socket only."""


async def knock(own: tuple[str, int], targets: Sequence[Address], meet: Meet[Met]) -> Met | None:
    """Dial all ``targets`` from ``own`` and listen there until ``meet`` has made something of one.

    None when nothing came of it within KNOCK_TIME.
    """
    won: list[Met] = []
    callers: set[trio.SocketStream] = set()
    hosts = {target.host for target in targets}

    async def greet(stream: trio.SocketStream, whom: object) -> None:
        """Make of a socket what is wanted, or close it; no exception."""
        done = False
        try:
            met = await meet(stream)
            if met is not None:
                won.append(met)
                done = True
                nursery.cancel_scope.cancel()
        except Exception as exc:  # whatever answers there may trip anything
            log.debug("nothing came of %s: %r", whom, exc)
        finally:
            if not done:
                await trio.aclose_forcefully(stream)

    async def dial(target: Address) -> None:
        try:
            await greet(await _dial_from(own, target), target)
        except OSError as exc:
            # Also where the other side's SYN has come in at our listener: the pair is taken then.
            log.debug("nobody at %s: %s", target, exc)

    async def greet_caller(stream: trio.SocketStream, remote: object) -> None:
        try:
            await greet(stream, remote)
        finally:
            callers.discard(stream)

    async def listen() -> None:
        try:
            listener = await _listen_at(own)
            with listener:
                while True:
                    sock, remote = await listener.accept()
                    if str(remote[0]) in hosts and len(callers) < MOST_CALLERS:
                        stream = trio.SocketStream(sock)
                        callers.add(stream)
                        nursery.start_soon(greet_caller, stream, remote)
                    else:
                        sock.close()
        except OSError as exc:  # the port is taken, or there are no more files: we still dial
            log.debug("no listening at %s: %s", own, exc)

    with trio.move_on_after(KNOCK_TIME):
        async with trio.open_nursery() as nursery:
            for target in targets:
                nursery.start_soon(dial, target)
            nursery.start_soon(listen)
    return won[0] if won else None


def _socket(host: str) -> trio.socket.SocketType:
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    for option in SHARE_PORT:
        sock.setsockopt(trio.socket.SOL_SOCKET, option, 1)
    return sock


async def _listen_at(own: tuple[str, int]) -> trio.socket.SocketType:
    sock = _socket(own[0])
    try:
        await sock.bind(own)
        sock.listen(4)
    except BaseException:
        sock.close()
        raise
    return sock


async def _dial_from(own: tuple[str, int], target: Address) -> trio.SocketStream:
    """Dial ``target`` from ``own``, again and again while it is refused; OSError."""
    wait = REFUSED_AGAIN
    while True:
        sock = _socket(own[0])
        done = False
        try:
            await sock.bind(own)
            await sock.connect((target.host, target.port))
            done = True
            return trio.SocketStream(sock)
        except ConnectionRefusedError:
            await trio.sleep(wait)
            wait *= 2
        finally:
            if not done:
                sock.close()
