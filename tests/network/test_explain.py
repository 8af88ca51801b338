"""Real nodes: ``fetch --explain`` names the slow one, and metrics count what has moved."""

from pathlib import Path

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from node.explaining import PHASES
from tests.network.people import MIB, Node, Person
from tests.releases import noise, write_folder

SIZE = 24 * MIB
FAST, SLOW = "8MB", "500KB"  # a second: three seconds in all, so that the slow one is there, too


def limited(home: Path, up: str) -> Person:
    """Somebody who sends so many bytes a second."""
    person = Person(home)
    with (home / "config.toml").open("a") as config:
        config.write(f"[limits]\nup = '{up}'\n")
    return person


async def numbers(node: Node) -> dict[tuple[str, ...], float]:
    """What a node tells at /metrics, by name and the values of the labels."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{node.status['http']}/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.mark.long
async def test_the_slow_source_is_named(tmp_path: Path) -> None:
    """Of two holders one is limited: it is told who was slow, and how slow beside the other."""
    folder = write_folder(tmp_path / "files", {"weights.bin": noise(SIZE)})
    with trio.fail_after(100):
        alice, bob = limited(tmp_path / "alice", FAST), limited(tmp_path / "bob", SLOW)
        release = await alice.publish(folder, "tiny")
        bob.take_store_of(alice)
        reader = Person(tmp_path / "reader")
        async with alice.node() as fast, bob.node() as slow, reader.node() as here:
            words = ("--peer", fast.address, "--peer", slow.address, "--explain")
            answer = await reader.run("fetch", release["manifest"], *words)
            came, gone = await numbers(here), await numbers(fast)
    found = answer["explain"]
    sources = {one["peer"]: one for one in found["sources"]}
    quick, late = sources[fast.peer], sources[slow.peer]
    assert quick["bytes"] + late["bytes"] >= SIZE
    assert late["rate"] < quick["rate"] / 2
    assert late["stolen"] + late["twice"] > 0
    assert quick["joined"] < found["seconds"]
    assert {quick["left"], late["left"]} == {None}
    [said] = [one for one in found["why"] if "was slow" in one]
    assert said.startswith(f"{slow.peer} was slow: ")
    assert f"where {fast.peer} gave" in said
    assert "read elsewhere" in said
    phases = {one["name"]: one["seconds"] for one in found["phases"]}
    assert list(phases) == ["statement", "policy", "outlines", "survey", "transfer", "record"]
    longest = max(phases, key=lambda one: phases[one])
    assert PHASES[longest] in found["why"][0]

    kinds = ("lane", "stream")
    got = [came["allod_traffic_bytes_total", "received", kind] for kind in kinds]
    sent = [gone["allod_traffic_bytes_total", "sent", kind] for kind in kinds]
    assert sum(got) >= SIZE
    assert sum(sent) >= quick["bytes"]
    assert came["allod_jobs_ended_total", "fetch", "done", ""] == 1
    assert came["allod_verdicts_total", "admitted", "default"] >= 1
    assert came["allod_releases", "complete"] == 1
    assert came["allod_peers", "outbound"] == 2
    assert gone["allod_limit_bytes_per_second", "sent"] == 8_000_000


async def test_only_who_asks_is_told(tmp_path: Path) -> None:
    """Without the option there is no explanation; where nothing was moved there is one, too."""
    folder = write_folder(tmp_path / "files", {"a.txt": noise(2 * MIB)})
    with trio.fail_after(60):
        alice, reader = Person(tmp_path / "alice"), Person(tmp_path / "reader")
        release = await alice.publish(folder, "tiny")
        async with alice.node() as node:
            words = ("fetch", release["manifest"], "--peer", node.address)
            plain = await reader.run(*words)
            again = await reader.run(*words, "--explain", "--offline")
    assert "explain" not in plain
    assert [one["bytes"] for one in again["explain"]["sources"]] == []
    assert again["explain"]["found"] is None
