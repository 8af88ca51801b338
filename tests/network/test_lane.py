"""Whole nodes move releases by lane, and by stream where there is none."""

from pathlib import Path

import pytest
import trio

from tests.network.people import Json, Person, same_files
from tests.releases import MIB, noise, write_folder

FILES = {
    "model.bin": noise(21 * MIB + 12345, 1),
    "data/shard-0.bin": noise(3 * MIB, 2),
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
}
SIZE = sum(len(data) for data in FILES.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a release."""
    return write_folder(tmp_path / "tiny", FILES)


def set_up(person: Person, **keys: str) -> Person:
    """Write keys of the configuration, ``lane_encryption`` for ``lane.encryption``."""
    for key, value in keys.items():
        person.environ[f"ALLOD_{key.upper()}"] = value
    return person


def by_kind(got: Json) -> dict[str, int]:
    return {one["kind"]: one["bytes"] for one in got["sources"]}


async def fetched(giver: Person, taker: Person, folder: Path, target: Path) -> dict[str, int]:
    """Publish and fetch over a connection; the bytes by what carried them."""
    release = await giver.publish(folder, "tiny")
    with trio.fail_after(60):
        async with giver.node() as there:
            got = await taker.run(
                "fetch", release["manifest"], "--peer", there.address, "--local-dir", str(target)
            )
    same_files(target, folder)
    return by_kind(got)


async def test_payload_goes_by_lane(tmp_path: Path, folder: Path) -> None:
    """Between two nodes that reach each other everything but the small talk goes by lane."""
    got = await fetched(Person(tmp_path / "a"), Person(tmp_path / "b"), folder, tmp_path / "out")
    assert got == {"lane": SIZE}


@pytest.mark.parametrize(
    ("giver", "taker"),
    # One side alone is refused by the lane itself, too: tests/p2p/test_lane.py.
    [("off", "off"), pytest.param("off", "tls", marks=pytest.mark.long)],
)
async def test_plain_lanes_need_two(tmp_path: Path, folder: Path, giver: str, taker: str) -> None:
    """Whatever the two are set to, they find a lane that both want."""
    one = set_up(Person(tmp_path / "a"), lane_encryption=giver)
    two = set_up(Person(tmp_path / "b"), lane_encryption=taker)
    assert await fetched(one, two, folder, tmp_path / "out") == {"lane": SIZE}


async def test_without_a_lane_streams_do(tmp_path: Path, folder: Path) -> None:
    """If a node has no lanes all goes by stream, and nobody complains."""
    one = set_up(Person(tmp_path / "a"), lane_enabled="false")
    two = Person(tmp_path / "b")
    assert await fetched(one, two, folder, tmp_path / "out") == {"stream": SIZE}


@pytest.mark.long
@pytest.mark.parametrize("lanes", ["true", "false"])
async def test_a_rate_holds_and_changes_while_the_node_runs(
    tmp_path: Path, folder: Path, lanes: str
) -> None:
    """`up --up` slows what others get, by lane and by stream, until `limits` says otherwise."""
    giver = set_up(Person(tmp_path / "a"), lane_enabled=lanes)
    taker = Person(tmp_path / "b")
    release = await giver.publish(folder, "tiny")
    with trio.fail_after(60):
        async with giver.node("--up", "2MB") as there:
            words = ("fetch", release["manifest"], "--peer", there.address)
            async with taker.start(*words) as command:
                begun = await command.fetched(0.01)
                clock = trio.current_time()
                later = await command.fetched(begun["done"] / SIZE + 0.25)
                spent = trio.current_time() - clock
                moved = later["done"] - begun["done"]
                assert moved / spent < 3_500_000  # leaves of 1 MiB come in jerks
                said = await giver.run("limits", "--up", "none")
                assert said["up"] is None
                assert await command.ended() == 0
            await giver.refused("limits", "--down", "soon", code=2)
