"""Whose repository a name means, and what the policy, publishers and the network make of it."""

import logging
from typing import Any

import pytest
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import DisabledRepoError, HfHubHTTPError

from node.hub.origin import SHORT, own_commit
from p2p.errors import NetworkError
from tests.node.hub.conftest import COMMIT, FILES, Served, World, in_thread, lineage
from tests.publishers import Publisher

OTHER = "f" * 40
IMPORT = "/api/models/org/repo"


async def code(served: Served, path: str) -> tuple[int, str]:
    answer = await served.get(path)
    return answer.status_code, answer.headers.get("x-error-code", "")


async def write_policy(served: Served, deny: str) -> None:
    """Have the policy of a machine deny what stands in a list."""
    folder = served.machine.trust
    folder.mkdir(exist_ok=True)
    (folder / "deny.txt").write_text(deny)
    (folder / "policy.toml").write_text('deny = ["deny.txt"]\n')
    await served.machine.gate.policy()


# -- names of the Hub's


@pytest.mark.parametrize("held", [True, False])
async def test_an_import_goes_by_the_hubs_name(world: World, held: bool) -> None:
    """With the Hub's own commits, where it is held, and on a node that has nothing."""
    await world.imported()
    world.source()
    served = world.holder if held else world.empty
    for revision in ("", "/revision/main", f"/revision/{COMMIT}"):
        found = await served.json(IMPORT + revision)
        assert (found["id"], found["sha"]) == ("org/repo", COMMIT)
        assert f"origin:hf://org/repo@{COMMIT}" in found["tags"]
    answer = await served.get(f"/org/repo/resolve/{COMMIT}/config.json")
    assert answer.content == FILES["config.json"]
    assert answer.headers["x-repo-commit"] == COMMIT
    assert await code(served, f"{IMPORT}/revision/{OTHER}") == (404, "RevisionNotFound")
    assert await code(served, "/api/datasets/org/repo") == (404, "RepoNotFound")
    refs = await served.json(f"{IMPORT}/refs")
    assert refs["branches"][0]["targetCommit"] == COMMIT
    assert refs["tags"] == []
    assert [one["id"] for one in await served.json("/api/models?author=org")] == ["org/repo"]


async def test_a_dataset_and_a_name_of_one_part(world: World) -> None:
    """Both are imported as they are called at the Hub."""
    dataset = lineage("datasets/", repo="words")
    await world.imported(
        files={"a.csv": b"a\n1\n"}, name="words", kind="dataset", lineage=dataset, stated=[]
    )
    await world.imported(name="gpt0", lineage=lineage(repo="gpt0"))
    for path in ("/api/models/gpt0", "/api/datasets/words"):
        assert (await world.holder.json(path))["sha"] == COMMIT
    assert await world.holder.json("/api/models/gpt0/tree/main")
    assert (await world.holder.json("/api/models/gpt0/refs"))["branches"]
    assert (await world.holder.get("/gpt0/resolve/main/config.json")).status_code == 200
    assert (await world.holder.get("/datasets/words/resolve/main/a.csv")).content == b"a\n1\n"


async def test_an_import_under_another_name(world: World) -> None:
    """What is held is found by its origin, whatever its publisher calls it; by its own name too."""
    await world.imported(name="mine")
    assert (await world.holder.json(IMPORT))["sha"] == COMMIT
    assert (await world.holder.json("/api/models/alice/mine"))["sha"] == COMMIT


async def test_a_strangers_import_is_none(world: World) -> None:
    """Nobody without a name here decides what org/repo is."""
    bob = Publisher(200)
    await world.publish()
    await world.imported(by=bob)
    world.source()
    for served in (world.holder, world.empty):
        assert await code(served, IMPORT) == (404, "RepoNotFound")
        assert await served.json("/api/models?search=repo") == []
    assert await code(world.holder, f"/api/models/{bob.id}/org--repo") == (200, "")
    world.holder.machine.called["bob"] = bob.id
    assert await code(world.holder, IMPORT) == (200, "")


async def test_only_an_import_takes_the_hubs_name(world: World) -> None:
    """A release that is only called like one is none, whoever published it."""
    await world.publish(name="org--repo")
    await world.publish(name="gpt0")
    assert await code(world.holder, IMPORT) == (404, "RepoNotFound")
    assert await code(world.holder, "/api/models/gpt0") == (404, "RepoNotFound")
    await world.imported(version=OTHER, lineage=lineage(commit=OTHER, repo="org/other"))
    assert await code(world.holder, IMPORT) == (404, "RepoNotFound")


async def test_names_of_this_node_go_first(world: World) -> None:
    """org/repo is a release of the publisher called org; an own publisher goes before a petname."""
    await world.imported()
    release = await world.publish(name="repo")
    machine = world.holder.machine
    machine.called["org"] = Publisher().id
    assert (await world.holder.json(IMPORT))["sha"] == own_commit(release.manifest.cid)
    assert (await world.holder.json(f"{IMPORT}/revision/{COMMIT}"))["sha"] == COMMIT
    machine.keyring.new("org")
    assert (await world.holder.json(IMPORT))["sha"] == COMMIT  # that one has no release repo


# -- publishers without a name


async def test_a_publisher_without_a_name(world: World) -> None:
    """It goes by its id, or by the end of that where it is held; a warning says so."""
    release = await world.publish()
    world.source()
    served = world.holder
    served.machine.called.clear()
    publisher = release.manifest.publisher
    short = publisher[-SHORT:]
    for owner in (publisher, short):
        for path in (f"/api/models/{owner}/tiny", f"/{owner}/tiny/resolve/main/config.json"):
            answer = await served.get(path)
            assert answer.status_code == 200
            assert "whom this node has no name for" in answer.headers["x-hf-warning"]
    assert [one["id"] for one in await served.json("/api/models?search=tiny")] == [f"{short}/tiny"]
    assert await code(served, f"/api/models/{short[1:]}/tiny") == (404, "RepoNotFound")
    assert await code(world.empty, f"/api/models/{short}/tiny") == (404, "RepoNotFound")


