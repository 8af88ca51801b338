"""What is given to whom, when, and how much: the decision, the count, and every request."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.api.gateway import Gateway
from node.api.peer import PeerApi
from node.config import load_config
from node.doctor.giving import look_at_seeding
from node.keyring import Keyring
from node.seeding import (
    Asker,
    Counts,
    Release,
    Rules,
    Seeding,
    closed,
    decide,
    is_near,
    near_gateway,
    open_tally,
)
from node.seeding.tally import SAVE_EVERY
from node.seeding.usher import PROMISED_FOR
from node.upkeep import keep_announced, release_keys
from p2p.cid import CID, Codec
from p2p.errors import Busy, NotFound, PeerRefused
from p2p.http import FileBody, Request, Response
from p2p.rates import Rates
from p2p.references import publisher_cid
from tests.fakes import FakeNetwork, Machine
from tests.node.conftest import Stores
from tests.releases import MIB, Published, noise, publish_into, write_folder

NOW = datetime(2026, 11, 26, 12, 30, 15, tzinfo=UTC)
NOTHING = Counts(0, 0, 0)
FAR, NEAR, FRIEND = Asker("far", False), Asker("near", True), Asker("friend", False)
MIT, NC, OWN = Release("MIT", False), Release("CC-BY-NC-4.0", False), Release("MIT", True)
GROUP = frozenset({"friend"})


def at(clock: str) -> datetime:
    hour, minute = map(int, clock.split(":"))
    return NOW.replace(hour=hour, minute=minute, second=0)


def rules_of(**chosen: str) -> Rules:
    """Rules as somebody would write them."""
    flags = {f"seeding.{name}": text for name, text in chosen.items()}
    return Rules.of(load_config(flags, environ={}, read_file=False).seeding)


# -- the decision


@pytest.mark.parametrize(
    ("audience", "whom"),
    [
        ("public", {"far", "near", "friend"}),
        ("lan", {"near", "friend"}),
        ("group", {"friend"}),
        ("none", set()),
    ],
)
def test_an_audience(audience: str, whom: set[str]) -> None:
    """Each audience is given to, the group is part of all but none, the others hear 403."""
    rules = replace(rules_of(audience=audience), group=GROUP)
    for asker in (FAR, NEAR, FRIEND):
        refusal = decide(rules, asker, [MIT], NOW, NOTHING)
        assert (refusal is None) == (asker.peer in whom)
        if refusal is not None:
            assert (refusal.status, refusal.reason, refusal.retry_after) == (403, "audience", 0)


@pytest.mark.parametrize(
    ("license", "whom"),
    [
        ("MIT", {"far", "near", "friend"}),
        ("CC-BY-NC-4.0", {"friend"}),
        ("MIT OR CC-BY-NC-4.0", {"far", "near", "friend"}),
        ("MIT AND CC-BY-NC-4.0", {"friend"}),
        ("CC-BY-NC-ND-4.0", set()),
        ("GPL-3.0-only WITH Classpath-exception-2.0", {"near", "friend"}),
        ("LicenseRef-house", {"near", "friend"}),
        ("", {"near", "friend"}),
        ("((", {"near", "friend"}),
    ],
)
def test_a_licence_narrows_the_audience(license: str, whom: set[str]) -> None:
    """The narrowest of all that fit holds; an OR leaves the milder choice."""
    told = "non-commercial=group no-derivatives=none GPL-3.0-only=lan LicenseRef-house=lan "
    rules = replace(rules_of(by_license=told + "unknown=lan MIT=public"), group=GROUP)
    release = Release(license, False)
    given = {
        one.peer
        for one in (FAR, NEAR, FRIEND)
        if decide(rules, one, [release], NOW, NOTHING) is None
    }
    assert given == whom


def test_what_is_in_several_releases_is_given_if_one_is() -> None:
    """One that may be given is enough; what is in none has the general audience."""
    rules = rules_of(by_license="non-commercial=none")
    assert decide(rules, FAR, [NC, MIT], NOW, NOTHING) is None
    refusal = decide(rules, FAR, [NC], NOW, NOTHING)
    assert refusal is not None
    assert refusal.status == 403
    assert decide(rules, FAR, [], NOW, NOTHING) is None
    assert decide(rules_of(audience="lan"), FAR, [], NOW, NOTHING) is not None


@pytest.mark.parametrize(
    ("hours", "clock", "wait"),
    [
        ("22:00-07:00", "21:59", 60),
        ("22:00-07:00", "22:00", None),
        ("22:00-07:00", "00:00", None),
        ("22:00-07:00", "06:59", None),
        ("22:00-07:00", "07:00", 15 * 3600),
        ("09:00-17:00", "08:00", 3600),
        ("09:00-17:00", "12:00", None),
        ("09:00-17:00", "17:00", 16 * 3600),
        ("18:00-24:00", "23:59", None),
        ("18:00-24:00", "00:00", 18 * 3600),
    ],
)
def test_hours_may_go_past_midnight(hours: str, clock: str, wait: float | None) -> None:
    """Outside of the hours it is 429 until they begin, for the group too."""
    rules = replace(rules_of(hours=hours), group=GROUP)
    refusal = decide(rules, FRIEND, [OWN], at(clock), NOTHING)
    assert (None if refusal is None else refusal.retry_after) == wait
    if refusal is not None:
        assert (refusal.status, refusal.reason) == (429, "hours")


@given(
    st.integers(0, 1439),
    st.integers(0, 1439),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
)
def test_after_the_wait_the_hours_are_open(begin: int, end: int, now: datetime) -> None:
    """Whoever comes back when told is let in."""
    if begin == end:
        return
    rules = Rules(hours=(begin, end))
    refusal = closed(rules, now, NOTHING)
    if refusal is not None:
        assert 0 < refusal.retry_after <= 86400
        assert closed(rules, now + timedelta(seconds=refusal.retry_after), NOTHING) is None


def test_a_month_is_used_up_until_the_next() -> None:
    """Nothing is given that does not fit; the first of the next month is named."""
    rules = rules_of(month="10MiB")
    assert decide(rules, FAR, [OWN], NOW, Counts(9 * MIB, 0, 0)) is None
    refusal = decide(rules, FAR, [OWN], NOW, Counts(9 * MIB, 0, 0), size=MIB + 1)
    assert refusal is not None
    refusal = closed(rules, NOW, Counts(9 * MIB + 1, 0, 0))
    assert refusal is not None
    assert (refusal.status, refusal.reason) == (429, "month")
    assert "2026-12-01" in refusal.sentence
    assert refusal.retry_after == 4 * 86400 + 11 * 3600 + 29 * 60 + 45
    december = closed(rules, NOW.replace(month=12), Counts(9 * MIB + 1, 0, 0))
    assert december is not None
    assert "2027-01-01" in december.sentence


def test_a_ratio_does_not_hold_for_own_publications() -> None:
    """Reached, it is 429 for what others published; what is both is given."""
    rules = rules_of(ratio="1.5")
    assert decide(rules, FAR, [MIT], NOW, Counts(0, 149, 100)) is None
    for counts in (Counts(0, 150, 100), NOTHING):
        refusal = decide(rules, FAR, [MIT], NOW, counts)
        assert refusal is not None
        assert (refusal.status, refusal.reason) == (429, "ratio")
        assert decide(rules, FAR, [MIT, OWN], NOW, counts) is None
    kept = replace(rules, by_license=(("permissive", "none"),))
    assert decide(kept, FAR, [OWN], NOW, NOTHING) is not None


def test_without_rules_nothing_is_asked() -> None:
    """The defaults give everything to everybody."""
    assert rules_of().open
    for chosen in (
        {"audience": "lan"}, {"by_license": "MIT=lan"}, {"hours": "01:00-02:00"},
        {"month": "1GB"}, {"ratio": "3"},
    ):  # fmt: skip
        assert not rules_of(**chosen).open


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("192.168.1.7", True), ("10.0.0.1", True), ("172.31.0.1", True), ("172.32.0.1", False),
        ("127.0.0.1", True), ("169.254.3.4", True), ("::1", True), ("fe80::1%eth0", True),
        ("fd00::7", True), ("2001:db8::1", False), ("8.8.8.8", False), ("100.64.0.1", False),
        ("::ffff:10.1.2.3", True), ("::ffff:8.8.8.8", False), ("", False), ("example", False),
    ],
)  # fmt: skip
def test_what_is_near(host: str, near: bool) -> None:
    """Private, link-local and loopback addresses; a provider's customers are not."""
    assert is_near(host) == near


