"""A node that is told to end does so in order, whatever it is doing, and loses nothing of it."""

from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode

import httpx
import trio

from tests.hub import Hub, running_hub
from tests.network.people import MIB, Node, Person, same_files
from tests.releases import noise, safetensors_bytes, write_folder

SIZE = 24 * MIB
SLOW = "3MB"  # bytes a second: the work is not done by itself before the signal comes
UNDER_WAY = 2 * MIB  # bytes that may be in buffers and not yet verified


def slow(home: Path) -> Person:
    """Somebody who gives slowly."""
    person = Person(home)
    with (home / "config.toml").open("a") as config:
        config.write(f"[limits]\nup = '{SLOW}'\n")
    return person


async def publish(person: Person, seed: int) -> tuple[str, Path]:
    """Publish one large file; the release, and the folder that it is from."""
    folder = write_folder(person.home.with_suffix(f".{seed}"), {"model.bin": noise(SIZE, seed)})
    return (await person.publish(folder, f"tiny-{seed}"))["manifest"], folder


async def read_until_it_ends(node: Node, token: str, ref: str, peer: str, got: list[int]) -> None:
    """Read a file over the HTTP door; how many bytes came before the node ended."""
    query = urlencode({"ref": ref, "path": "model.bin", "peer": peer})
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(timeout=90, headers=headers) as client:
        with suppress(httpx.HTTPError):
            url = f"{node.status['http']}/control/v1/read?{query}"
            async with client.stream("GET", url) as response:
                assert response.status_code == 200
                async for piece in response.aiter_bytes():
                    got.append(len(piece))  # noqa: PERF401  what came counts when it breaks off


async def stop_while_busy(tmp_path: Path, hub: Hub) -> None:
    """The story; who gives, who takes, and the one between who is told to end."""
    alice, bob, dave = slow(tmp_path / "alice"), slow(tmp_path / "bob"), Person(tmp_path / "dave")
    bob.environ |= hub.environ(str(tmp_path / "hf"))
    (one, folder), (two, _), (own, _) = [
        await publish(person, seed) for seed, person in enumerate((alice, alice, bob))
    ]
    async with alice.node() as far:
        got: list[int] = []
        async with (
            bob.node() as node,
            bob.start("fetch", one, "--peer", far.address) as fetch,
            bob.start("import", "hf:org/tiny") as taking,
            dave.start("fetch", own, "--peer", node.address) as upload,
            trio.open_nursery() as nursery,
        ):
            token = (bob.home / "run" / "control.token").read_text()
            nursery.start_soon(read_until_it_ends, node, token, two, far.address, got)
            done = (await fetch.fetched(0.2))["done"]
            await upload.fetched(0.1)
            await trio.to_thread.run_sync(hub.stalled.wait, 60)
            assert hub.stalled.is_set()
            assert await node.running.stop() == 0, node.running.tail()
            assert node.running.logged[-1].endswith("stopped in order")
            assert await fetch.ended() == 7
            assert await taking.ended() == 7
            await upload.kill()
        assert 0 < sum(got) < SIZE
        hub.stalls.clear()
        hub.go.set()
        await alice.run("limits", "--up", "none")
        async with bob.node():
            again = await bob.run("fetch", one, "--peer", far.address)
            assert again["bytes"]["fetched"] <= SIZE - done + UNDER_WAY
            same_files(Path(again["path"]), folder)
            rest = await bob.run("fetch", two, "--peer", far.address)
            assert rest["bytes"]["fetched"] <= SIZE - sum(got) + UNDER_WAY
            assert (await bob.run("import", "hf:org/tiny"))["name"] == "org--tiny"
            assert (await bob.run("verify"))["ok"] is True


async def test_a_busy_node_ends_in_order(tmp_path: Path) -> None:
    """A fetch, an upload, a read and an import under way: SIGTERM, exit code 0, no byte lost."""
    with running_hub() as hub, trio.fail_after(110):
        weights = safetensors_bytes({"a": noise(3 * MIB, 4)}, {})
        card = b"---\nlicense: apache-2.0\n---\n# Tiny\n"
        hub.make("org/tiny", {"README.md": card, "model.safetensors": weights})
        hub.stalls.add("model.safetensors")
        await stop_while_busy(tmp_path, hub)
