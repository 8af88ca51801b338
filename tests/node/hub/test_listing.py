"""What a client of the Hub is told of a repository, by the real library and by bare requests."""

import json
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import HfFileSystem
from huggingface_hub.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from node.hub.origin import own_commit
from tests.hub import git_sha1
from tests.node.door import Door, Story, request, split
from tests.node.hub.conftest import FILES, WEIGHTS, World, etag, in_thread

FOLDERS = ["data", "data/deep"]


def paths(listed: list[dict[str, Any]]) -> list[str]:
    return [one["path"] for one in listed]


async def test_info(world: World) -> None:
    """A commit of 40 hex digits, the files, the licence and what the card says, and no lies."""
    release = await world.publish()
    commit = own_commit(release.manifest.cid)
    info = await in_thread(lambda: world.holder.api.model_info("alice/tiny"))
    assert info.id == "alice/tiny"
    assert info.sha == commit
    assert len(commit) == 40
    assert [one.rfilename for one in info.siblings or ()] == sorted(FILES)
    assert info.card_data is not None
    assert info.card_data.license == "apache-2.0"
    assert info.card_data.base_model == ["org/base"]
    for tag in ("tiny", "license:apache-2.0", "base_model:org/base", "dataset:org/words"):
        assert tag in (info.tags or ())
    assert (info.pipeline_tag, info.library_name) == ("text-generation", "transformers")
    assert {"text-generation", "transformers"} <= set(info.tags or ())
    assert f"allod:{release.manifest.publisher}" in (info.tags or ())
    assert not info.gated
    assert not info.private
    said = await world.holder.json("/api/models/alice/tiny")
    assert said["downloads"] == said["likes"] == 0
    assert "xet" not in json.dumps(said).lower()
    assert all(one.keys() == {"rfilename"} for one in said["siblings"])


async def test_info_with_blobs(world: World) -> None:
    """Each file's size and hash, a large one's SHA-256 and what git has of it."""
    await world.publish()
    info = await in_thread(lambda: world.holder.api.model_info("alice/tiny", files_metadata=True))
    found = {one.rfilename: one for one in info.siblings or ()}
    for path, data in FILES.items():
        assert found[path].size == len(data)
        if path == "model.safetensors":
            sum = etag(path).strip('"')
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sum}\n"
            pointer += f"size {len(data)}\n"
            lfs = found[path].lfs
            assert lfs is not None
            assert (lfs.sha256, lfs.size, lfs.pointer_size) == (sum, len(data), len(pointer))
            assert found[path].blob_id == git_sha1(pointer.encode())
        else:
            assert found[path].lfs is None
            assert found[path].blob_id == git_sha1(data)


async def test_a_card_that_cannot_be_read_says_nothing(world: World) -> None:
    """The rest of the answer is as good as ever."""
    await world.publish(FILES | {"README.md": b"---\na: [\n---\n"})
    said = await world.holder.json("/api/models/alice/tiny")
    assert said["cardData"] == {"license": "apache-2.0"}


async def test_revisions(world: World) -> None:
    """A revision is main, a version, a commit, or a manifest's CID; the newest is main."""
    first = await world.publish(version="1.0")
    second = await world.publish(FILES | {"config.json": b"{}"}, version="2.0")
    for release, revisions in (
        (first, ["1.0", own_commit(first.manifest.cid), str(first.manifest.cid)]),
        (second, ["main", "HEAD", "2.0", own_commit(second.manifest.cid)]),
    ):
        for revision in revisions:
            found = await world.holder.json(f"/api/models/alice/tiny/revision/{revision}")
            assert found["sha"] == own_commit(release.manifest.cid)
    refs = await in_thread(lambda: world.holder.api.list_repo_refs("alice/tiny"))
    newest = own_commit(second.manifest.cid)
    assert [(one.name, one.target_commit) for one in refs.branches] == [("main", newest)]
    assert [one.name for one in refs.tags] == ["2.0", "1.0"]
    commits = await in_thread(lambda: world.holder.api.list_repo_commits("alice/tiny"))
    assert [one.commit_id for one in commits] == [newest, own_commit(first.manifest.cid)]
    assert [one.title for one in commits] == ["version 2.0", "version 1.0"]
    older = await world.holder.json("/api/models/alice/tiny/commits/1.0")
    assert [one["id"] for one in older] == [own_commit(first.manifest.cid)]


