"""The IPFS gateway for the public, at the port of a real node: what it gives, and what it does not.

Its askers speak HTTP over plain sockets, as any program on the internet could.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio

from node.api import public
from node.api.public import CONNECTIONS_PER_ADDRESS, for_public, is_local, serve_public
from p2p.address import line_of
from p2p.errors import PortInUse, StoreError
from p2p.http import Handler, HttpLimits, Request, Response
from p2p.limits import Book, PeerLimits
from p2p.rates import Rates
from tests.network.people import Node, Person
from tests.releases import MIB, noise, write_folder

FILES = {"model.bin": noise(2 * MIB + 9, 1), "sub/words.txt": b"words"}
PAGE = {"origin": "https://example.org"}

Json = dict[str, Any]


@asynccontextmanager
async def gateway(home: Path) -> AsyncIterator[tuple[Person, Json, Node, httpx.AsyncClient]]:
    """A node with a door for the public: its owner, what was published, a client of the door."""
    alice = Person(home / "alice")
    alice.environ["ALLOD_GATEWAY_LISTEN"] = "127.0.0.1:0"
    release = await alice.publish(write_folder(home / "files", FILES), "files")
    async with alice.node() as node:
        [url] = node.status["gateway"]
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield alice, release, node, client


async def test_the_public_reads_what_is_held_and_nothing_else(tmp_path: Path) -> None:
    """Files, ranges, blocks and CARs, for pages of any site; nothing of control, models, peers.

    A miss is never a search, limits count, and the gate decides as for peers.
    """
    async with gateway(tmp_path) as (alice, release, node, client):
        await reads(client, release)
        await finds_nothing_else(client, release, (alice.home / "run/control.token").read_text())
        await is_no_search(client)
        await waits_for_its_share(client, release, alice)
        assert (await alice.run("status"))["gateway"] == node.status["gateway"]
        root = release["root"]
        await alice.run("trust", "deny", root)
        denied = await client.get(f"/ipfs/{root}/sub/words.txt")
        assert denied.status_code == 410
        assert denied.json()["error"]["code"] == "REFUSED"
        assert denied.headers["access-control-allow-origin"] == "*"


async def reads(client: httpx.AsyncClient, release: Json) -> None:
    """The forms of an answer, and what a page may see of it."""
    root = release["root"]
    cids = {file["path"]: file["cid"] for file in release["files"]}
    found = await client.get(f"/ipfs/{root}/sub/words.txt", headers=PAGE)
    assert (found.status_code, found.content) == (200, b"words")
    assert found.headers["access-control-allow-origin"] == "*"
    exposed = found.headers["access-control-expose-headers"].lower()
    for name in ("content-range", "etag", "x-ipfs-path", "x-ipfs-roots"):
        assert name in exposed
    assert found.headers["x-ipfs-path"] == f"/ipfs/{root}/sub/words.txt"
    first, *_, last = found.headers["x-ipfs-roots"].split(",")
    assert (first, last) == (root, cids["sub/words.txt"])
    part = await client.get(f"/ipfs/{cids['model.bin']}", headers={"range": "bytes=5-2000000"})
    assert (part.status_code, part.content) == (206, FILES["model.bin"][5:2000001])
    head = await client.head(f"/ipfs/{cids['model.bin']}")
    assert head.headers["content-length"] == str(len(FILES["model.bin"]))
    again = await client.get(
        f"/ipfs/{cids['model.bin']}", headers={"if-none-match": head.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    block = await client.get(f"/ipfs/{root}?format=raw")
    assert block.headers["content-disposition"] == f'attachment; filename="{root}.bin"'
    car = await client.get(f"/ipfs/{root}", headers={"accept": "application/vnd.ipld.car"})
    assert len(car.content) > sum(map(len, FILES.values()))

    asked = PAGE | {
        "access-control-request-method": "GET",
        "access-control-request-headers": "range",
    }
    may = await client.options(f"/ipfs/{root}", headers=asked)
    assert may.status_code == 204
    assert may.headers["access-control-allow-origin"] == "*"
    assert "GET" in may.headers["access-control-allow-methods"]
    assert "Range" in may.headers["access-control-allow-headers"]


async def finds_nothing_else(client: httpx.AsyncClient, release: Json, token: str) -> None:
    """Whatever else a node answers is not here, not even with the control token."""
    root, manifest = release["root"], release["manifest"]
    for path in (
        "/",
        "/v1/models",
        "/api/tags",
        "/control/v1/status",
        f"/allod/v1/manifest/{manifest}",
        f"/allod/v1/have/{root}",
        "/allod/v1/lane",
        f"/x/../ipfs/{root}",
        f"//ipfs/{root}/sub/words.txt",
    ):
        lost = await client.send(httpx.Request("GET", f"{client.base_url}".rstrip("/") + path))
        assert lost.status_code == 404, path
        assert lost.headers["access-control-allow-origin"] == "*"
    assert (await client.post("/control/v1/status", json={})).status_code == 405
    assert (await client.put(f"/ipfs/{root}", content=b"x")).status_code == 405
    # A name of one's own may point here: that is what a gateway is for.
    found = await client.get(f"/ipfs/{root}/sub/words.txt", headers={"host": "ipfs.example"})
    assert found.status_code == 200

    keys = {"authorization": f"Bearer {token}"}
    assert (await client.get("/control/v1/status", headers=keys)).status_code == 404


async def is_no_search(client: httpx.AsyncClient) -> None:
    """What is not held is 404, and 412 for who asks for what is there already; probes succeed."""
    nobody = "bafkr4igcorig5wvokpwrbnuzo5buhrai72nbssxgr4nh4xatc32zsuhfbe"
    assert (await client.get(f"/ipfs/{nobody}?format=raw")).status_code == 404
    only = {"cache-control": "only-if-cached"}
    missed = await client.head(f"/ipfs/{nobody}?format=raw", headers=only)
    assert missed.status_code == 412
    assert (await client.get("/ipfs/not-a-cid")).status_code == 400
    for format in ("raw", "car"):
        probe = await client.get(f"/ipfs/bafkqaaa?format={format}")
        assert probe.status_code == 200
        assert f"vnd.ipld.{format}" in probe.headers["content-type"]


async def waits_for_its_share(client: httpx.AsyncClient, release: Json, alice: Person) -> None:
    """limits.uploads counts readers here as it counts peers: one more is asked to come later."""
    path = f"/ipfs/{release['root']}/model.bin"
    await alice.run("limits", "--up", "200KB", "--uploads", "1")
    where = client.base_url
    async with await trio.open_tcp_stream(
        where.host, where.port or 0, local_address="127.0.0.2"
    ) as slow:
        await slow.send_all(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert (await slow.receive_some()).startswith(b"HTTP/1.1 200 ")
        late = await client.get(path)
        assert late.status_code == 429
        assert int(late.headers["retry-after"]) > 0
        assert (await client.get(f"/ipfs/{release['root']}?format=raw")).status_code == 200
    await alice.run("limits", "--up", "none", "--uploads", "none")
    assert (await client.get(path)).content == FILES["model.bin"]


# -- the door by itself


class Purse:
    """What a host allows askers; here they are charged nothing but their connections."""

    def __init__(self, up: int | None = None) -> None:
        self.book = Book(PeerLimits(fault_burst=2.0))
        self.rates = Rates()
        self.rates.change(up=up)

    def charged(self, handler: Handler) -> Handler:
        return handler


async def words(request: Request) -> Response:
    """Answer every request the same."""
    return Response(200, {"content-type": "text/plain"}, b"words")


@asynccontextmanager
async def door(handler: Handler, purse: Purse, listen: str = "127.0.0.1:0") -> AsyncIterator[int]:
    """The door with a handler of the test's; its port."""
    async with trio.open_nursery() as nursery:
        serving = nursery.start(lambda **kept: serve_public(handler, [listen], purse, **kept))
        [url] = await serving
        yield urlsplit(url).port or 0
        nursery.cancel_scope.cancel()


