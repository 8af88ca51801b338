"""Nodes that answer for each other, on real hosts: who is asked, and how much is believed."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
import trio.testing

from node.api.answers import Answers
from node.api.openai.requests import read_chat
from node.federation import asking, federation
from node.federation.federation import Federation
from node.inference import Call, Served
from node.peers import PeerNetwork
from node.receipts import Receipts
from node.upkeep import keep_shared
from p2p.cid import CID, Codec
from p2p.errors import (
    AllodError,
    BadBytes,
    Busy,
    EngineError,
    NoEngine,
    NoMemory,
    OverLimit,
    PeerFault,
    PeerGone,
    Refused,
    TooMuch,
    Unsupported,
)
from p2p.http import HttpLimits, LiveBody, Request, Response, Send, Start
from p2p.keys import SecretKey
from p2p.receipt import read_receipt, sign_receipt
from p2p.serving import BEAT, PLACES, SIGN_OF_LIFE, serving_key
from tests.inference import DONE, TOO_LONG, Script, Step, chat_stream, chat_whole, speak, whole
from tests.network.hosts import Crew, Running, crew
from tests.sharing import CHAT, MANIFEST, Desk, Load, Local, Policy, tiny

NAME = "bob/mine"  # what the asking node calls the model
Bend = Callable[[Request, Response], Response]


@dataclass
class Sharer:
    """A node that shares the model; ``bend`` changes what it answers."""

    running: Running
    local: Local
    answers: Answers
    desk: Desk
    bend: Bend | None = None
    posts: list[Request] = field(default_factory=list)
    looks: int = 0

    @property
    def peer(self) -> str:
        return self.running.host.peer_id

    async def handle(self, request: Request) -> Response:
        if request.method == "POST":
            self.posts.append(request)
        self.looks += request.path.startswith("/allod/v1/serving/")
        response = await self.answers(request)
        return self.bend(request, response) if self.bend is not None else response


@dataclass
class Asker:
    """A node that may ask peers."""

    running: Running
    local: Local
    federation: Federation
    policy: Policy

    @property
    def model(self) -> Served:
        return self.local.models[0]

    async def hear(self, call: Call, into: bytearray) -> None:
        """Ask, and keep what comes, to its end or to what ends it."""
        async with self.federation.ask(self.model, call) as answer:
            async for piece in answer.body:
                into += piece

    async def say(self, call: Call) -> tuple[int, str, bytes]:
        """Ask, and read the answer to its end: status, who gave it, and all of it."""
        async with self.federation.ask(self.model, call) as answer:
            body = b"".join([piece async for piece in answer.body])
            return answer.status, answer.served_by, body


async def sharer(
    hosts: Crew, *, peers: tuple[str, ...] = ("all",), bend: Bend | None = None, **local: Any
) -> Sharer:
    running = await hosts.host(dht=True)
    engine = Local(**local)
    engine.peer_id = running.host.peer_id
    desk = Desk(Receipts(running.key))
    answers = Answers(engine, desk, Policy(), peers)
    node = Sharer(running, engine, answers, desk, bend)
    running.host.set_handler(node.handle, answers.takes)
    return node


def network(running: Running, nursery: trio.Nursery, policy: Policy) -> PeerNetwork:
    return PeerNetwork(running.host, running.dht, nursery, policy)  # type: ignore[arg-type]


@asynccontextmanager
async def asking_node(hosts: Crew, *others: Sharer, **changes: Any) -> AsyncIterator[Asker]:
    """A node with the same model under another name, connected to the others."""
    running, policy = await hosts.host(dht=True), Policy()
    changes = {"via_peers": True, "shared": False, **changes}
    local = Local(models=[tiny(name=NAME, **changes)])
    local.peer_id = running.host.peer_id
    for other in others:
        await running.host.connect(other.running.host.addresses[0])
    async with trio.open_nursery() as nursery:
        federation = Federation(local, network(running, nursery, policy), policy)
        yield Asker(running, local, federation, policy)
        nursery.cancel_scope.cancel()


def call(*, stream: bool = True, may_leave: bool = True, **more: Any) -> Call:
    asked = read_chat(CHAT | {"model": NAME, "stream": stream} | more)
    return asked.call(NAME, may_leave)


DOWN: list[Exception] = [
    Busy("All places are taken.", retry_after=3),
    EngineError("The engine died."),
    NoEngine("Nothing runs it."),
    NoMemory("No room."),
    Unsupported("No tools here."),
]


# -- who answers


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fails", DOWN, ids=lambda exc: type(exc).__name__)
async def test_a_peer_answers_for_an_engine_that_cannot(fails: Exception, stream: bool) -> None:
    """Full, down, too large: the same model of another node answers, under our name for it."""
    async with crew() as hosts:
        b = await sharer(hosts)
        async with asking_node(hosts, b) as a:
            a.local.fails = fails
            status, who, body = await a.say(call(stream=stream))
            assert (status, who) == (200, b.peer)
            assert f'"model":"{NAME}"'.encode() in body.replace(b": ", b":")
            assert str(MANIFEST).encode() not in body
            assert body.endswith(DONE) is stream
            assert b"Hel" in body


async def test_a_peer_answers_for_a_model_that_is_not_here() -> None:
    """A model of which only the statement is here is answered for by a peer."""
    async with crew() as hosts:
        b = await sharer(hosts)
        async with asking_node(hosts, b, state="remote") as a:
            assert (await a.say(call()))[1] == b.peer
            assert not a.local.asked


async def test_an_engine_that_dies_before_its_first_byte() -> None:
    """What our own engine has not begun to say, a peer may say."""
    async with crew() as hosts:
        b = await sharer(hosts)
        async with asking_node(hosts, b) as a:
            a.local.script = lambda model, call: Script([EngineError("It died.")])
            assert (await a.say(call()))[1] == b.peer
            assert a.local.busy == 0


async def test_an_engine_that_dies_after_its_first_byte() -> None:
    """Half an answer of ours is never finished by another."""
    async with crew() as hosts:
        b = await sharer(hosts)
        async with asking_node(hosts, b) as a:
            steps: list[Step] = [*chat_stream("Hel")[:2], EngineError("It died.")]
            a.local.script = lambda model, call: Script(steps)
            with pytest.raises(EngineError, match=r"^It died\.$"):
                await a.say(call())
            assert not b.posts


async def test_our_own_engine_comes_first() -> None:
    """While it can answer nobody else is asked anything."""
    async with crew() as hosts:
        b = await sharer(hosts)
        async with asking_node(hosts, b) as a:
            status, _, body = await a.say(call())
            assert (status, body.endswith(DONE)) == (200, True)
            assert len(a.local.asked) == 1
            assert not b.posts


@pytest.mark.parametrize("fails", [*DOWN, OverLimit("Enough.", retry_after=9)])
async def test_what_may_not_leave_does_not(fails: Exception) -> None:
    """Without the word of both the owner and the token no peer sees a prompt."""
    async with crew() as hosts:
        b = await sharer(hosts)
        async with asking_node(hosts, b) as a:
            a.local.fails = fails
            with pytest.raises(type(fails)) as caught:
                await a.say(call(may_leave=False))
            assert caught.value is fails
            a.local.models = [replace(a.model, via_peers=False)]
            with pytest.raises(type(fails)):
                await a.say(call())
            a.local.models = [replace(a.model, via_peers=True, state="remote")]
            with pytest.raises(Refused, match="may not leave"):
                await a.say(call(may_leave=False))
            a.local.fails = OverLimit("Enough.", retry_after=9)
            a.local.models = [replace(a.model, state="ready")]
            with pytest.raises(OverLimit):
                await a.say(call())
            assert not b.posts


async def test_what_our_policy_refuses_is_asked_of_nobody() -> None:
    """A release that is refused here is not answered for by others either."""
    async with crew() as hosts:
        b = await sharer(hosts)
        async with asking_node(hosts, b, state="remote") as a:
            a.policy.refused.add(MANIFEST)
            with pytest.raises(Refused, match="revoked"):
                await a.say(call())
            assert not b.posts


async def test_what_a_peer_sees() -> None:
    """It sees the checked request, and the model by its digest; our names stay here."""
    async with crew() as hosts:
        b = await sharer(hosts)
        async with asking_node(hosts, b, state="remote") as a:
            await a.say(call(user="somebody", temperature=0.5))
            [request] = b.posts
            seen = json.loads(request.body)
            assert seen["model"] == str(MANIFEST)
            assert (seen["temperature"], "user" in seen) == (0.5, False)
            assert b"bob" not in request.body
            [(account, use)] = b.desk.accounts.used
            assert account.id == f"peer:{a.running.host.peer_id}"
            assert use.status == 200


async def test_the_least_busy_is_asked() -> None:
    """Of those who serve it the one with the fewest requests for each slot answers."""
    async with crew() as hosts:
        loads = [Load(2, 2, 1), Load(4, 1, 0), Load(1, 1, 0)]
        b, c, d = [await sharer(hosts, said=load) for load in loads]
        async with asking_node(hosts, b, c, d, state="remote") as a:
            assert (await a.say(call()))[1] == c.peer
            assert not b.posts
            assert not d.posts


@pytest.mark.parametrize("peers", [(), ("12D3KooWsomebody",)])
async def test_a_peer_that_does_not_share_with_us(peers: tuple[str, ...]) -> None:
    """Nobody is asked who does not name us; the error says what is wrong here."""
    async with crew() as hosts:
        b = await sharer(hosts, peers=peers)
        async with asking_node(hosts, b) as a:
            a.local.fails = Busy("All places are taken.", retry_after=3)
            with pytest.raises(Busy, match="No peer was found") as caught:
                await a.say(call())
            assert caught.value.retry_after == 3
            assert not b.posts
            with pytest.raises(Busy):  # and it is not asked again at once
                await a.say(call())


async def test_found_in_the_dht() -> None:
    """Who shares is found by the key of the manifest, though nobody here is connected to it."""
    async with crew() as hosts, asking_node(hosts, state="remote") as a:
        b = await sharer(hosts)
        boot = await hosts.host(dht=True)
        other = CID.of(b"another", Codec.JSON)
        b.local.models += [tiny(manifest=other, shared=False)]
        for node in (b.running, a.running):
            await node.host.connect(boot.host.addresses[0])
            await node.dht.kad.meet(boot.host.peer_id, boot.host.own_addresses())
            await node.dht.wait_ready()
        async with sharing(b):
            assert await announced(b, MANIFEST)
            assert not await announced(b, other)
            if a.running.host.connected(b.peer):
                await a.running.host.disconnect(b.peer)
            assert (await a.say(call()))[1] == b.peer


@asynccontextmanager
async def sharing(node: Sharer) -> AsyncIterator[tuple[Policy, Callable[[], None]]]:
    """Keep announced what a node shares: its policy, and what says that it shares other models."""
    policy, events = Policy(), [trio.Event()]

    def change() -> None:
        events.append(trio.Event())
        events[-2].set()

    async with trio.open_nursery() as nursery:
        way = network(node.running, nursery, policy)
        nursery.start_soon(keep_shared, node.local, policy, way, lambda: events[-1])
        await trio.testing.wait_all_tasks_blocked()
        yield policy, change
        nursery.cancel_scope.cancel()


async def announced(node: Sharer, manifest: CID) -> bool:
    """Say whether a node is known to answer for a release."""
    return await node.running.dht.wait_announced([serving_key(manifest)], timeout=20)


async def test_announced_while_it_is_shared() -> None:
    """The key follows what is shared, and the policy."""
    async with crew() as hosts:
        b, boot = await sharer(hosts), await hosts.host(dht=True)
        await b.running.host.connect(boot.host.addresses[0])
        await b.running.dht.kad.meet(boot.host.peer_id, boot.host.own_addresses())
        await b.running.dht.wait_ready()
        models, b.local.models = b.local.models, []
        async with sharing(b) as (policy, change):
            assert not await announced(b, MANIFEST)
            b.local.models = models
            change()
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert await announced(b, MANIFEST)
            policy.refused.add(MANIFEST)
            event, policy.change = policy.change, trio.Event()
            event.set()
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert not await announced(b, MANIFEST)


# -- what fails, and what comes next


async def test_a_busy_or_broken_peer_is_passed_over() -> None:
    """429, 503 and 5xx mean the next one; an engine's own refusal is the answer."""
    async with crew() as hosts:
        b = await sharer(hosts, said=Load(9, 0, 0), fails=Busy("Full.", retry_after=7))
        c = await sharer(hosts, said=Load(9, 1, 0), fails=EngineError("secret"))
        d = await sharer(hosts, said=Load(9, 2, 0))
        async with asking_node(hosts, b, c, d, state="remote") as a:
            assert (await a.say(call()))[1] == d.peer
            assert (len(b.posts), len(c.posts)) == (1, 1)
            d.local.script = lambda model, call: whole(TOO_LONG, 400)
            assert await a.say(call()) == (400, d.peer, TOO_LONG)
            assert (len(b.posts), len(c.posts)) == (1, 1)  # both are left alone


