"""A web server as a source: what it must answer, where it may lead, what is asked of it."""

import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.cid import CID, Codec
from p2p.errors import NetworkError, NoSources, PeerFault, PeerGone, PeerRefused
from p2p.http import HttpLimits
from p2p.policy import Web
from p2p.rates import Bucket, Meter
from p2p.web import WebSource, read_base
from p2p.web.url import Url, check_address, check_hop, read_redirect, read_url
from tests.webserver import Authority, Mode, WebServer, web_server

DATA = bytes(range(256)) * 40
FILES = {"data/a b#é?.bin": DATA, "note.txt": b"a note"}
BIG, NOTE = (CID.of(data, Codec.RAW) for data in FILES.values())
QUICK = HttpLimits(answer=0.5, stall=0.5)
HUB = Web()


# --- addresses: pure ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://huggingface.co", Url("huggingface.co", 443, "/")),
        ("HTTPS://HuggingFace.co:443/a/b?c=d#e", Url("huggingface.co", 443, "/a/b?c=d")),
        ("https://x.org?q", Url("x.org", 443, "/?q")),
        ("https://[2600::1]:8443/a", Url("[2600::1]", 8443, "/a")),
    ],
)
def test_https_addresses_are_read(text: str, url: Url) -> None:
    """Scheme and host in any case, a port, a target; what follows # is left out."""
    assert read_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "http://huggingface.co/a", "ftp://x/", "//huggingface.co/a", "file:///etc/passwd", "https://",
        "https://user@huggingface.co/", "https://huggingface.co@evil.org/", "https://a:b@c.org/",
        "https://huggingface.co\\@evil.org/", "https://huggingface.co:0/", "https://x.org:65536/",
        "https://x.org:8x/", "https://-x.org/", "https://x y.org/", "https://x.org/\u00e9",
        "https://x.org/a b", "https://x.org/\r\nhost: y", "https://" + "x" * 9000, "https://%31.org/",
        "https://x.org./a",
    ],
)  # fmt: skip
def test_what_is_no_plain_https_address_is_refused(text: str) -> None:
    """Another scheme, a user, an odd host, letters that have no place in a URL."""
    with pytest.raises(NoSources, match="Expected an https address"):
        read_url(text)


def test_a_base_is_a_folder() -> None:
    """It ends with a slash, has no query, and file names are quoted behind it."""
    base = read_base("https://x.org/tiny")
    assert str(base) == "https://x.org/tiny/"
    assert str(base.file("a b#é?.bin")) == "https://x.org/tiny/a%20b%23%C3%A9%3F.bin"
    for text in ("https://x.org/tiny/?a=", "https://x.org/tiny/#"):
        with pytest.raises(NoSources, match="folder"):
            read_base(text)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/api/resolve-cache/x", "https://huggingface.co/api/resolve-cache/x"),
        ("other", "https://huggingface.co/a/other"),
        ("//us.aws.cdn.hf.co/x?y", "https://us.aws.cdn.hf.co/x?y"),
        ("https://cas-bridge.xethub.hf.co/x", "https://cas-bridge.xethub.hf.co/x"),
    ],
)
def test_a_redirect_is_read_from_where_it_stands(location: str, target: str) -> None:
    """Whole or relative."""
    assert str(read_redirect(Url("huggingface.co", 443, "/a/b"), location)) == target


@pytest.mark.parametrize(
    "location", [None, "", "http://huggingface.co/", "https://[::1", "x" * 9000]
)
def test_a_redirect_leads_to_https_or_nowhere(location: str | None) -> None:
    """Never to plain http, never to what is no address."""
    with pytest.raises(NoSources):
        read_redirect(Url("huggingface.co", 443, "/a"), location)


BASE = Url("huggingface.co", 443, "/")
LAN = Web(hosts=("huggingface.co", "mirror.org"), local_hosts=("mirror.lan:443", "10.0.0.1:8443"))


@pytest.mark.parametrize(
    ("url", "base", "found"),
    [
        ("https://huggingface.co/", None, False),
        ("https://mirror.org:8443/", None, False),
        ("https://mirror.lan/", None, True),
        ("https://10.0.0.1:8443/", None, True),
        ("https://10.0.0.1:8443/", "https://mirror.lan/", True),
        ("https://huggingface.co/", "https://mirror.lan/", False),
        ("https://mirror.org:8443/b", "https://mirror.org:8443/a", False),
    ],
)
def test_allowed_servers(url: str, base: str | None, found: bool) -> None:
    """Those of web.hosts, with public addresses; those of web.local_hosts, wherever they are."""
    assert check_hop(read_url(url), LAN, None if base is None else read_url(base)) is found