async def test_datasets_are_no_models(world: World) -> None:
    """Each kind has its own paths, and is not found by the other's."""
    await world.publish({"train.csv": b"a\n1\n"}, name="words", kind="dataset")
    await world.publish()
    api = world.holder.api
    assert (await in_thread(lambda: api.dataset_info("alice/words"))).id == "alice/words"
    assert "modelId" not in await world.holder.json("/api/datasets/alice/words")
    for wrong in (lambda: api.model_info("alice/words"), lambda: api.dataset_info("alice/tiny")):
        with pytest.raises(RepositoryNotFoundError):
            await in_thread(wrong)
    answer = await world.holder.get("/datasets/alice/words/resolve/main/train.csv")
    assert answer.content == b"a\n1\n"
    answer = await world.holder.get("/alice/words/resolve/main/train.csv")
    assert answer.status_code == 404
    assert answer.headers["x-error-code"] == "RepoNotFound"


async def test_what_is_not_there(world: World) -> None:
    """The client says what: the repository, the revision, the file or the folder."""
    release = await world.publish()
    api, commit = world.holder.api, own_commit(release.manifest.cid)
    for repo in ("alice/nothing", "nobody/tiny", "tiny"):
        with pytest.raises(RepositoryNotFoundError):
            await in_thread(lambda repo=repo: api.model_info(repo))  # type: ignore[misc]
    with pytest.raises(RevisionNotFoundError):
        await in_thread(lambda: api.model_info("alice/tiny", revision="refs/pr/1"))
    answer = await world.holder.get("/api/models/alice/tiny/revision/refs%2Fpr%2F1")
    assert answer.headers["x-error-code"] == "RevisionNotFound"
    assert "refs/pr/1" in answer.headers["x-error-message"]
    with pytest.raises(EntryNotFoundError):
        await in_thread(lambda: list(api.list_repo_tree("alice/tiny", "additional_chat_templates")))
    for path in ("/alice/tiny/resolve/main/no.bin", "/api/models/alice/tiny/tree/main/nowhere"):
        answer = await world.holder.get(path)
        assert answer.status_code == 404
        assert answer.headers["x-error-code"] == "EntryNotFound"
        assert answer.headers["x-repo-commit"] == commit
    assert not await in_thread(lambda: api.file_exists("alice/tiny", "no.bin"))
    assert not await in_thread(lambda: api.repo_exists("alice/nothing"))
    assert not await in_thread(lambda: api.revision_exists("alice/tiny", "nine"))


async def test_tree(world: World) -> None:
    """A folder, or all below it, in the order of paths, each file by its hash."""
    release = await world.publish()
    tree = "/api/models/alice/tiny/tree/main"
    top = await world.holder.json(tree)
    assert paths(top) == ["README.md", "config.json", "data", "empty.txt", "model.safetensors"]
    everything = await world.holder.json(f"{tree}?recursive=true")
    assert paths(everything) == sorted([*FILES, *FOLDERS])
    for one in everything:
        if one["type"] == "directory":
            assert one["path"] in FOLDERS
            assert len(one["oid"]) == 40
        elif one["path"] == "model.safetensors":
            assert one["lfs"]["oid"] == etag(one["path"]).strip('"')
            assert one["lfs"]["size"] == one["size"] == len(WEIGHTS)
        else:
            assert one["oid"] == git_sha1(FILES[one["path"]])
            assert "lfs" not in one
    assert "lastCommit" not in top[0]
    assert paths(await world.holder.json(f"{tree}/data")) == ["data/deep", "data/words.txt"]
    below = await world.holder.json(f"{tree}/data/?recursive=true&expand=true")
    assert paths(below) == ["data/deep", "data/deep/b.txt", "data/words.txt"]
    assert {one["lastCommit"]["id"] for one in below} == {own_commit(release.manifest.cid)}


