"""Real nodes and a real HTTPS server: what no node holds any more comes from the web, verified."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.network.people import MIB, Json, Node, Person, same_files
from tests.releases import noise, write_folder
from tests.webserver import Authority, WebServer, web_server

FILES = {
    "model.gguf": noise(5 * MIB + 12345, 1),
    "data/a b#é.txt": noise(2 * MIB, 2),
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
}
SIZE = sum(len(data) for data in FILES.values())


@dataclass
class Web:
    """A Hub that redirects to a server of its own, a mirror, and who trusts both."""

    folder: Path
    authority: Authority
    hub: WebServer
    storage: WebServer
    mirror: WebServer

    def person(self, home: Path, *, allowed: bool = True) -> Person:
        """Somebody whose machine trusts the servers, and whose policy lets them be asked."""
        person = Person(home)
        person.environ["SSL_CERT_FILE"] = str(self.authority.file)
        if allowed:
            servers = (self.hub, self.storage, self.mirror)
            hosts = ", ".join(f'"{one.authority}"' for one in servers)
            (home / "policy.toml").write_text(f"[web]\nlocal_hosts = [{hosts}]\n")
        return person

    @property
    def seeds(self) -> tuple[str, ...]:
        """What a release names."""
        return ("--web-seed", self.hub.repo("org/tiny", "c0ffee"), "--web-seed", self.mirror.files)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """The servers, with a release's folder on them."""
    authority = Authority(tmp_path / "ca")
    folder = write_folder(tmp_path / "tiny", FILES)
    with (
        web_server(authority, folder) as hub,
        web_server(authority, folder) as storage,
        web_server(authority, folder) as mirror,
    ):
        hub.storage = storage
        yield Web(folder, authority, hub, storage, mirror)


@asynccontextmanager
async def partial_holder(web: Web, tmp_path: Path) -> AsyncIterator[tuple[Json, Node]]:
    """Alice publishes, Bob begins to fetch and she is gone: he has the statement and a little."""
    alice, bob = Person(tmp_path / "alice"), web.person(tmp_path / "bob", allowed=False)
    release = await alice.publish(web.folder, "tiny", *web.seeds)
    async with bob.node() as holder:
        async with (
            alice.hostile("honest", "--gate", str(MIB)) as source,
            bob.start("fetch", release["manifest"], "--peer", source.address) as begun,
        ):
            assert await source.running.answer(1) == {"did": "honest"}
            await begun.kill()
        yield release, holder


def web_bytes(answer: Json) -> dict[str, int]:
    """What came from the web, by server."""
    return {one["peer"]: one["bytes"] for one in answer["sources"] if one["kind"] == "web"}


@pytest.mark.long
async def test_a_release_that_only_the_web_still_has(tmp_path: Path, web: Web) -> None:
    """A node has the statement, the Hub the files: they come by its redirects, leaf by leaf."""
    with trio.fail_after(100):
        reader = web.person(tmp_path / "reader")
        async with partial_holder(web, tmp_path) as (release, holder):
            words = ("fetch", release["manifest"], "--peer", holder.address)
            answer = await reader.run(*words)
        same_files(Path(answer["path"]), web.folder)
        came = web_bytes(answer)
        assert set(came) <= {f"https://{web.hub.authority}", f"https://{web.mirror.authority}"}
        assert sum(came.values()) >= SIZE - 2 * MIB
        assert answer["banned"] == []
        assert (await reader.run("verify"))["leaves"]["bad"] == 0
        paths = {path.partition("?")[0] for path, _ in web.hub.asked + web.mirror.asked}
        assert not any("allod" in path or "/ipfs/" in path for path in paths)
        for _, headers in web.hub.asked + web.storage.asked + web.mirror.asked:
            assert set(headers) == {"host", "user-agent", "accept", "accept-encoding", "range"}


async def test_a_web_seed_that_lies_is_caught_and_the_other_gives_it(
    tmp_path: Path, web: Web
) -> None:
    """The mirror's first leaf is wrong: it is banned and named, and the Hub gives the rest."""
    web.mirror.mode = "lie"
    with trio.fail_after(100):
        reader = web.person(tmp_path / "reader")
        async with partial_holder(web, tmp_path) as (release, holder):
            answer = await reader.run("fetch", release["manifest"], "--peer", holder.address)
        same_files(Path(answer["path"]), web.folder)
        [banned] = answer["banned"]
        assert banned["peer"] == f"https://{web.mirror.authority}"
        assert "wrong bytes" in banned["reason"] or "are not the file" in banned["reason"]
        assert set(web_bytes(answer)) == {f"https://{web.hub.authority}"}
        assert (await reader.run("verify"))["leaves"]["bad"] == 0


@pytest.mark.long
async def test_all_web_seeds_lie_and_a_node_comes_back(tmp_path: Path, web: Web) -> None:
    """Nothing of theirs is kept; the fetch waits, and ends with a node that has the release."""
    web.mirror.mode = web.storage.mode = "lie"
    with trio.fail_after(100):
        reader, carol = web.person(tmp_path / "reader"), Person(tmp_path / "carol")
        async with partial_holder(web, tmp_path) as (release, holder):
            carol.take_store_of(Person(tmp_path / "alice"))
            async with (
                reader.node() as mine,
                reader.start("fetch", release["manifest"], "--peer", holder.address) as fetch,
            ):
                await fetch.event(lambda event: _banned(event, web.hub))
                await fetch.event(lambda event: _banned(event, web.mirror))
                # She knows the reader: who is connected is asked, whoever dialled.
                environ = (carol.home / "config.toml").read_text()
                (carol.home / "config.toml").write_text(
                    environ.replace("bootstrap = []", f'bootstrap = ["{mine.address}"]')
                )
                async with carol.node() as back:
                    assert await fetch.ended() == 0, fetch.tail()
                    answer = await fetch.answer()
        same_files(Path(answer["path"]), web.folder)
        assert back.peer in {one["peer"] for one in answer["sources"]}
        assert web_bytes(answer) == {}
        assert len(answer["banned"]) == 2


def _banned(event: Json, server: WebServer) -> bool:
    return f"https://{server.authority} is banned" in str(event.get("note", ""))


@pytest.mark.long
async def test_nobody_is_asked_whom_the_owner_did_not_name(tmp_path: Path, web: Web) -> None:
    """By default only the Hub's own servers are: a release cannot have another one contacted."""
    with trio.fail_after(100):
        reader = web.person(tmp_path / "reader", allowed=False)
        async with partial_holder(web, tmp_path) as (release, holder):
            words = ("fetch", release["manifest"], "--peer", holder.address)
            async with reader.start(*words) as fetch:
                said = await fetch.event(lambda event: "is not asked" in str(event.get("note")))
                await fetch.kill()
        assert "is not one of the web.hosts of the policy" in str(said)
        for server in (web.hub, web.storage, web.mirror):
            assert server.connections == 0