@pytest.mark.parametrize(
    ("url", "base", "said"),
    [
        ("https://evil.org/", None, "not one of the web.hosts"),
        ("https://xhuggingface.co/", None, "not one of the web.hosts"),
        ("https://mirror.lan:22/", None, "not one of the web.hosts"),
        ("https://10.0.0.1/", None, "not one of the web.hosts"),
        ("https://mirror.lan/", "https://huggingface.co/", "not one of the web.hosts"),
        ("https://mirror.org:22/", "https://huggingface.co/", "not the usual port"),
        ("https://mirror.org:22/", "https://mirror.org:8443/", "not the usual port"),
    ],
)
def test_servers_that_are_not_asked(url: str, base: str | None, said: str) -> None:
    """Others, other ports of the owner's own, and a redirect into the private network."""
    with pytest.raises(NoSources, match=said):
        check_hop(read_url(url), LAN, None if base is None else read_url(base))


def test_the_default_is_the_hub() -> None:
    """The Hub and its servers of large files, at any depth, and with ``never`` nobody."""
    for host in ("huggingface.co", "cdn-lfs.huggingface.co", "us-east-1.aws.cdn.hf.co"):
        assert check_hop(Url(host, 443, "/"), HUB) is False
    with pytest.raises(NoSources, match=r"hf\.co\.evil\.org is not one"):
        check_hop(Url("hf.co.evil.org", 443, "/"), HUB)
    with pytest.raises(NoSources, match=r"web\.seeds"):
        check_hop(BASE, Web(seeds="never"))


@pytest.mark.parametrize("address", ["18.164.174.23", "2600:9000:2000::1", "64:ff9b::12a4:ae17"])
def test_public_addresses_pass(address: str) -> None:
    """IPv4, IPv6, and IPv4 behind a translator."""
    check_address(address, "x.org")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.1.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "::1",
        "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff0e::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "::127.0.0.1", "2001:0:7f00:1::", "no address",
    ],
)  # fmt: skip
def test_other_addresses_do_not(address: str) -> None:
    """Private, local, shared, reserved, multicast, also where IPv6 wraps them."""
    with pytest.raises(NoSources, match="not a public one"):
        check_address(address, "x.org")