async def test_many_at_once() -> None:
    """One look serves them all, the peers share the work, and each gets no more than it grants."""
    async with crew() as hosts:
        begun: list[Call] = []
        busy: list[Busy] = []
        full, turned_down, never = trio.Event(), trio.Event(), trio.Event()

        def answer(model: Served, call: Call) -> Script:
            begun.append(call)
            if len(begun) == 2 * PLACES:
                full.set()
            return Script([*chat_stream("Hel")[:2], never])

        b, c = await sharer(hosts, script=answer), await sharer(hosts, script=answer)
        async with asking_node(hosts, b, c, state="remote") as a:

            async def ask() -> None:
                try:
                    await a.say(call())
                except Busy as exc:
                    busy.append(exc)
                    if len(busy) == 2:
                        turned_down.set()

            async with trio.open_nursery() as nursery:
                for _ in range(2 * PLACES + 2):
                    nursery.start_soon(ask)
                await full.wait()
                await turned_down.wait()
                assert (b.looks, c.looks) == (1, 1)
                assert (len(b.posts), len(c.posts)) == (PLACES, PLACES)
                assert not a.federation.standings.aside(b.peer, trio.current_time())
                nursery.cancel_scope.cancel()


async def test_all_are_busy() -> None:
    """Where all peers are full, the client is told when to come back."""
    async with crew() as hosts:
        b = await sharer(hosts, fails=Busy("Full.", retry_after=7))
        async with asking_node(hosts, b, state="remote") as a:
            with pytest.raises(Busy) as caught:
                await a.say(call())
            assert caught.value.retry_after == 7
            assert b.peer in caught.value.message


