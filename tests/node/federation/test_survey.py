"""Who is looked for, who is asked, and for whom nobody waits; on a simulated network."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from node.federation.asking import Session, Way
from node.federation.choose import Standings
from node.federation.survey import (
    ASK_WITHIN,
    FRESH_FOR,
    KNOWN_FOR,
    LINGER,
    MAX_ASKED,
    MAX_BUSY,
    MAX_NEAR,
    MAX_WAYS,
    NONE_FOR,
    NOT_FOR,
    Survey,
)
from p2p.cid import CID, Codec
from p2p.errors import NetworkError, NoSources, PeerRefused
from p2p.http import ClientResponse, HttpLimits
from p2p.serving import Serving

MANIFEST = CID.of(b"{}", Codec.JSON)
FREE = Serving(2, 0, 0, 4096, frozenset({"chat"}), "ready")
FREE_SAID = FREE.encode()
FULL = Serving(2, 2, 3, 4096, frozenset({"chat"}), "ready")


@dataclass
class Peer:
    """A peer that answers after a while; it keeps how often it was asked."""

    peer: str
    says: bytes | NetworkError = FREE_SAID
    after: float = 0.01
    asked: int = 0

    @asynccontextmanager
    async def open(self, limits: HttpLimits | None = None) -> AsyncIterator[Session]:
        self.asked += 1
        yield self

    async def get(self, target: str, *, limit: int) -> bytes:
        assert target == f"/allod/v1/serving/{MANIFEST}"
        await trio.sleep(self.after)
        if isinstance(self.says, NetworkError):
            raise self.says
        return self.says

    async def post(self, target: str, body: bytes) -> ClientResponse:
        raise NotImplementedError


@dataclass
class Net:
    """A network: who is near, and whom the DHT names."""

    near: list[Peer] = field(default_factory=list)
    far: list[Peer] = field(default_factory=list)
    takes: float = 0.1
    looked_up: int = 0

    def neighbours(self) -> Sequence[Way]:
        return self.near

    async def answering(self, manifest: CID, within: float) -> Sequence[Way]:
        self.looked_up += 1
        with trio.move_on_after(within):
            await trio.sleep(self.takes)
            return self.far
        return []


def peers(names: str, **about: object) -> list[Peer]:
    return [Peer(name, **about) for name in names]  # type: ignore[arg-type]


async def look(survey: Survey) -> str:
    """The names of those found, in order."""
    return "".join(sorted(await survey.look(MANIFEST)))


async def test_near_and_far_are_asked_each_once(autojump_clock: trio.testing.MockClock) -> None:
    """Neighbours, and whom the DHT names; this node itself is never asked."""
    net = Net(near=peers("ab"), far=peers("bcz"))
    survey = Survey(net, Standings(), "z")
    net.near[0].says = net.far[1].says = FULL.encode()
    assert await look(survey) == "abc"
    assert [one.asked for one in (*net.near, *net.far)] == [1, 1, 0, 1, 0]
    found = await survey.look(MANIFEST)
    assert (found["a"][1], found["b"][1]) == (FULL, FREE)


async def test_a_handful_is_asked(autojump_clock: trio.testing.MockClock) -> None:
    """Some of those who are near, and in all no more than a handful."""
    near, far = peers("abcdefghij", says=FULL.encode()), peers("klmnopqrst", says=FULL.encode())
    survey = Survey(Net(near, far), Standings(), "z")
    assert len(await look(survey)) == MAX_ASKED
    assert sum(one.asked for one in near) == MAX_NEAR


MAX_LOOKS = 8  # at two new peers a look, all sixteen have been asked


async def test_the_busy_hide_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """However many always say that they are busy, one that is free is found, near or far."""
    crowd = peers("abcdefghijklmnop", says=FULL.encode())
    for near in (True, False):
        net = Net(near=crowd[:2], far=crowd)
        survey = Survey(net, Standings(), "z")
        for _ in range(MAX_BUSY):
            assert "y" not in await look(survey)
            await trio.sleep(KNOWN_FOR)
        if near:
            net.near = peers("y")
        else:
            net.far = [*crowd, *peers("y")]
        for _ in range(MAX_LOOKS):  # whoever was never asked comes first, in no order
            if "y" in await look(survey):
                break
            await trio.sleep(FRESH_FOR)
        else:
            raise AssertionError("it was never asked")
        await trio.sleep(FRESH_FOR)
        assert "y" in await look(survey)  # it comes before those who were busy


async def test_who_is_named_has_his_turn(autojump_clock: trio.testing.MockClock) -> None:
    """Those whom the DHT names are asked by turns, and no look asks more than a handful."""
    crowd = peers("abcdefghijklmnop", says=FULL.encode())
    survey = Survey(Net(far=crowd), Standings(), "z")
    for _ in range(8):
        assert len(await look(survey)) <= MAX_ASKED
        await trio.sleep(FRESH_FOR)
    assert all(one.asked for one in crowd)
    known = survey.known(MANIFEST)
    assert len(known.ways) < len(crowd)  # busy thrice in a row is no better than unknown


async def test_what_is_remembered_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """However many are named, or say yes, so many are kept for a model."""
    net = Net(far=[Peer(str(at)) for at in range(MAX_WAYS + 9)])
    survey = Survey(net, Standings(), "z")
    await look(survey)
    known = survey.known(MANIFEST)
    assert len(known.named) == MAX_WAYS
    for way in net.far:
        known.said(way, free=True)
    assert len(known.ways) == MAX_WAYS


async def test_nobody_waits_for_one_that_hangs(autojump_clock: trio.testing.MockClock) -> None:
    """With a free slot at hand the others have a moment, and no blame; without, three seconds."""
    standings = Standings()
    hangs = Peer("h", after=1e6)
    survey = Survey(Net(near=[hangs, *peers("a")]), standings, "z")
    start = trio.current_time()
    assert await look(survey) == "a"
    assert trio.current_time() - start == pytest.approx(LINGER, abs=0.05)
    assert not standings.aside("h", trio.current_time())
    start = trio.current_time()
    alone = Survey(Net(near=[hangs, Peer("f", FULL.encode())]), standings, "z")
    assert await look(alone) == "f"
    assert trio.current_time() - start == pytest.approx(ASK_WITHIN)
    assert standings.aside("h", trio.current_time()) == "it did not answer in time"


async def test_the_dht_does_not_hold_up_either(autojump_clock: trio.testing.MockClock) -> None:
    """A neighbour with a free slot is enough while the DHT is still being asked."""
    survey = Survey(Net(near=peers("a"), takes=1e6), Standings(), "z")
    start = trio.current_time()
    assert await look(survey) == "a"
    assert trio.current_time() - start < 0.5


async def test_what_was_found_is_used_again(autojump_clock: trio.testing.MockClock) -> None:
    """One look serves those who come at once; the DHT is asked every minute, or when it fails."""
    net = Net(far=peers("a"))
    survey = Survey(net, Standings(), "z")
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(look, survey)
    assert (net.far[0].asked, net.looked_up) == (1, 1)
    survey.took("a", MANIFEST)
    survey.took("b", MANIFEST)
    assert (await survey.look(MANIFEST))["a"][1].busy == 1
    await trio.sleep(FRESH_FOR)
    assert (await survey.look(MANIFEST))["a"][1].busy == 0
    assert (net.far[0].asked, net.looked_up) == (2, 1)
    await trio.sleep(KNOWN_FOR)
    assert await look(survey) == "a"
    assert net.looked_up == 2


async def test_nobody_is_found(autojump_clock: trio.testing.MockClock) -> None:
    """An empty look is short, and the DHT is not asked again at once."""
    net = Net()
    survey = Survey(net, Standings(), "z")
    assert await look(survey) == ""
    await trio.sleep(FRESH_FOR)
    net.far = peers("a")
    assert await look(survey) == ""
    await trio.sleep(NONE_FOR)
    assert await look(survey) == "a"


async def test_who_does_not_share_is_left_in_peace(autojump_clock: trio.testing.MockClock) -> None:
    """A 404 is no fault, and the question is not repeated for some minutes."""
    peer = Peer("a", PeerRefused("No.", status=404, peer="a"))
    standings = Standings()
    survey = Survey(Net(near=[peer]), standings, "z")
    for _ in range(3):
        assert await look(survey) == ""
        await trio.sleep(FRESH_FOR)
    assert peer.asked == 1
    assert standings.of("a").failures == 0
    await trio.sleep(NOT_FOR)
    peer.says = FREE.encode()
    assert await look(survey) == "a"


@pytest.mark.parametrize(
    ("says", "failures"),
    [
        (NoSources("It is gone."), 1),
        (b"{}", 1),
        (b"[" * 4000, 1),
        (PeerRefused("Slowly.", status=429, retry_after=30, peer="a"), 0),
    ],
)
async def test_who_fails_is_left_alone(
    autojump_clock: trio.testing.MockClock, says: bytes | NetworkError, failures: int
) -> None:
    """One that cannot be reached, or says nonsense, or is asked too much, is not asked on."""
    peer, standings = Peer("a", says), Standings()
    survey = Survey(Net(near=[peer]), standings, "z")
    for _ in range(3):
        assert await look(survey) == ""
        await trio.sleep(FRESH_FOR)
    assert peer.asked == 1
    assert standings.of("a").failures == failures
    assert standings.aside("a", trio.current_time())
