"""Ports that a router passes on: a small router of UPnP that answers as real ones do, and worse."""

import threading
from collections import abc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from re import findall, search

import pytest
import trio
import trio.testing

from p2p.address import Address
from p2p.errors import NetworkError
from p2p.portmap import LEASE, RENEW, Mapping, Router, find_router, keep_mapped, outer_address
from p2p.reachability import Reachability

pytest.importorskip("miniupnpc")

SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor>
</specVersion><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>
<serviceType>{SERVICE}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>
<controlURL>/control</controlURL><eventSubURL>/event</eventSubURL><SCPDURL>/scpd.xml</SCPDURL>
</service></serviceList></device></deviceList></device></deviceList></device></root>"""
ENVELOPE = (
    '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
    ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>{}</s:Body></s:Envelope>'
)
PortNumbers = abc.Mapping[int, int] | None
FAULT = (
    "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
    '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{}</errorCode>'
    "<errorDescription>{}</errorDescription></UPnPError></detail></s:Fault>"
)


class Gateway:
    """What the router has mapped, and how it behaves."""

    def __init__(self) -> None:
        self.outside = "93.184.216.34"
        self.mapped: dict[int, tuple[int, int]] = {}
        """Outer port: inner port, lease."""
        self.taken: set[int] = set()
        self.permanent_only = False
        self.refuses = False
        self.url = ""

    def answer(self, action: str, body: str) -> str:
        """The answer to a SOAP call."""
        said = dict(findall(r"<(New\w+)>([^<]*)</New", body))
        if action == "GetExternalIPAddress":
            return f"<NewExternalIPAddress>{self.outside}</NewExternalIPAddress>"
        if action == "GetStatusInfo":
            return "<NewConnectionStatus>Connected</NewConnectionStatus><NewUptime>1</NewUptime>"
        port = int(said["NewExternalPort"])
        if action == "DeletePortMapping":
            del self.mapped[port]
            return ""
        assert action == "AddPortMapping"
        lease = int(said["NewLeaseDuration"])
        if self.refuses:
            return FAULT.format(606, "Action not authorized")
        if port in self.taken:
            return FAULT.format(718, "ConflictInMappingEntry")
        if self.permanent_only and lease:
            return FAULT.format(725, "OnlyPermanentLeasesSupported")
        self.mapped[port] = int(said["NewInternalPort"]), lease
        return ""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A router on loopback, asked by its description: no search by multicast."""
    made = Gateway()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, DESCRIPTION)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            found = search(r"#(\w+)", self.headers["soapaction"])
            assert found is not None
            said = made.answer(found[1], body)
            if not said.startswith("<s:Fault>"):
                said = f'<u:{found[1]}Response xmlns:u="{SERVICE}">{said}</u:{found[1]}Response>'
                self._send(200, ENVELOPE.format(said))
            else:
                self._send(500, ENVELOPE.format(said))

        def _send(self, status: int, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("content-type", "text/xml")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_port}/root.xml"
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def router(gateway: Gateway) -> Router:
    found = find_router(gateway.url)
    assert found is not None
    return found


def test_ports_are_mapped_and_taken_back(gateway: Gateway) -> None:
    """The outer port is the inner one, for an hour; miniupnpc speaks to it as to a real one."""
    found = router(gateway)
    mapping = found.map([9770, 40000], {})
    assert mapping == Mapping("93.184.216.34", {9770: 9770, 40000: 40000})
    assert gateway.mapped == {9770: (9770, LEASE), 40000: (40000, LEASE)}
    found.unmap([9770, 40000, 7])
    assert gateway.mapped == {}


def test_a_port_that_somebody_else_has(gateway: Gateway) -> None:
    """Two nodes in one home: the second gets another port, and the same one again."""
    gateway.taken = {9770}
    found = router(gateway)
    mapping = found.map([9770], {})
    assert mapping.ports[9770] != 9770
    assert found.map([9770], mapping.ports) == mapping


def test_a_router_that_knows_permanent_mappings_only(gateway: Gateway) -> None:
    """It gets one, which is taken back at the end all the same."""
    gateway.permanent_only = True
    router(gateway).map([9770], {})
    assert gateway.mapped == {9770: (9770, 0)}


def test_a_router_that_refuses(gateway: Gateway) -> None:
    """It is asked once for each port, and says why."""
    gateway.refuses = True
    with pytest.raises(NetworkError, match=r"port 9770 not on \(Action not authorized\)"):
        router(gateway).map([9770], {})


@pytest.mark.parametrize("host", ["10.0.0.1", "100.64.3.2", "", "nonsense", "127.0.0.1"])
def test_a_router_behind_another_one(host: str) -> None:
    """What is no public address is no address to tell, whatever the router says."""
    assert outer_address(Mapping(host, {9770: 9770}), [9770]) is None


async def told(reach: Reachability, clock: trio.testing.MockClock, seconds: float) -> None:
    """Let time pass, and wait for the news that it brings."""
    changed = reach.changed
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)
    await changed.wait()


async def test_mappings_are_kept_and_taken_back(
    gateway: Gateway, mock_clock: trio.testing.MockClock
) -> None:
    """They come, follow a restart of the router and a new address, and go with the node."""
    reach = Reachability()
    calls = []

    def find() -> Router | None:
        calls.append(1)
        return router(gateway)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: keep_mapped(reach, [9770, 40000], find=find))
        await told(reach, mock_clock, 0)
        assert reach.mapped == Address("ip4", "93.184.216.34", 9770)
        gateway.mapped.clear()
        gateway.outside = "93.184.216.35"
        await told(reach, mock_clock, RENEW)
        assert set(gateway.mapped) == {9770, 40000}
        assert reach.mapped == Address("ip4", "93.184.216.35", 9770)
        nursery.cancel_scope.cancel()
    assert reach.mapped is None
    assert gateway.mapped == {}
    assert calls == [1]


async def test_a_router_that_comes_later(
    gateway: Gateway, mock_clock: trio.testing.MockClock
) -> None:
    """No router is no error, nor is one that refuses; both are asked again."""
    send, looks = trio.open_memory_channel[Address | None](10)

    class Watched(Reachability):
        def map(self, address: Address | None, ports: abc.Mapping[int, int] | None = None) -> None:
            super().map(address, ports)
            send.send_nowait(address)

    gateway.refuses = True
    found = [None, router(gateway), router(gateway)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: keep_mapped(Watched(), [9770], find=lambda: found.pop(0)))
        for left in (2, 1):
            assert await looks.receive() is None
            assert len(found) == left
            gateway.refuses = left == 2
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(RENEW)
        assert await looks.receive() == Address("ip4", "93.184.216.34", 9770)
        nursery.cancel_scope.cancel()


async def test_a_node_with_an_address_of_its_own_asks_no_router(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A mapping is asked for only while there is no other way in."""

    def find() -> Router | None:
        pytest.fail("it was searched")

    with trio.move_on_after(2.5 * RENEW):
        await keep_mapped(Reachability(), [9770], needed=lambda: False, find=find)


async def test_a_router_that_hangs(autojump_clock: trio.testing.MockClock) -> None:
    """It costs a thread and some seconds, and the end of the node waits for neither."""
    hold, asked = threading.Event(), threading.Event()

    def find() -> Router | None:
        asked.set()
        hold.wait(60)
        return None

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: keep_mapped(Reachability(), [9770], find=find))
            await trio.to_thread.run_sync(asked.wait)
            nursery.cancel_scope.cancel()
    finally:
        hold.set()
