"""Whether strangers get through to this node: AutoNAT v1, asked and answered.

Speaks ``/libp2p/autonat/1.0.0`` of libp2p's specifications, as other implementations do. What the
answers mean is decided in ``p2p.reachability``; here they are fetched.

- Asked: peers with public addresses that speak it, a few at a time, when they are met and every
  quarter of an hour. A host on loopback or a LAN alone has nothing to ask.
- Answered: the asker's own IP address is dialled and no other, on a fresh connection that must
  prove to be the asker, so that nobody can have this node knock at somebody else's door. Nothing is
  dialled for who came through a relay. Few dials at once, few a minute for each asker and network.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import base58
import trio
from libp2p.abc import INetStream
from libp2p.host.autonat.pb.autonat_pb2 import Message
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID

from p2p.address import Address, Reach
from p2p.delimited import frame, read_message
from p2p.errors import NetworkError, PeerFault, UsageError
from p2p.host import Host
from p2p.limits import TokenBucket
from p2p.network import far_host
from p2p.reachability import Vote, neighbourhood
from p2p.relay.observed import Observed
from p2p.streams import PeerStream
from p2p.waiting import first_of

log = logging.getLogger(__name__)

PROTOCOL = "/libp2p/autonat/1.0.0"
MAX_MESSAGE = 4096
"""Bytes: a question names some dozen addresses of 50 bytes."""
MAX_ADDRESSES = 16
"""Addresses of a question that are looked at."""
MAX_DIALS = 4
"""Addresses that are dialled for one question."""
DIALLING = 8
"""Questions that are worked on at the same time."""
DIAL_TIME = 12.0
"""Seconds for all dials of a question."""
READ_TIME = 10.0
"""Seconds for a question to come whole."""
ASK_TIME = 25.0
"""Seconds for an answer: the other side's dials, and the way."""
RATE, BURST = 3 / 60.0, 3.0
"""Questions answered a second, and at once, of one peer and of one network (as go-libp2p)."""
RATE_ALL, BURST_ALL = 30 / 60.0, 30.0
"""The same, of all together."""
MAX_ASKERS = 1024
"""Peers and networks whose rates are remembered."""
ROUND = 4
"""Peers that are asked at a time."""
SETTLE = 1.0
"""Seconds that are waited for more news after the first, before peers are asked."""
LOOK_AGAIN = 60.0
"""Seconds between two looks at this machine's addresses and at whom to ask."""