async def ends(stream: trio.SocketStream) -> bytes:
    """Read until the node ends the connection."""
    data = b""
    with trio.fail_after(100):
        try:
            async for piece in stream:
                data += piece
        except trio.BrokenResourceError:
            pass
    return data


ASK = b"GET /ipfs/x HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than there may be is closed at once; when one ends, there is room again."""
    monkeypatch.setattr(public, "CONNECTIONS", 3)
    async with door(words, Purse()) as port, AsyncExitStack() as stack:
        streams = []
        for _ in range(3):
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            await stream.send_all(ASK)
            assert b"words" in await stream.receive_some()
            streams.append(stream)
        async with await trio.open_tcp_stream("127.0.0.1", port) as late:
            assert await ends(late) == b""
        await streams[0].send_eof()
        assert await ends(streams[0]) == b""
        async with await trio.open_tcp_stream("127.0.0.1", port) as next_one:
            await next_one.send_all(ASK)
            assert b"words" in await next_one.receive_some()


async def test_one_address_has_a_share_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's address gets so many; a proxy on this machine speaks for all of its own."""
    monkeypatch.setattr(public, "CONNECTIONS_PER_ADDRESS", 1)
    async with door(words, Purse()) as port, AsyncExitStack() as stack:
        for _ in range(3):
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            await stream.send_all(ASK)
            assert b"words" in await stream.receive_some()
        monkeypatch.setattr(public, "is_local", lambda asker: False)
        async with await trio.open_tcp_stream("127.0.0.1", port) as late:
            assert await ends(late) == b""
    assert CONNECTIONS_PER_ADDRESS > 6  # what a browser opens