async def test_the_client_prints_warnings(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the node warns of comes out of the unmodified library."""
    await world.publish()
    world.holder.machine.called.clear()
    monkeypatch.setattr("huggingface_hub.utils._http._WARNED_TOPICS", set())
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    caplog.set_level(logging.WARNING, "huggingface_hub")  # an import in this process silences it
    await in_thread(lambda: world.holder.api.model_info(f"{Publisher().id}/tiny"))
    assert "whom this node has no name for" in caplog.text


# -- policy


async def test_a_file_that_the_policy_denies(world: World) -> None:
    """403 and why; the other files are given."""
    release = await world.publish()
    cid = next(one.cid for one in release.manifest.files if one.path == "config.json")
    await write_policy(world.holder, f"/ipfs/{cid}\n")
    for method in ("HEAD", "GET"):
        answer = await world.holder.ask(method, "/alice/tiny/resolve/main/config.json")
        assert answer.status_code == 403
        assert "deny" in answer.headers["x-error-message"]
        assert answer.headers["x-error-message"] in answer.headers["x-hf-warning"]
        assert answer.headers["x-repo-commit"] == own_commit(release.manifest.cid)
    answer = await world.holder.get("/alice/tiny/resolve/main/data/words.txt")
    assert answer.status_code == 200


async def test_a_release_that_the_policy_denies(world: World) -> None:
    """All that is asked of it is 403, and another publisher's does not take its place."""
    release = await world.publish()
    bob = Publisher(200)
    world.holder.machine.called["bob"] = bob.id
    await world.imported(by=bob, name="alice--tiny", lineage=lineage(repo="alice/tiny"))
    await write_policy(world.holder, f"/ipfs/{release.manifest.cid}\n")
    for path in ("/api/models/alice/tiny", "/alice/tiny/resolve/main/config.json"):
        answer = await world.holder.get(path)
        assert answer.status_code == 403
        assert "deny" in answer.headers["x-error-message"]
    with pytest.raises(HfHubHTTPError, match="403"):
        await in_thread(lambda: world.holder.api.model_info("alice/tiny"))


async def test_one_import_is_denied_and_another_is_not(world: World) -> None:
    """Who asks for the Hub's name gets the import that the policy lets in."""
    bob = Publisher(200)
    world.holder.machine.called["bob"] = bob.id
    mine = await world.imported()
    theirs = await world.imported(by=bob, files=FILES | {"extra.txt": b"1"})
    for denied, given in ((mine, theirs), (theirs, mine)):
        await write_policy(world.holder, f"/ipfs/{denied.manifest.cid}\n")
        found = await world.holder.json(IMPORT)
        assert f"allod:{given.manifest.publisher}" in found["tags"]


@pytest.mark.parametrize(("state", "did"), [("revoked", "revoked"), ("withdrawn", "withdrew")])
async def test_what_its_publisher_took_back(
    world: World, tmp_path: Any, state: str, did: str
) -> None:
    """451, in the words by which clients know it, and a warning that says why."""
    first = await world.publish(version="1")
    second = await world.publish(FILES | {"config.json": b"{}"}, version="2")
    await world.take_back(second, state, "the weights are broken")
    world.source()
    commit = own_commit(second.manifest.cid)
    for served in (world.holder, world.empty):
        assert (await served.json("/api/models/alice/tiny"))["sha"] != commit
        for revision in ("2", commit):
            answer = await served.get(f"/api/models/alice/tiny/revision/{revision}")
            assert answer.status_code == 451
            assert answer.headers["x-error-message"] == "Access to this resource is disabled."
            assert did in answer.headers["x-hf-warning"]
            assert "the weights are broken" in answer.headers["x-hf-warning"]
            with pytest.raises(DisabledRepoError):
                await in_thread(
                    lambda served=served, revision=revision: served.api.model_info(  # type: ignore[misc]
                        "alice/tiny", revision=revision
                    )
                )
        refs = await served.json("/api/models/alice/tiny/refs")
        assert [one["name"] for one in refs["tags"]] == ["1"]
    await world.take_back(first, state, "so is this")
    assert (await world.holder.get("/api/models/alice/tiny")).status_code == 451
    assert (await world.holder.get("/alice/tiny/resolve/main/config.json")).status_code == 451
    assert await world.holder.json("/api/models") == []


# -- without a network


async def test_without_a_network(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """What is held is answered; what is not is 504, and nothing is remembered of it."""
    await world.publish()
    await world.imported()

    def none() -> Any:
        raise NetworkError("This node is offline.", next="Start it without --offline.")

    for served in (world.holder, world.empty):
        monkeypatch.setattr(served.machine, "network", none)
    monkeypatch.setattr(world.holder.machine, "petnames", lambda: {"alice": Publisher().id})
    for path in ("/api/models/alice/tiny", "/alice/tiny/resolve/main/model.safetensors", IMPORT):
        assert (await world.holder.get(path)).status_code == 200
        answer = await world.empty.get(path)
        assert answer.status_code == 504
        assert "offline" in answer.headers["x-error-message"]
        assert "x-error-code" not in answer.headers
    file = await in_thread(
        lambda: hf_hub_download(
            "org/repo", "config.json", endpoint=world.holder.url, token=False, cache_dir=tmp_path
        )
    )
    assert COMMIT in file