Status = Message.ResponseStatus


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer found: the address by which it came in, or None where none worked."""

    worked: Address | None


class AutoNat:
    """AutoNAT over one host; made by ``open_autonat``."""

    def __init__(self, host: Host, observed: Observed | None = None) -> None:
        """``observed``: what others see of this host, if it is asked for elsewhere too."""
        self.counts: Counter[str] = Counter()
        """Questions answered: worked, failed, refused."""
        self._host = host
        self._observed = observed or Observed(host)
        self._dialling = 0
        now = trio.current_time()
        self._all = TokenBucket(RATE_ALL, BURST_ALL, now)
        self._askers: OrderedDict[str, TokenBucket] = OrderedDict()
        self._news = trio.Event()
        self._interfaces: frozenset[Address] | None = None

    def serve(self) -> None:
        """Answer from now on; before the first connection, so that peers hear of it."""
        self._host.set_stream_handler(PROTOCOL, self._serve)

    async def run(self) -> None:
        """Ask as long as there is something to ask about; never returns."""
        self._host.identified.append(lambda peer: self._news.set())
        reach = self._host.reachability
        while True:
            self._news = trio.Event()
            changed = reach.changed
            reach.expire(trio.current_time())
            self._look_at_interfaces()
            await self._round()
            with trio.move_on_after(LOOK_AGAIN):
                await first_of(changed, self._news)
                await trio.sleep(SETTLE)

    # --- asking ---

    def _look_at_interfaces(self) -> None:
        found = frozenset(self._host.interfaces())
        if self._interfaces not in (None, found):
            log.info("this machine's addresses have changed")
            self._host.reachability.forget()
            self._host.moved()
        self._interfaces = found

    async def _round(self) -> None:
        if all(address.reach is Reach.MACHINE for address in self._interfaces or ()):
            return
        now = trio.current_time()
        able: list[tuple[str, str]] = []
        for info in self._host.peers():
            if PROTOCOL in self._host.protocols_of(info.peer):
                networks = map(neighbourhood, self._host.hosts_of(info.peer))
                able += [(info.peer, network) for network in networks if network is not None][:1]
        async with trio.open_nursery() as nursery:
            for peer in self._host.reachability.to_ask(able, now, ROUND):
                self._host.reachability.asked(peer, now)
                nursery.start_soon(self._ask_and_vote, peer, dict(able)[peer])

    async def _ask_and_vote(self, peer: str, network: str) -> None:
        reach = self._host.reachability
        era = reach.era
        candidates = await self.candidates(peer)
        if not candidates:
            return
        try:
            answer = await self.ask(peer, candidates)
        except NetworkError as exc:
            log.debug("%s did not try our addresses: %s", peer, exc)
            return
        if answer is not None and era == reach.era:
            kind = answer.worked.kind if answer.worked is not None else candidates[0].kind
            vote = Vote(peer, network, kind, answer.worked, trio.current_time())
            before = reach.verdict, reach.confirmed
            reach.vote(vote)
            if (reach.verdict, reach.confirmed) != before:
                works = ", ".join(str(one) for one in reach.confirmed)
                log.info("reach: %s%s", reach.verdict, works and f", at {works}")

    async def candidates(self, peer: str) -> list[Address]:
        """Return what ``peer`` may try: addresses that lead far, and how it sees this machine.

        Only addresses of the kind that the connection has: it would try no others.
        """
        host = self._host
        hosts = host.hosts_of(peer)
        kind = "ip6" if hosts and ":" in hosts[0] else "ip4"
        found = [*host.reachability.confirmed, *host.interfaces()]
        mapped = host.reachability.mapped
        found += [mapped] if mapped is not None else []
        found += [Address.parse(text).at(None) for text in host.settings.announce]
        await self._observed.ask(peer)
        seen = self._observed.at(peer)
        if seen is not None:
            outer = [mapped.port] if mapped is not None else []
            ports = [
                *outer,
                *(port for name, port in host.bound if (":" in name) is (kind == "ip6")),
            ]
            found += [Address(kind, seen[1].host, port) for port in ports if seen[1].kind == kind]
        wide = [one for one in found if one.kind == kind and one.reach is Reach.WORLD]
        return list(dict.fromkeys(wide))[:MAX_ADDRESSES]

    async def ask(self, peer: str, addresses: Sequence[Address]) -> Answer | None:
        """Have ``peer`` try these addresses of ours; None when it would not.

        Raises NetworkError when it can't be asked, PeerFault when the answer makes no sense.
        """
        question = Message(type=Message.DIAL)
        question.dial.peer.id = base58.b58decode(self._host.peer_id)
        question.dial.peer.addrs.extend(bytes(address.at(None)) for address in addresses)
        try:
            with trio.fail_after(ASK_TIME):
                stream = await self._host.open_stream(peer, PROTOCOL)
                try:
                    await stream.send_all(frame(question))
                    answer = await _read(stream, peer)
                finally:
                    await stream.abort()
        except (trio.TooSlowError, trio.BrokenResourceError) as exc:
            raise NetworkError(f"{peer} did not say whether it came in.") from exc
        if answer is None or answer.type != Message.DIAL_RESPONSE:
            raise PeerFault("Expected the answer to a dial.", peer=peer)
        if answer.dialResponse.status == Message.E_DIAL_ERROR:
            return Answer(None)
        if answer.dialResponse.status != Message.OK:
            return None
        worked = _address(answer.dialResponse.addr)
        if worked is None or worked.at(None) not in addresses:
            raise PeerFault("It came in by an address that it was not asked about.", peer=peer)
        return Answer(worked.at(None))

    # --- answering ---

    async def _serve(self, stream: INetStream) -> None:
        peer = str(stream.muxed_conn.peer_id)
        ours = self._host.wrap(stream, peer)
        with trio.move_on_after(READ_TIME) as scope:
            question = await _read(ours, peer)
        if scope.cancelled_caught or question is None:
            await ours.abort()
            return
        if question.type != Message.DIAL:
            raise PeerFault("Expected a question to dial.", peer=peer)
        answer = Message(type=Message.DIAL_RESPONSE)
        if question.dial.peer.id != base58.b58decode(peer):
            answer.dialResponse.status = Message.E_BAD_REQUEST
            answer.dialResponse.statusText = "the peer id is another"
        else:
            ip = self._host_of(stream, peer)
            addresses = self._allowed(question.dial.peer.addrs, ip)
            worked = None
            if ip is None or not addresses or not self._admit(peer, ip):
                self.counts["refused"] += 1
                answer.dialResponse.status = Message.E_DIAL_REFUSED
                answer.dialResponse.statusText = "nothing that this node would dial now"
            elif (worked := await self._try(peer, addresses)) is None:
                self.counts["failed"] += 1
                answer.dialResponse.status = Message.E_DIAL_ERROR
                answer.dialResponse.statusText = "nobody answered there as this peer"
            else:
                self.counts["worked"] += 1
                answer.dialResponse.status = Message.OK
                answer.dialResponse.addr = bytes(worked)
        await ours.send_all(frame(answer))
        await ours.aclose()

    def _host_of(self, stream: INetStream, peer: str) -> str | None:
        """The IP address that the question comes from; None behind a relay."""
        for conn in self._host.network.live(ID.from_base58(peer)):
            if conn.muxed_conn is stream.muxed_conn:
                return far_host(conn)
        return None

    def _allowed(self, told: Sequence[bytes], ip: str | None) -> list[Address]:
        """The addresses that may be dialled: the asker's own IP, and where a stranger may point."""
        found: list[Address] = []
        for raw in told[:MAX_ADDRESSES]:
            address = _address(raw)
            if address is not None and address.relay is None and address.host == ip:
                plain = address.at(None)
                if self._host.reaches(plain) and plain not in found:
                    found.append(plain)
        return found[:MAX_DIALS]

    def _admit(self, peer: str, ip: str) -> bool:
        """Count a question against what its peer, its network and all together may ask."""
        if self._dialling >= DIALLING:
            return False
        now = trio.current_time()
        for key in (peer, neighbourhood(ip) or ip):
            bucket = self._askers.pop(key, None) or TokenBucket(RATE, BURST, now)
            self._askers[key] = bucket
            while len(self._askers) > MAX_ASKERS:
                self._askers.popitem(last=False)
            if bucket.take(now):
                return False
        return not self._all.take(now)

    async def _try(self, peer: str, addresses: Sequence[Address]) -> Address | None:
        """Dial the addresses one after the other; the first at which the peer answers."""
        self._dialling += 1
        try:
            with trio.move_on_after(DIAL_TIME):
                for address in addresses:
                    try:
                        await self._host.network.greet(ID.from_base58(peer), address)
                        return address
                    except (SwarmException, OSError, trio.TooSlowError) as exc:
                        log.debug("%s does not answer at %s: %s", peer, address, exc)
        finally:
            self._dialling -= 1
        return None


async def _read(stream: PeerStream, peer: str) -> Message | None:
    return await read_message(stream, Message, limit=MAX_MESSAGE, peer=peer, name="AutoNAT message")


def _address(raw: bytes) -> Address | None:
    try:
        return Address.from_bytes(raw)
    except UsageError:
        return None


@asynccontextmanager
async def open_autonat(host: Host, observed: Observed | None = None) -> AsyncIterator[AutoNat]:
    """Answer whoever asks, and find out what of this host is reached from outside."""
    async with trio.open_nursery() as nursery:
        autonat = AutoNat(host, observed)
        autonat.serve()
        nursery.start_soon(autonat.run)
        try:
            yield autonat
        finally:
            nursery.cancel_scope.cancel()