# --- a real server --------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that this process trusts."""
    made = Authority(tmp_path / "ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
    return made


Servers = Callable[..., WebServer]


@pytest.fixture
def serve(authority: Authority, tmp_path: Path) -> Iterator[Servers]:
    """Start servers of FILES; they end with the test."""
    folder = tmp_path / "files"
    for path, data in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    with ExitStack() as stack:
        yield lambda mode="honest", **options: stack.enter_context(
            web_server(authority, folder, mode, **options)
        )


def source(*bases: str, web: Web | None = None, **options: Any) -> WebSource:
    """A source of these folders, all of which are the owner's own."""
    urls = [read_base(base) for base in bases]
    files = {CID.of(data, Codec.RAW): [(path, len(data))] for path, data in FILES.items()}
    local = tuple(f"{url.host}:{url.port}" for url in urls)
    return WebSource(urls, files, web or Web(local_hosts=local), limits=QUICK, **options)


async def read(one: WebSource, cid: CID = BIG, start: int = 100, stop: int = 5000) -> bytes:
    """A range, in a session of its own."""
    async with one.open() as session:
        return b"".join([piece async for piece in session.read(cid, start, stop)])


async def test_ranges_come_as_they_are(serve: Servers) -> None:
    """One connection serves them all; nothing of who asks is told but that it is Allod."""
    server = serve()
    one = source(server.files)
    async with one.open() as session:
        for start, stop in ((0, 1), (17, 9000), (0, len(DATA))):
            assert b"".join([p async for p in session.read(BIG, start, stop)]) == DATA[start:stop]
        assert b"".join([p async for p in session.read(NOTE, 0, 6)]) == b"a note"
    assert server.connections == 1
    path, headers = server.asked[1]
    assert path == "/files/data/a%20b%23%C3%A9%3F.bin"
    assert headers == {
        "host": server.authority,
        "user-agent": "allod",
        "accept": "*/*",
        "accept-encoding": "identity",
        "range": "bytes=17-8999",
    }
    assert one.peer == f"https://{server.authority}"
    assert await one.open_lane() is None  # type: ignore[func-returns-value]


async def test_it_is_asked_for_files_alone(serve: Servers) -> None:
    """What nodes tell each other, and what is in no folder, is refused here: nothing is asked."""
    server = serve()
    async with source(server.files).open() as session:
        with pytest.raises(PeerRefused) as caught:
            await session.get("/allod/v1/have/x", limit=10)
        assert caught.value.status == 404
        with pytest.raises(PeerRefused, match="It has no"):
            await anext(session.read(CID.of(b"other", Codec.RAW), 0, 5))
    assert server.connections == 0


async def test_the_hub_redirects_and_is_asked_once(serve: Servers) -> None:
    """A redirect to the server of large files is followed, and remembered while it is good."""
    hub, storage = serve(), serve()
    hub.storage = storage
    web = Web(local_hosts=(hub.authority, storage.authority))
    one = source(hub.repo("org/tiny", "c0ffee"), web=web)
    assert await read(one) == DATA[100:5000]
    assert await read(one, BIG, 0, 10) == DATA[:10]
    assert [path.partition("?")[0] for path, _ in hub.asked] == [
        "/org/tiny/resolve/c0ffee/data/a%20b%23%C3%A9%3F.bin"
    ]
    assert len(storage.asked) == 2
    storage.mode = "forbidden"  # the signature has expired: from the start
    with pytest.raises(PeerRefused) as caught:
        await read(one)
    assert caught.value.status == 403
    assert len(hub.asked) == 2
    storage.mode = "honest"
    assert await read(one) == DATA[100:5000]


async def test_other_folders_of_the_server_are_tried(serve: Servers) -> None:
    """A file that one folder does not have may be in the next."""
    server = serve()
    one = source(f"https://{server.authority}/none/", server.files)
    assert await read(one, NOTE, 0, 6) == b"a note"
    assert [path for path, _ in server.asked] == ["/none/note.txt", "/files/note.txt"]


WRONG: list[tuple[Mode, type[NetworkError], str]] = [
    ("short", PeerGone, "2450 more bytes"),
    ("long", PeerFault, "Expected 4900 bytes, came 4901"),
    ("whole", PeerFault, "Expected a range of a file, came all of it"),
    ("elsewhere", PeerFault, "Expected bytes 100 to 5000, came 101 to 5001"),
    ("stall", PeerGone, "sent nothing for 0.5 s"),
    ("silent", PeerGone, "0.5 s"),
    ("hang up", PeerGone, "closed the stream"),
    ("headers", PeerFault, "Expected an HTTP answer"),
    ("gzip", PeerFault, "Expected plain bytes, came 'gzip'"),
    ("absent", PeerRefused, "answered 404 to /files/data"),
    ("forbidden", PeerRefused, "answered 403"),
    ("broken", PeerRefused, "answered 500"),
    ("grown", PeerRefused, "has 10241 bytes at .*, in the release 10240"),
]


@pytest.mark.parametrize(("mode", "kind", "said"), WRONG, ids=[mode for mode, _, _ in WRONG])
async def test_wrong_answers_are_told_apart(
    serve: Servers, mode: Mode, kind: type[NetworkError], said: str
) -> None:
    """Each is an error that says what was expected and what came; the next session is fine."""
    server = serve(mode)
    one = source(server.files)
    with pytest.raises(NetworkError, match=said) as caught:
        await read(one)
    assert type(caught.value) is kind
    server.mode = "honest"
    assert await read(one) == DATA[100:5000]


async def test_a_busy_server_says_when(serve: Servers) -> None:
    """429 carries the time after which it may be asked again."""
    with pytest.raises(PeerRefused) as caught:
        await read(source(serve("busy").files))
    assert (caught.value.status, caught.value.retry_after) == (429, 7.0)


async def test_wrong_bytes_are_the_readers_to_find(serve: Servers) -> None:
    """A session knows no hashes: what comes in the right length comes through."""
    found = await read(source(serve("lie").files))
    assert found != DATA[100:5000]
    assert len(found) == 4900


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://127.0.0.1/x", "came one of http"),
        ("https://127.0.0.1:1/x", "127.0.0.1:1 is not one of the web.hosts"),
        ("https://evil.example/x", "evil.example is not one of the web.hosts"),
        ("/files/note.txt", "redirected more than 5 times"),
        ("", "to nowhere"),
    ],
)
async def test_bad_redirects_end_there(serve: Servers, location: str, said: str) -> None:
    """Neither http, nor a server that the owner did not name, nor a circle; nobody is asked."""
    server = serve("moved")
    server.location = location
    with pytest.raises(NoSources, match=said):
        await read(source(server.files))
    assert len(server.asked) == (6 if location.startswith("/") else 1)
    assert server.connections <= 6


