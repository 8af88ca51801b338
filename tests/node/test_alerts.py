"""Alerts: what the owner should know, and the command that mends it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.alerts import find_alerts
from node.config import load_config
from node.jobs import Feed, Jobs
from node.lookout import MAX_LOST, TELL_FOR, Lookout
from node.node import Node, open_node
from node.serving.fleet import Fleet
from p2p.chunking import Profile
from p2p.errors import NoSources
from p2p.naming import draft
from tests.releases import noise

Json = dict[str, Any]


class Host:
    """As much of a host as a lookout sees."""

    def __init__(self) -> None:
        self.parted: list[Any] = []
        self.there: set[str] = set()

    def connected(self, peer: str) -> bool:
        return peer in self.there

    def part(self, peer: str) -> None:
        for tell in self.parted:
            tell(peer)


def watching(*configured: str) -> tuple[Host, Lookout, Jobs]:
    host, jobs = Host(), Jobs()
    lookout = Lookout(jobs, configured)
    lookout.watch(host)  # type: ignore[arg-type]
    return host, lookout, jobs


def test_who_is_missed_is_told_apart() -> None:
    """Peers that the configuration names, and sources of a running job; others are a note."""
    host, lookout, jobs = watching("/ip4/192.0.2.7/tcp/9770/p2p/named", "no-peer-id")
    job = jobs.open("fetch", "x")
    job.feeds = lambda: [Feed("source", "lane", 7)]
    for peer in ("named", "source", "stranger"):
        host.part(peer)
    found = [(one.peer, one.missed) for one in lookout.lost()]
    assert found == [("stranger", ""), ("source", "source"), ("named", "configured")]


def test_who_is_back_is_lost_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """And who was not missed is forgotten after a while; the list is bounded."""
    host, lookout, _ = watching("/ip4/192.0.2.7/tcp/9770/p2p/named")
    host.part("named")
    host.part("stranger")
    host.there = {"named"}
    assert [one.peer for one in lookout.lost()] == ["stranger"]
    host.there = set()
    host.part("named")
    later = lookout.lost()[0].at + TELL_FOR + 1
    monkeypatch.setattr("node.lookout.time.time", lambda: later)
    assert [one.peer for one in lookout.lost()] == ["named"]
    for number in range(2 * MAX_LOST):
        host.part(str(number))
    assert len(lookout.lost()) == MAX_LOST


class SickFleet:
    """A fleet of which one engine died, and one model cannot be served any more."""

    def served(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(name="alice/tiny", manifest="bafy"),
            SimpleNamespace(name="well", manifest="bafx"),
        ]

    def failure(self, name: str) -> str:
        return "The engine died." if name == "alice/tiny" else ""

    def lost(self) -> dict[str, str]:
        return {"old one": "This store does not hold it."}


async def alerts(node: Node) -> list[tuple[str, str, str]]:
    found = await find_alerts(node)
    for one in found["alerts"]:
        assert set(one) == {"id", "level", "kind", "text", "fix", "at"}
    return [(one["level"], one["kind"], one["fix"]) for one in found["alerts"]]


async def test_a_node_says_what_is_wrong(tmp_path: Path) -> None:
    """Room, and a job that failed and was not done again since; what is worst comes first."""
    environ = {"ALLOD_HOME": str(tmp_path)}
    config = load_config({"store.quota": "100", "store.reserve": "0"}, environ=environ)
    async with open_node(config, network=False) as node:
        assert (await find_alerts(node))["alerts"] == []
        node.keyring.new("alice")
        assert (await find_alerts(node))["alerts"] == []
        with pytest.raises(NoSources), node.jobs.at_work(node.jobs.open("fetch", "alice/tiny")):
            raise NoSources("Nobody has it.", next="Try again later.")
        assert await alerts(node) == [("warning", "job", "Try again later.")]
        again = node.jobs.open("fetch", "alice/tiny")
        assert (await find_alerts(node))["alerts"] == []  # it is being tried
        with node.jobs.at_work(again):
            again.end_with({"ok": True})
        assert (await find_alerts(node))["alerts"] == []
        await node.store.add_bytes(noise(95), Profile.TENSOR_1M)
        assert await alerts(node) == [("warning", "quota", "allod gc")]
        node.fleet = cast(Fleet, SickFleet())
        assert await alerts(node) == [
            ("problem", "engine", "allod serve bafy"),
            ("problem", "model", "allod stop 'old one'"),
            ("warning", "quota", "allod gc"),
        ]


async def test_what_a_publisher_says_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is signed by keys that are not here is told two weeks before, and after."""
    config = load_config(environ={"ALLOD_HOME": str(tmp_path)})
    async with open_node(config, network=False) as node:
        node.keyring.new("alice")
        for days, level in ((10, "warning"), (-1, "problem")):
            expires = datetime.now(UTC) + timedelta(days=days)
            monkeypatch.setattr(draft, "expires_of", lambda file, when=expires: when)
            assert await alerts(node) == [(level, "publisher", "allod key renew alice")]