async def test_a_long_tree_comes_by_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library follows the links, also through a folder with a strange name."""
    odd = "what? 100%25 #1&2"
    files = {f"{odd}/{number:02}.txt": b"%d" % number for number in range(7)}
    await world.publish(files)
    monkeypatch.setattr("node.api.hub.trees.PAGE", 3)
    found = await in_thread(
        lambda: list(world.holder.api.list_repo_tree("alice/tiny", recursive=True, expand=True))
    )
    assert [one.path for one in found] == sorted([odd, *files])
    seen, url = [], f"{world.holder.url}/api/models/alice/tiny/tree/main/{odd_url(odd)}?limit=2"
    while url:
        answer = await world.holder.get(url)
        assert len(answer.json()) <= 2
        seen += paths(answer.json())
        url = answer.links.get("next", {}).get("url", "")
    assert seen == sorted(files)
    assert unquote(urlsplit(str(answer.url)).path).endswith(odd)


def odd_url(text: str) -> str:
    return "".join(f"%{one:02X}" for one in text.encode())


async def test_paths_info(world: World) -> None:
    """Files and folders by their paths; what is not there is left out."""
    await world.publish()
    api = world.holder.api
    asked = ["config.json", "data", "no.bin", "model.safetensors", "config.json"]
    found = await in_thread(lambda: api.get_paths_info("alice/tiny", asked, expand=True))
    assert [one.path for one in found] == ["config.json", "data", "model.safetensors"]
    assert isinstance(found[2], RepoFile)
    assert found[2].lfs is not None
    assert found[2].lfs.sha256 == etag("model.safetensors").strip('"')
    assert found[0].last_commit is not None
    path = "/api/models/alice/tiny/paths-info/main"
    answer = await world.holder.ask("POST", path, json={"paths": ["data/deep/", ""]})
    assert paths(answer.json()) == ["data/deep"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"{}", "application/json"),
        (b'{"paths": "config.json"}', "application/json"),
        (b'{"paths": [1]}', "application/json"),
        (b'{"paths": %s}' % (b"[" * 100_000), "application/json"),
        (b'{"paths": [%s]}' % (b'"a",' * 10_001 + b'"a"'), "application/json; charset=utf-8"),
        (b"paths=%ff\xff", "application/x-www-form-urlencoded"),
        (b"paths=a&" * 10_002, "application/x-www-form-urlencoded"),
    ],
)
async def test_a_bad_list_of_paths(world: World, body: bytes, kind: str) -> None:
    """It is refused as the client's fault, and the next question is answered."""
    await world.publish()
    path = "/api/models/alice/tiny/paths-info/main"
    answer = await world.holder.ask("POST", path, content=body, headers={"content_type": kind})
    assert answer.status_code == 400
    assert answer.headers["x-error-message"]
    answer = await world.holder.ask("POST", path, data={"paths": ["config.json"]})
    assert paths(answer.json()) == ["config.json"]


async def test_a_list_of_paths_without_end(world: World) -> None:
    """It is not read to its end, and the connection is closed behind the answer."""
    await world.publish()
    door = Door(urlsplit(world.holder.url).port or 0, Story())
    form = {"content_type": "application/x-www-form-urlencoded", "connection": None}
    path, body = "/api/models/alice/tiny/paths-info/main", b"paths=" + b"a" * (3 << 20)
    status, _ = split(await door.talk(request(path, body, door.port, **form)))
    assert status == 400
    assert (await world.holder.get("/api/models/alice/tiny")).status_code == 200


async def test_search(world: World) -> None:
    """What publishers with a name list, by words, by whom, the newest first, so many at most."""
    await world.publish(version="1")
    await world.publish({"a.txt": b"2"}, version="2")
    await world.publish({"b.txt": b"1"}, name="words", kind="dataset")
    await world.imported()
    api = world.holder.api
    found = await in_thread(lambda: list(api.list_models()))
    assert {one.id for one in found} == {"alice/tiny", "org/repo"}
    newest = world.alice.names().find("tiny", "2")
    assert newest is not None
    assert next(one for one in found if one.id == "alice/tiny").sha == own_commit(newest.manifest)

    async def ids(query: str, kind: str = "models") -> list[str]:
        return [one["id"] for one in await world.holder.json(f"/api/{kind}{query}")]

    assert await ids("?search=TINY ali") == ["alice/tiny"]
    assert await ids("?search=nothing") == []
    assert await ids("?author=Org") == ["org/repo"]
    assert await ids("?author=al") == []
    assert len(await ids("?limit=1")) == 1
    assert await ids("?limit=0") == []
    assert len(await ids("?limit=-1")) == len(await ids("?limit=x")) == 2
    assert await ids("", "datasets") == ["alice/words"]


async def test_the_filesystem(world: World) -> None:
    """HfFileSystem lists, walks and reads a release, and fetches it where it is not held."""
    await world.publish()
    world.source()
    for served in (world.holder, world.empty):
        fs = HfFileSystem(endpoint=served.url, token=False, skip_instance_cache=True)
        there = await in_thread(lambda fs=fs: fs.find("alice/tiny"))  # type: ignore[misc]
        assert there == [f"alice/tiny/{path}" for path in sorted(FILES)]
        data = await in_thread(
            lambda fs=fs: fs.cat_file("alice/tiny/model.safetensors", start=1000, end=2000)  # type: ignore[misc]
        )
        assert data == WEIGHTS[1000:2000]