async def test_a_peer_that_is_gone_is_left_alone() -> None:
    """A peer that cannot be reached fails once, and then is not tried for a while."""
    async with crew() as hosts:
        b, c = await sharer(hosts, said=Load(9, 0, 0)), await sharer(hosts, said=Load(9, 5, 0))
        async with asking_node(hosts, b, c, state="remote") as a:
            assert (await a.say(call()))[1] == b.peer
            await b.running.stop()
            assert (await a.say(call()))[1] == c.peer
            assert a.federation.standings.aside(b.peer, trio.current_time())
            begun = a.federation.standings.of(b.peer).until
            assert (await a.say(call()))[1] == c.peer
            assert a.federation.standings.of(b.peer).until == begun


@pytest.mark.parametrize("stream", [True, False])
async def test_a_silent_peer_does_not_hold_up_what_can_wait_here(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full engine of ours is still there when a peer that said it is free says nothing."""
    monkeypatch.setattr(federation, "FREE_STREAM_WITHIN", 0.5)
    monkeypatch.setattr(federation, "FREE_WHOLE_WITHIN", 0.5)
    async with crew() as hosts:
        never = Script([trio.Event()])
        b = await sharer(hosts, said=Load(9, 0, 0), script=lambda model, call: never)
        c = await sharer(hosts, said=Load(9, 1, 0))
        async with asking_node(hosts, b, c) as a:
            a.local.said = Load(1, 1, 0)
            with trio.fail_after(60):
                status, _, body = await a.say(call(stream=stream))
            assert (status, b"Hel" in body) == (200, True)
            assert len(a.local.asked) == 1
            assert len(b.posts) == 1
            assert not c.posts  # the time was gone: that is no fault of its own
            standings, now = a.federation.standings, trio.current_time()
            assert standings.aside(b.peer, now) == "it is busy"
            assert (standings.of(b.peer).failures, standings.aside(c.peer, now)) == (0, "")


async def test_a_peer_that_dies_in_the_middle() -> None:
    """After the first byte nobody else is asked; the peer is left alone from then on."""
    async with crew() as hosts:
        steps: list[Step] = [*chat_stream("Hel")[:2], EngineError("It died.")]
        b = await sharer(hosts, said=Load(9, 0, 0), script=lambda model, call: Script(steps))
        c = await sharer(hosts, said=Load(9, 7, 0))
        async with asking_node(hosts, b, c, state="remote") as a:
            got = bytearray()
            with pytest.raises(PeerGone):
                await a.hear(call(), got)
            assert b"Hel" in got
            assert not c.posts
            assert a.federation.standings.of(b.peer).failures == 1
            assert (await a.say(call()))[1] == c.peer
            a.federation.standings.of(b.peer).until = 0
            with pytest.raises(PeerGone):  # a good beginning wipes nothing
                await a.say(call())
            assert a.federation.standings.of(b.peer).failures == 2
            b.local.script = speak
            a.federation.standings.of(b.peer).until = 0
            assert (await a.say(call()))[1] == b.peer
            assert a.federation.standings.of(b.peer).failures == 0


async def test_hanging_up_frees_the_far_slot() -> None:
    """A client that leaves frees the slot of the peer that was answering, in the middle of it."""
    async with crew() as hosts:
        never = trio.Event()
        steps = [*chat_stream("Hel")[:2], never]
        b = await sharer(hosts, script=lambda model, call: Script(steps))
        async with asking_node(hosts, b, state="remote") as a:
            async with a.federation.ask(a.model, call()) as answer:
                assert await anext(answer.body)
                assert b.local.busy == 1
            await b.local.freed.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert b.local.busy == 0


async def test_hanging_up_before_the_answer_frees_the_far_slot() -> None:
    """So does one that leaves while a whole answer is made, of which no byte has come."""
    async with crew() as hosts:
        never = trio.Event()
        b = await sharer(hosts, script=lambda model, call: Script([never]))
        async with asking_node(hosts, b, state="remote") as a:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.say, call(stream=False))
                await b.local.begun.wait()
                nursery.cancel_scope.cancel()
            await b.local.freed.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert b.local.busy == 0


# -- what is not believed


def live(response: Response, wrap: Callable[[Start], Start]) -> Response:
    """The same answer, its head or its body bent."""
    body = response.body
    if not isinstance(body, LiveBody):
        return response
    run = body.run

    async def bent(start: Start) -> None:
        await run(wrap(start))

    return replace(response, body=LiveBody(bent))


def with_headers(**changes: str | None) -> Bend:
    """Answers with other headers; None leaves one out."""

    def wrap(start: Start) -> Start:
        async def begin(status: int, headers: Mapping[str, str]) -> Send:
            told = dict(headers)
            for name, value in changes.items():
                told.pop(name.replace("_", "-"), None)
                if value is not None:
                    told[name.replace("_", "-")] = value
            return await start(status, told)

        return begin

    return lambda request, response: live(response, wrap)


def with_words(change: Callable[[bytes], bytes]) -> Bend:
    """Says something else than what the receipt is for."""

    def wrap(start: Start) -> Start:
        async def begin(status: int, headers: Mapping[str, str]) -> Send:
            send = await start(status, headers)

            async def bent(data: bytes) -> None:
                await send(change(data))

            return bent

        return begin

    return lambda request, response: live(response, wrap)


def with_receipt(make: Callable[[bytes], bytes]) -> Bend:
    """Gives another receipt than the right one."""

    def bend(request: Request, response: Response) -> Response:
        if request.path.startswith("/allod/v1/receipt/"):
            assert isinstance(response.body, bytes)
            return replace(response, body=make(response.body))
        return response

    return bend


def signed_by_another(receipt: bytes) -> bytes:
    """A receipt of somebody else's, for the same things."""
    return sign_receipt(read_receipt(receipt).exchange, SecretKey.generate())


def no_receipt(request: Request, response: Response) -> Response:
    """Forgets what it signed."""
    if request.path.startswith("/allod/v1/receipt/"):
        return Response(404, {}, b"")
    return response


LIES: dict[str, Bend] = {
    "another model": with_headers(x_model_digest=str(CID.of(b"other", Codec.JSON))),
    "no model": with_headers(x_model_digest=None),
    "no receipt's id": with_headers(x_receipt_id=None),
    "a path for an id": with_headers(x_receipt_id="../../ipfs/aaaaaaaaaaaaaaa"),
    "other words": with_words(lambda data: data.replace(b"lo", b"LO")),
    "another's receipt": with_receipt(signed_by_another),
    "no receipt": no_receipt,
    "a broken receipt": with_receipt(lambda data: data[:-10]),
    "a long receipt": with_receipt(lambda data: data + b" " * 100_000),
}
EARLY = ("another model", "no model", "no receipt's id", "a path for an id")


@pytest.mark.parametrize("lie", LIES)
async def test_a_whole_answer_that_is_a_lie(lie: str) -> None:
    """Nothing of it is passed on: an honest peer is asked, and the liar left alone for an hour."""
    async with crew() as hosts:
        b = await sharer(hosts, said=Load(9, 0, 0), bend=LIES[lie])
        c = await sharer(hosts, said=Load(9, 1, 0))
        async with asking_node(hosts, b, c, state="remote") as a:
            status, who, body = await a.say(call(stream=False))
            assert (status, who) == (200, c.peer)
            assert b"Hello!" in body
            assert len(b.posts) == 1
            rest = a.federation.standings.of(b.peer).until - trio.current_time()
            assert rest > (3000 if lie != "a long receipt" else 50)
            await c.running.stop()
            with pytest.raises(NoEngine) as caught:
                await a.say(call(stream=False))
            assert len(b.posts) == 1
            assert caught.value.next


@pytest.mark.parametrize("lie", LIES)
async def test_a_stream_that_is_a_lie(lie: str) -> None:
    """What shows before the first byte goes to the next peer; else the stream has no end."""
    async with crew() as hosts:
        b = await sharer(hosts, said=Load(9, 0, 0), bend=LIES[lie])
        c = await sharer(hosts, said=Load(9, 1, 0))
        async with asking_node(hosts, b, c, state="remote") as a:
            if lie in EARLY:
                assert (await a.say(call()))[1] == c.peer
            else:
                got = bytearray()
                with pytest.raises(PeerFault) as caught:
                    await a.hear(call(), got)
                assert isinstance(caught.value, BadBytes | TooMuch)
                assert caught.value.peer == b.peer
                assert b"Hel" in got
                assert DONE not in got
                assert not c.posts
            assert a.federation.standings.aside(b.peer, trio.current_time())
            assert (await a.say(call()))[1] == c.peer
            assert len(b.posts) == 1


async def test_a_liar_is_named() -> None:
    """Where nobody else is left, the error names who lied, and about what."""
    async with crew() as hosts:
        b = await sharer(hosts, bend=LIES["another model"])
        async with asking_node(hosts, b) as a:
            a.local.fails = EngineError("The engine died.")
            with pytest.raises(EngineError, match=r"The engine died\. No peer answers") as caught:
                await a.say(call())
            assert f"{b.peer} answered with the model" in caught.value.message


def raw(body: Callable[[Send], Awaitable[None]]) -> Bend:
    """An answer with the right head and a body of its own."""

    def bend(request: Request, response: Response) -> Response:
        if request.method != "POST":
            return response

        async def run(start: Start) -> None:
            headers = {
                "content-type": "text/event-stream",
                "x-model-digest": str(MANIFEST),
                "x-receipt-id": "A" * 22,
            }
            await body(await start(200, headers))

        return Response(200, {}, LiveBody(run))

    return bend


async def _endless_event(send: Send) -> None:
    while True:
        await send(b"x" * (1 << 20))


async def _endless_end(send: Send) -> None:
    await send(chat_stream("Hel")[1])  # type: ignore[arg-type]
    while True:
        await send(DONE * 10_000)


async def _nothing(send: Send) -> None:
    await send(SIGN_OF_LIFE)


async def _half_an_event(send: Send) -> None:
    await send(b"data: {")


async def _silence(send: Send) -> None:
    await trio.sleep_forever()


async def _only_life(send: Send) -> None:
    while True:
        await send(SIGN_OF_LIFE)
        await trio.sleep(0.02)


async def _crumbs(send: Send) -> None:
    while True:
        await send(b"x")


@pytest.mark.parametrize(
    "body",
    [_endless_event, _nothing, _half_an_event, _silence, _only_life, _crumbs],
    ids=lambda one: one.__name__,
)
async def test_a_stream_that_never_begins(
    body: Callable[[Send], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an event of an answer, however long it is, the next peer is asked."""
    monkeypatch.setattr(asking, "PATIENCE", 1.0)
    monkeypatch.setattr(asking, "LIMITS", HttpLimits(answer=1.0, stall=0.5, crumb=64))
    async with crew() as hosts:
        b = await sharer(hosts, said=Load(9, 0, 0), bend=raw(body))
        c = await sharer(hosts, said=Load(9, 1, 0))
        async with asking_node(hosts, b, c, state="remote") as a:
            assert (await a.say(call()))[1] == c.peer
            assert a.federation.standings.aside(b.peer, trio.current_time())


async def test_a_stream_that_never_ends() -> None:
    """What comes behind the last event is bounded, and nothing of it passed on."""
    async with crew() as hosts:
        b = await sharer(hosts, bend=raw(_endless_end))
        async with asking_node(hosts, b, state="remote") as a:
            got = bytearray()
            with pytest.raises(PeerFault, match="after the last event"):
                await a.hear(call(), got)
            assert DONE not in got


async def test_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer past its bound is given up, in one piece or in events."""
    monkeypatch.setattr(asking, "MAX_WHOLE", 1000)
    monkeypatch.setattr(asking, "MAX_STREAM", 5000)
    text = "word " * 2000

    def say(model: Served, call: Call) -> Script:
        return Script(chat_stream("Hel", text)) if call.stream else whole(chat_whole(text))

    async with crew() as hosts:
        b = await sharer(hosts, said=Load(9, 0, 0), script=say)
        c = await sharer(hosts, said=Load(9, 1, 0), script=speak)
        async with asking_node(hosts, b, c, state="remote") as a:
            assert (await a.say(call(stream=False)))[1] == c.peer
            a.federation.standings.of(b.peer).until = 0
            with pytest.raises(TooMuch):
                await a.say(call())


async def test_a_long_pause_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that thinks in the middle is waited for: its node shows that it lives."""
    monkeypatch.setattr(asking, "LIMITS", HttpLimits(answer=5.0, stall=0.6, crumb=64))
    monkeypatch.setattr("node.api.reply.BEAT", 0.2)
    assert HttpLimits().stall / 2 > BEAT
    pause = trio.Event()
    script = chat_stream("Hel", "lo")
    async with crew() as hosts:
        b = await sharer(
            hosts, script=lambda model, call: Script([*script[:2], pause, *script[2:]])
        )
        async with asking_node(hosts, b, state="remote") as a:
            async with a.federation.ask(a.model, call()) as answer:
                got = await anext(answer.body)
                await trio.sleep(2)  # the real clock's: sockets don't jump
                pause.set()
                got += b"".join([piece async for piece in answer.body])
            assert b"lo" in got
            assert SIGN_OF_LIFE not in got
            assert got.endswith(DONE)


@pytest.mark.parametrize("error", [NoMemory("No room."), Unsupported("No tools.")])
async def test_the_error_stays_what_it_was(error: AllodError) -> None:
    """Without peers the client hears what is wrong here, in its own class."""
    async with crew() as hosts, asking_node(hosts) as a:
        a.local.fails = error
        with pytest.raises(type(error), match=r"No peer was found that serves it\.$"):
            await a.say(call())
