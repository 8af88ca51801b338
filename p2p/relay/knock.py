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
"""Seconds until a refused dial is repeated: the other side's hole may come a moment later."""

Met = TypeVar("Met")
Meet = Callable[[trio.SocketStream], Awaitable[Met | None]]
"""Makes of a socket what is wanted, or None; whatever it raises ends that socket only."""


async def knock(own: tuple[str, int], targets: Sequence[Address], meet: Meet[Met]) -> Met | None:
    """Dial all ``targets`` from ``own`` and listen there until ``meet`` has made something of one.

    None when nothing came of it within KNOCK_TIME.
    """
    won: list[Met] = []
    hosts = {target.host for target in targets}

    async def greet(stream: trio.SocketStream, whom: object) -> None:
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

    async def listen() -> None:
        try:
            listener = await _listen_at(own)
        except OSError as exc:
            log.debug("no listening at %s: %s", own, exc)
            return
        with listener:
            while True:
                sock, remote = await listener.accept()
                if str(remote[0]) in hosts:
                    nursery.start_soon(greet, trio.SocketStream(sock), remote)
                else:
                    sock.close()

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
    while True:
        sock = _socket(own[0])
        done = False
        try:
            await sock.bind(own)
            await sock.connect((target.host, target.port))
            done = True
            return trio.SocketStream(sock)
        except ConnectionRefusedError:
            await trio.sleep(REFUSED_AGAIN)
        finally:
            if not done:
                sock.close()