class Names(trio.abc.HostnameResolver):
    """A name server that gives one answer after the other."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host if isinstance(host, str) else host.decode())
        answer = self.answers.pop(0)
        return [(2, 1, 6, "", (address, int(port))) for address in answer]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    """A name server without answers."""
    made = Names()
    trio.socket.set_custom_hostname_resolver(made)
    yield made
    trio.socket.set_custom_hostname_resolver(None)


async def test_a_private_address_is_not_connected_to(serve: Servers, names: Names) -> None:
    """An allowed name whose addresses, or one of them, are this machine's leads nowhere."""
    server = serve(names=("mirror.test",))
    one = source(f"https://mirror.test:{server.port}/files/", web=Web(hosts=("mirror.test",)))
    names.answers = [["127.0.0.1"], ["18.164.174.23", "127.0.0.1"]]
    for _ in range(2):
        with pytest.raises(NoSources, match=r"mirror.test has the address 127.0.0.1"):
            await read(one)
    assert server.connections == 0


async def test_a_redirect_to_a_private_address_is_not_followed(
    serve: Servers, names: Names
) -> None:
    """Also where the name that it leads to is an allowed one."""
    server = serve("moved")
    server.location = "https://cdn.hf.co/x"
    web = Web(local_hosts=(server.authority,))
    names.answers = [["10.0.0.7"]]
    with pytest.raises(NoSources, match=r"cdn.hf.co has the address 10.0.0.7"):
        await read(source(server.files, web=web))


async def test_a_name_is_looked_up_once_a_connection(serve: Servers, names: Names) -> None:
    """The connection goes to the address that was checked, whatever the name says later."""
    server = serve(names=("mirror.test",))
    authority = f"mirror.test:{server.port}"
    one = source(f"https://{authority}/files/", web=Web(local_hosts=(authority,)))
    names.answers = [["127.0.0.1"]]
    assert await read(one) == DATA[100:5000]
    assert names.asked == ["mirror.test"]
    assert server.asked[0][1]["host"] == authority


async def test_a_server_must_have_the_name(serve: Servers, names: Names) -> None:
    """A certificate for another name, or of an authority that is not trusted, ends it at once."""
    server = serve(names=("other.test",))
    authority = f"mirror.test:{server.port}"
    one = source(f"https://{authority}/files/", web=Web(local_hosts=(authority,)))
    names.answers = [["127.0.0.1"]]
    with pytest.raises(NoSources, match=r"certificate of mirror\.test.*mismatch"):
        await read(one)
    assert server.asked == []


async def test_an_unknown_authority_is_not_trusted(
    serve: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SSL_CERT_FILE names is what is trusted."""
    server = serve()
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path / "other").file))
    with pytest.raises(NoSources, match=r"not good here.*") as caught:
        await read(source(server.files))
    assert "SSL_CERT_FILE" in caught.value.next


async def test_who_is_not_there_may_come_back(serve: Servers, names: Names) -> None:
    """A closed port and an unknown name are faults that may pass."""
    server = serve()
    server.shutdown()
    server.server_close()
    with pytest.raises(PeerGone, match="cannot be reached"):
        await read(source(server.files))


async def test_plain_http_behind_the_port_is_no_tls(nursery: trio.Nursery) -> None:
    """A server that speaks no TLS breaks the handshake, and nothing is sent in the clear."""
    heard: list[bytes] = []

    async def plain(stream: trio.SocketStream) -> None:
        heard.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    [listener] = await nursery.start(partial(trio.serve_tcp, plain, 0, host="127.0.0.1"))
    port = listener.socket.getsockname()[1]
    with pytest.raises(PeerGone, match="TLS"):
        await read(source(f"https://127.0.0.1:{port}/"))
    assert b"GET" not in heard[0]


class Counting(Meter):
    """A meter that remembers what was reserved on it."""

    def __init__(self) -> None:
        super().__init__(Bucket(1 << 30), Bucket(None), threading.Lock())
        self.counted = 0

    def reserve(self, size: int) -> float:
        self.counted += size
        return super().reserve(size)


async def test_its_bytes_count_on_the_rates(serve: Servers) -> None:
    """What comes is reserved on the node's meter."""
    meter = Counting()
    await read(source(serve().files, down=meter))
    assert meter.counted >= 4900


def test_the_system_is_trusted() -> None:
    """Names are verified, and old versions of TLS refused."""
    from p2p.web.dial import trust

    context = trust()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
