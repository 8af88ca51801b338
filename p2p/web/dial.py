"""One TLS connection to a web server, to exactly the address that was checked.

The name is looked up once, every address that comes must pass, and the connection goes to one of
them as a number: a name that answers otherwise the next time gains nothing. TLS then proves that
the server has the name. Certificates are trusted as this system trusts them; ``SSL_CERT_FILE`` and
``SSL_CERT_DIR`` name others, as everywhere.
"""

import ssl
from typing import Final

import trio

from p2p.errors import NetworkError, NoSources, PeerGone
from p2p.http import ByteStream
from p2p.rates import Meter
from p2p.web.url import Url, check_address

CONNECT_WITHIN: Final = 15.0
"""Seconds for the look-up, the connection and the handshake together: five round trips."""
MAX_ADDRESSES: Final = 4
"""Addresses of one name that are tried: who has more has the others near them."""
READ_SIZE: Final = 256 << 10
"""Bytes that are read at once: sixteen records of TLS."""


def trust() -> ssl.SSLContext:
    """Return what this system trusts; reads its certificates, which takes some 20 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def dial(url: Url, context: ssl.SSLContext, down: Meter, *, local: bool) -> ByteStream:
    """Connect to a URL's server; ``local``: it may have any address.

    NoSources for an address or a certificate that does not pass, PeerGone for what may be better
    another time.
    """
    with trio.move_on_after(CONNECT_WITHIN):
        addresses = await _look_up(url, local)
        return _Metered(await _connect(url, addresses, context), down)
    raise PeerGone(f"{url.authority} did not connect within {CONNECT_WITHIN:g} s.", peer=url.origin)


async def _look_up(url: Url, local: bool) -> list[str]:
    host = url.host.strip("[]")
    try:
        found = await trio.socket.getaddrinfo(host, url.port, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise PeerGone(f"The name {host} was not found: {exc}.", peer=url.origin) from exc
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    if not local:
        for address in addresses:
            check_address(address, host)
    return addresses[:MAX_ADDRESSES]


async def _connect(url: Url, addresses: list[str], context: ssl.SSLContext) -> trio.SSLStream:
    failed: NetworkError = PeerGone(f"{url.authority} has no address.", peer=url.origin)
    for address in addresses:
        try:
            stream = await trio.open_tcp_stream(address, url.port)
        except OSError as exc:
            failed = PeerGone(f"{url.authority} cannot be reached: {exc}.", peer=url.origin)
            continue
        tls = trio.SSLStream(
            stream,
            context,
            server_hostname=url.host.strip("[]"),
            https_compatible=True,
        )
        done = False
        try:
            await tls.do_handshake()
            done = True
            return tls
        except trio.BrokenResourceError as exc:
            raise _untrusted(url, exc) from exc
        finally:
            if not done:
                await trio.aclose_forcefully(tls)
    raise failed


def _untrusted(url: Url, exc: trio.BrokenResourceError) -> NetworkError:
    """The error of a handshake that failed."""
    cause = exc.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return NoSources(
            f"The certificate of {url.authority} is not good here: {cause.verify_message}.",
            next="SSL_CERT_FILE names the certificates that are trusted.",
        )
    return PeerGone(f"{url.authority} broke off the TLS handshake.", peer=url.origin)


class _Metered:
    """A stream whose bytes are counted on the node's download rates."""

    def __init__(self, stream: trio.SSLStream, down: Meter) -> None:
        self._stream = stream
        self._down = down

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        size = max_bytes or READ_SIZE
        if self._down.limited:
            size = min(size, self._down.piece)
        data = await self._stream.receive_some(size)
        self._down.count("web", len(data))
        wait = self._down.reserve(len(data))
        if wait:
            await trio.sleep(wait)
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()