def test_at_the_public_gateway_this_machine_is_the_world() -> None:
    """A proxy in front asks from loopback for anybody."""
    assert [near_gateway(one) for one in ("127.0.0.1", "::1", "10.0.0.7", "fd00::/64", "8.8.8.8",
                                          "2001:db8::/64")] == [
        False, False, True, True, False, False,
    ]  # fmt: skip


# -- the count


class Clock:
    """A clock that is set."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


async def test_counts_survive_a_restart(tmp_path: Path) -> None:
    """What was sent and fetched goes on, exactly, whatever carried it."""
    file, clock = tmp_path / "data" / "seeding.json", Clock()
    for turn in (1, 2):
        rates = Rates()
        async with open_tally(file, rates, clock) as tally:
            rates.of("a").up.count("lane", 100)
            rates.of("b").up.count("gateway", 11)
            rates.of("b").down.count("web", 5)
            assert tally.counts() == Counts(111 * turn, 111 * turn, 5 * turn)


async def test_a_month_begins_anew_and_never_twice(tmp_path: Path) -> None:
    """On the first the count is 0, if the node was off too; a clock set back changes nothing."""
    file, clock, rates = tmp_path / "seeding.json", Clock(), Rates()
    async with open_tally(file, rates, clock) as tally:
        rates.of("a").up.count("lane", 100)
        assert tally.counts().month == 100
        clock.now = NOW.replace(month=12)
        assert tally.counts() == Counts(0, 100, 0)
        rates.of("a").up.count("lane", 7)
        clock.now = NOW
        assert tally.counts() == Counts(7, 107, 0)
    clock.now = NOW.replace(year=2027, month=1)
    async with open_tally(file, Rates(), clock) as tally:
        assert tally.counts() == Counts(0, 107, 0)


async def test_after_a_crash_it_counts_rather_too_much(tmp_path: Path) -> None:
    """The file is a minute ahead while the node runs, so that what is lost was counted before."""
    file, rates = tmp_path / "seeding.json", Rates()
    async with open_tally(file, rates, Clock()) as tally:
        rates.of("a").up.count("lane", 100)
        await tally.save(ahead=True)
        rates.of("a").up.count("lane", 90)  # and here the power goes
        assert json.loads(file.read_text())["month_sent"] == 200
        await tally.save(ahead=True)
        await tally.save(ahead=True)  # nothing moved in that minute
        assert json.loads(file.read_text())["month_sent"] == 190


async def test_it_is_written_down_while_the_node_runs(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Every minute, without anybody asking."""
    file, rates = tmp_path / "seeding.json", Rates()
    async with open_tally(file, rates, Clock()) as tally, trio.open_nursery() as nursery:
        nursery.start_soon(tally.run)
        rates.of("a").up.count("lane", 100)
        while not file.exists():  # noqa: ASYNC110  by the clock of the test
            await trio.sleep(1)
        assert trio.current_time() >= SAVE_EVERY
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"month": "2026-11"}',
        "x" * 9000,
        "null",
        '{"month":"2026-11","month_sent":-1,"sent":0,"fetched":0}',
    ],
)
async def test_a_damaged_file_is_told_and_begun_anew(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever stands there, the node starts."""
    file = tmp_path / "seeding.json"
    file.write_text(text)
    async with open_tally(file, Rates(), Clock()) as tally:
        assert tally.counts() == NOTHING
    assert "cannot be read" in caplog.text


async def test_a_disk_that_says_no_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The count goes on in memory, and the log says why it is not written."""
    (tmp_path / "data").write_text("a file where a folder must be")
    rates = Rates()
    async with open_tally(tmp_path / "data" / "seeding.json", rates, Clock()) as tally:
        rates.of("a").up.count("lane", 5)
        assert tally.counts().month == 5
    assert "is not written down" in caplog.text


# -- every request

BIG = noise(2 * MIB + 5, 1)
FILES = {"big.bin": BIG, "small.txt": b"small", "sub/a.txt": b"below"}


class Giver:
    """What a node gives by some rules, at a time that is set."""

    def __init__(self, machine: Machine, seeding: Seeding, clock: Clock, rates: Rates) -> None:
        self.machine, self.seeding, self.clock, self.rates = machine, seeding, clock, rates
        api = PeerApi(machine.store, gate=machine.gate)
        self.peers = seeding.guarded(api, lambda peer: peer == "near")
        self.public = seeding.guarded(Gateway(machine.store, machine.gate), near_gateway)

    async def get(
        self, path: str, peer: str = "far", method: str = "GET", **query: str
    ) -> Response:
        return await self.peers(Request(method, path, query, {}, peer))

    async def refused(self, path: str, peer: str = "far", **query: str) -> PeerRefused:
        with pytest.raises(PeerRefused) as caught:
            await self.get(path, peer, **query)
        return caught.value


Givers = Callable[..., AbstractAsyncContextManager[Giver]]


@pytest.fixture
async def giver(new_store: Stores, tmp_path: Path) -> Givers:
    """Open a giver by rules."""
    store = await new_store()

    @asynccontextmanager
    async def open_giver(rules: Rules) -> AsyncIterator[Giver]:
        machine = Machine(store, Keyring(store.folder.with_suffix(".keys")))
        rates, clock = Rates(), Clock()
        async with open_tally(tmp_path / "seeding.json", rates, clock) as tally:
            seeding = Seeding(rules, tally, machine.gate, store, clock)
            yield Giver(machine, seeding, clock, rates)

    return open_giver


async def publish(giver: Giver, folder: Path, **about: str) -> Published:
    return await publish_into(giver.machine.store, write_folder(folder, FILES), **about)  # type: ignore[arg-type]


async def test_content_is_refused_by_every_way_and_statements_are_not(
    giver: Givers, tmp_path: Path
) -> None:
    """Bytes, blocks, leaves, CARs, paths, ``have`` are 403; manifest and signatures are given."""
    rules = replace(rules_of(by_license="non-commercial=group"), group=GROUP)
    async with giver(rules) as one:
        release = await publish(one, tmp_path / "files", license="CC-BY-NC-4.0")
        manifest = release.manifest
        big = next(entry for entry in manifest.files if entry.path == "big.bin")
        outline = await one.machine.store.outline(big.cid)
        assert outline is not None
        leaf = CID(Codec.RAW, big.cid.hash, outline.digest(1))
        for path, query in [
            (f"/ipfs/{big.cid}", {}), (f"/ipfs/{big.cid}", {"format": "raw"}),
            (f"/ipfs/{leaf}", {"format": "raw"}), (f"/ipfs/{manifest.root}", {"format": "car"}),
            (f"/ipfs/{manifest.root}/sub/a.txt", {}), (f"/ipfs/{manifest.root}", {"format": "raw"}),
            (f"/ipfs//{big.cid}", {}), (f"/ipfs/{big.cid}/", {}),
            (f"/allod/v1/have/{big.cid}", {}), (f"/allod/v1/have/{manifest.cid}", {}),
        ]:  # fmt: skip
            refusal = await one.refused(path, **query)
            assert (refusal.status, refusal.retry_after) == (403, 0), path
            answer = await one.get(path, "friend", **query)
            assert answer.status == 200, path
            if isinstance(answer.body, AsyncIterable):
                assert [piece async for piece in answer.body]
        for path in (
            f"/allod/v1/manifest/{manifest.cid}", f"/allod/v1/bundles/{manifest.cid}",
            f"/allod/v1/publisher/{manifest.publisher}/timestamp.json",
            f"/allod/v1/outline/{big.cid}",
        ):  # fmt: skip
            assert (await one.get(path)).status == 200
        assert one.seeding.refused == {"audience": 10}
        assert one.seeding.tally.counts() == NOTHING


async def test_a_file_of_two_releases_goes_to_whoever_may_have_one(
    giver: Givers, tmp_path: Path
) -> None:
    """The same bytes under a free licence are given, once that release is held."""
    async with giver(rules_of(by_license="non-commercial=none")) as one:
        release = await publish(one, tmp_path / "files", license="CC-BY-NC-4.0")
        path = f"/ipfs/{release.manifest.files[0].cid}"
        assert (await one.refused(path)).status == 403
        await publish(one, tmp_path / "again", license="MIT", name="free")
        one.seeding._known.clear()  # what stands for some seconds
        assert (await one.get(path)).status == 200


async def test_what_is_not_held_is_404_at_any_hour(giver: Givers, tmp_path: Path) -> None:
    """Closed or not, nobody waits for what is not there; what is there says when to come back."""
    async with giver(rules_of(hours="22:00-23:00")) as one:
        release = await publish(one, tmp_path / "files")
        path = f"/ipfs/{release.manifest.files[0].cid}"
        refusal = await one.refused(path)
        assert (refusal.status, refusal.retry_after) == (429, 9 * 3600 + 29 * 60 + 45)
        for absent in ("/ipfs/", "/allod/v1/have/"):
            with pytest.raises(NotFound):
                await one.get(absent + str(CID.of(b"not here", Codec.RAW)))
        one.clock.now = at("22:10")
        assert (await one.get(path)).status == 200


async def test_a_month_is_not_passed_by_many_at_once(giver: Givers, tmp_path: Path) -> None:
    """What is under way holds its room until it is sent, and what broke off gives it back."""
    async with giver(rules_of(month="5MiB")) as one:
        release = await publish(one, tmp_path / "files")
        path = next(f"/ipfs/{e.cid}" for e in release.manifest.files if e.path == "big.bin")
        for _ in range(3):
            assert (await one.get(path, method="HEAD")).done is None  # it moves nothing
        first = await one.get(path)
        assert isinstance(first.body, FileBody)
        second = await one.get(path)
        refusal = await one.refused(path)  # what is promised may come back at any moment
        assert (refusal.status, refusal.retry_after) == (429, PROMISED_FOR)
        assert first.done is not None
        assert second.done is not None
        first.done()  # it broke off
        third = await one.get(path)
        assert third.done is not None
        for each in (second, third):
            one.rates.of("far").up.count("lane", len(BIG))
            each.done()  # type: ignore[misc]
        assert (await one.refused(path)).retry_after > PROMISED_FOR
        [found] = look_at_seeding(one.seeding)
        assert found.level == "note"
        assert "allod config set seeding.month" in found.fix
        report = one.seeding.report()
        assert report["month"] == {"sent": 2 * len(BIG), "allowed": 5 * MIB}
        assert report["closed"]


async def test_a_car_ends_where_the_month_does(giver: Givers, tmp_path: Path) -> None:
    """Its length is nobody's to know before, so it breaks off, and blames nobody."""
    async with giver(rules_of(month="3MiB")) as one:
        release = await publish(one, tmp_path / "files")
        answer = await one.get(f"/ipfs/{release.manifest.root}", format="car")
        assert not isinstance(answer.body, bytes | FileBody)
        got: list[int] = []

        async def read() -> None:
            async for piece in answer.body:  # type: ignore[union-attr]
                got.append(len(piece))
                one.rates.of("far").up.count("stream", len(piece) + MIB)

        with pytest.raises(Busy):
            await read()
        assert 0 < sum(got) < 3 * MIB


async def test_who_asks_the_public_gateway_has_no_group(giver: Givers, tmp_path: Path) -> None:
    """An address is of the local network or it is not; this machine stands for the world."""
    async with giver(replace(rules_of(audience="lan"), group=frozenset({"8.8.8.8"}))) as one:
        release = await publish(one, tmp_path / "files")
        path = f"/ipfs/{release.manifest.files[0].cid}"
        assert (await one.public(Request("GET", path, {}, {}, "192.168.1.5"))).status == 200
        with pytest.raises(PeerRefused):
            await one.public(Request("GET", path, {}, {}, "127.0.0.1"))


@pytest.mark.parametrize("chosen", [{"audience": "lan"}, {"by_license": "non-commercial=none"}])
async def test_what_is_not_for_everybody_is_not_announced(
    giver: Givers, tmp_path: Path, chosen: dict[str, str]
) -> None:
    """Neither the release nor its files; its publisher is, whose word is for everybody."""
    async with giver(rules_of(**chosen)) as one:
        early = CID.of(FILES["small.txt"], Codec.RAW)
        assert not await one.seeding.hidden(early)  # somebody asks just before it comes
        kept = await publish(one, tmp_path / "files", license="CC-BY-NC-4.0")
        assert await one.seeding.hidden(early)
        keys = release_keys(kept.manifest)
        assert [key for key in keys if not await one.seeding.hidden(key)] == [
            publisher_cid(kept.manifest.publisher)
        ]
        wire = Heard()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    keep_announced, one.machine.store, one.machine.gate, wire, one.seeding.hidden
                )
                await wire.news.wait()
                nursery.cancel_scope.cancel()
        assert set(wire.announced) == {publisher_cid(kept.manifest.publisher)}
        assert not await one.seeding.hidden(CID.of(b"something else", Codec.RAW))


class Heard(FakeNetwork):
    """Says when something is announced."""

    def __init__(self) -> None:
        super().__init__()
        self.news = trio.Event()

    def announce(self, cids: Sequence[CID]) -> None:
        super().announce(cids)
        self.news.set()


@pytest.mark.parametrize(
    ("chosen", "sent", "level", "words"),
    [
        ({}, 5, "ok", "everybody; 5 B were sent"),
        ({"audience": "lan"}, 0, "ok", "the local network"),
        ({"audience": "none"}, 0, "note", "Nothing is given"),
        ({"month": "100MiB"}, 95 * MIB, "note", "Nearly all"),
        ({"hours": "22:00-23:00"}, 0, "note", "from 22:00 to 23:00"),
        ({"ratio": "2"}, 5, "note", "2 times"),
    ],
)
async def test_the_doctor_says_what_closes_it(
    giver: Givers, chosen: dict[str, str], sent: int, level: str, words: str
) -> None:
    """One finding, with what mends it where something is closed."""
    async with giver(rules_of(**chosen)) as one:
        one.rates.of("far").up.count("lane", sent)
        [found] = look_at_seeding(one.seeding)
    assert (found.level, words in found.found) == (level, True), found
    assert bool(found.fix) == (level == "note")