async def test_nonsense_ends_its_connection_and_then_its_asker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Malformed requests are told so once each; whoever goes on is kept out for a while."""
    monkeypatch.setattr(public, "is_local", lambda asker: False)
    purse = Purse()
    async with door(words, purse) as port:
        for _ in range(3):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"\x00\x01\x02\r\n\r\n")
                assert b" 400 " in await ends(stream)
        assert purse.book.banned("127.0.0.1", trio.current_time())
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(ASK)
            assert await ends(stream) == b""


async def test_slow_and_silent_askers_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, half a head, and a reader that takes nothing: each connection ends."""
    waits = HttpLimits(head=0.05, idle=0.05, send=0.2)
    monkeypatch.setattr(public, "WAITS", waits)

    given_up = trio.Event()

    async def endless(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(MIB)
            finally:
                given_up.set()

        return Response(200, {}, body())

    async with door(endless, Purse()) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as silent:
            assert await ends(silent) == b""
        async with await trio.open_tcp_stream("127.0.0.1", port) as half:
            await half.send_all(b"GET /ipfs/x HTTP/1.1\r\nHo")
            assert b" 408 " in await ends(half)
        async with await trio.open_tcp_stream("127.0.0.1", port) as deaf:
            await deaf.send_all(ASK)
            await given_up.wait()  # it has taken nothing for longer than it may
            assert await ends(deaf)  # what was on its way, and no end of it


async def test_a_bug_ends_its_connection_alone() -> None:
    """A handler that breaks is a bare 500; a store that fails is a 503 without its reason."""

    async def broken(request: Request) -> Response:
        if request.path.endswith("store"):
            raise StoreError("The disk with the secrets is gone.")
        raise RuntimeError("secrets")

    async with door(broken, Purse()) as port:
        for path, status in ((b"/ipfs/bug", b" 500 "), (b"/ipfs/store", b" 503 ")):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(ASK.replace(b"/ipfs/x", path))
                await stream.send_eof()
                said = await ends(stream)
            assert status in said
            assert b"secrets" not in said


async def test_the_rate_is_kept(autojump_clock: trio.abc.Clock) -> None:
    """limits.up counts what goes through this door; nothing goes out before its time."""

    async def big(request: Request) -> Response:
        return Response(200, {}, bytes(300_000))

    sent: list[int] = []

    class Wire:
        async def send_all(self, data: bytes | memoryview) -> None:
            sent.append(len(data))

    purse = Purse(up=100_000)
    rates, account = purse.rates.of("192.0.2.1"), purse.book.account("192.0.2.1", 0.0)
    metered = public._Metered(Wire(), account, rates)  # type: ignore[arg-type]
    answer = await for_public(big)(Request("GET", "/ipfs/x", {}, {}, "192.0.2.1"))
    assert isinstance(answer.body, bytes)
    begin = trio.current_time()
    await metered.send_all(answer.body)
    assert sum(sent) == account.bytes_out == 300_000
    assert max(sent) <= rates.up.piece
    assert trio.current_time() - begin > 0


async def test_a_port_that_is_taken_is_named() -> None:
    """Two doors on one port: one clear error."""
    async with door(words, Purse()) as port:
        with pytest.RaisesGroup(pytest.RaisesExc(PortInUse, match=str(port))):
            async with door(words, Purse(), f"127.0.0.1:{port}"):
                pass


@pytest.mark.parametrize(
    ("host", "asker", "local"),
    [
        ("192.0.2.7", "192.0.2.7", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:192.0.2.7", "192.0.2.7", False),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", False),
        ("fe80::1%eth0", "fe80::/64", False),
    ],
)
def test_who_counts_as_one(host: str, asker: str, local: bool) -> None:
    """An address of IPv4, a network of IPv6: as many as one customer has."""
    assert line_of(host) == asker
    assert is_local(asker) is local
