"""Import keeps its promises: the Hub's files, taken where they lie, checked before they count."""

import json
import os
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from node.hub.importing import import_repository
from node.hub.origin import ROLE, origin_of
from node.hub.repository import Repository, parse_repository
from node.keyring import Keyring
from node.messages import ImportParams, Note, Progress
from p2p.cid import CID
from p2p.errors import (
    AllodError,
    DiskFull,
    NetworkError,
    NotFound,
    Refused,
    UsageError,
    VerificationFailed,
)
from p2p.policy import Facts
from p2p.terms import ORIGIN, is_origin
from tests.hub import Hub, git_sha1, running_hub
from tests.network.people import Person
from tests.node.conftest import Stores
from tests.node.test_publish import Machine
from tests.releases import MIB, noise, safetensors_bytes

CARD = b"""---
license: apache-2.0
base_model: org/base
datasets: [org/data]
---
# Tiny
"""
WEIGHTS = safetensors_bytes({"a": noise(MIB), "b": noise(100, 2)}, {})
FILES = {
    ".gitattributes": b"*.safetensors filter=lfs",
    "README.md": CARD,
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "sub/vocab.txt": b"a\nb\n",
}
PICKLE = pickle.dumps({"a": list(range(100))})
NOBODY = "http://127.0.0.1:9"  # the port of discard, which nobody listens on


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub that has the model org/tiny."""
    with running_hub() as hub:
        hub.make("org/tiny", dict(FILES))
        yield hub


class Importer(Machine):
    """A machine whose Hugging Face clients have a cache, and know a Hub."""

    cache: Path
    endpoint: str

    async def take(self, ref: str = "hf:org/tiny", **params: Any) -> dict[str, Any]:
        found = {"cache": str(self.cache), "endpoint": self.endpoint} | params
        return await import_repository(ImportParams(ref, **found), self, self.events.append)

    def notes(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Note))


@pytest.fixture
async def machine(new_store: Stores, tmp_path: Path, hub: Hub) -> Importer:
    keyring = Keyring(tmp_path / "keys")
    keyring.new("alice")
    machine = Importer(await new_store(), keyring)
    machine.cache, machine.endpoint = tmp_path / "hf" / "hub", hub.url
    return machine


def download(hub: Hub, cache: Path, repo: str = "org/tiny", **options: Any) -> Path:
    """Have the real library download a repository into a cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    return Path(snapshot_download(repo, cache_dir=cache, endpoint=hub.url, **options))


async def test_a_repository_becomes_a_release(machine: Importer, hub: Hub) -> None:
    """Its name, version, files, licence and lineage are the Hub's, and it says where it is from."""
    commit = hub.repos["model", "org/tiny"].refs["main"]
    result = await machine.take()
    manifest = await machine.manifest(result)
    assert (manifest.name, manifest.version, manifest.kind) == ("org--tiny", commit, "model")
    assert [entry.path for entry in manifest.files] == sorted(FILES)
    assert manifest.license["spdx"] == "Apache-2.0"
    assert [(one["role"], one["uri"]) for one in manifest.lineage] == [
        ("origin", f"hf://org/tiny@{commit}"),
        ("base_model", "hf://org/base"),
        ("dataset", "hf://datasets/org/data"),
    ]
    origin = origin_of(manifest)
    assert origin is not None
    assert (origin.repo, origin.commit) == ("org/tiny", commit)
    assert manifest.web_seeds == ()  # this Hub speaks no https
    assert result["compared"] is True
    assert result["downloaded"] == sum(map(len, FILES.values()))
    assert result["left"] == []
    assert (await machine.store.verify()).bad == []


async def test_large_files_alone_state_sha256(machine: Importer) -> None:
    """So that whoever has the release knows by which hash the Hub calls each of its files."""
    manifest = await machine.manifest(await machine.take())
    stated = {entry.path: entry.sha256 for entry in manifest.files if entry.sha256}
    assert set(stated) == {"model.safetensors"}


async def test_the_same_again_changes_nothing(machine: Importer, hub: Hub) -> None:
    """Neither what the publisher says nor the link, and nothing is downloaded."""
    first = await machine.take()
    before = hub.downloads()
    second = await machine.take()
    assert second["ref"] == first["ref"]
    assert hub.downloads() == before
    assert "nothing changes" in machine.notes()
    assert second["adopted"] == first["downloaded"]


async def test_a_commit_a_tag_and_a_branch_name_a_revision(machine: Importer, hub: Hub) -> None:
    """Each is imported as the commit that it is; main may have gone on."""
    repo = hub.repos["model", "org/tiny"]
    old = repo.refs["main"]
    repo.refs["v1.0"] = old
    new = repo.push(FILES | {"sub/vocab.txt": b"c\n"})
    assert (await machine.take("hf:org/tiny"))["version"] == new
    assert (await machine.take("hf:org/tiny@v1.0"))["version"] == old
    assert (await machine.take(f"hf://org/tiny@{old}"))["version"] == old


async def test_a_dataset_says_that_it_is_one(machine: Importer, hub: Hub) -> None:
    """In its kind and its origin; it gets no file that the Hub does not have."""
    hub.make("org/data", {"train.csv": b"a,b\n1,2\n", "README.md": b"# Data"}, "dataset")
    result = await machine.take("hf:datasets/org/data")
    assert result["kind"] == "dataset"
    assert result["origin"] == f"hf://datasets/org/data@{result['version']}"
    assert [file["path"] for file in result["files"]] == ["README.md", "train.csv"]


async def test_patterns_and_names_choose(machine: Importer) -> None:
    """As for fetch and publish; another choice under the same name is refused with advice."""
    result = await machine.take(include=("*.json", "*.safetensors"), name="alice/small")
    assert [file["path"] for file in result["files"]] == ["config.json", "model.safetensors"]
    assert result["name"] == "small"
    with pytest.raises(UsageError, match="other content") as caught:
        await machine.take(exclude=("sub/",), name="small")
    assert "--as" in caught.value.next
    with pytest.raises(NotFound, match="None of the 5 files"):
        await machine.take(include=("*.gguf",))


# --- the cache ------------------------------------------------------------------------------------


async def test_a_cache_is_adopted_by_links(machine: Importer, hub: Hub) -> None:
    """What Hugging Face's library has downloaded is not downloaded again, and not copied."""
    snapshot = await trio.to_thread.run_sync(download, hub, machine.cache)
    before = len(hub.downloads())
    result = await machine.take()
    assert len(hub.downloads()) == before
    assert (result["downloaded"], result["adopted"]) == (0, sum(map(len, FILES.values())))
    manifest = await machine.manifest(result)
    for entry in manifest.files:
        held = await machine.store.held(entry.cid)
        assert held is not None
        blob = (snapshot / entry.path).stat()
        assert held.path.stat().st_ino == blob.st_ino or _shares(held.path, snapshot / entry.path)


def _shares(one: Path, other: Path) -> bool:
    """Say whether two files of a file system with reflinks look shared: the disk is not asked."""
    return one.stat().st_dev == other.stat().st_dev and one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("by", ["cached_only", "no route"])
async def test_offline_the_cache_is_what_there_is(machine: Importer, hub: Hub, by: str) -> None:
    """The ref says the commit, the snapshot the files, their blobs the hashes; a note the rest."""
    repo = hub.repos["model", "org/tiny"]
    await trio.to_thread.run_sync(download, hub, machine.cache)
    asked = len(hub.asked)
    if by == "cached_only":
        result = await machine.take(cached_only=True)
    else:
        result = await machine.take(endpoint=NOBODY)
    assert len(hub.asked) == asked
    assert result["version"] == repo.refs["main"]
    assert [file["path"] for file in result["files"]] == sorted(FILES)
    assert result["compared"] is False
    assert "could not be compared" in machine.notes()
    manifest = await machine.manifest(result)
    assert {entry.path for entry in manifest.files if entry.sha256} == {"model.safetensors"}
    online = await machine.take()
    assert online["ref"] == result["ref"]


async def test_an_import_leaves_a_cache_that_serves_offline(machine: Importer, hub: Hub) -> None:
    """Which commit a branch was is noted, as the library does it."""
    online = await machine.take()
    assert (await machine.take(cached_only=True))["ref"] == online["ref"]
    with pytest.raises(NotFound, match="no snapshot of org/tiny at v2"):
        await machine.take("hf:org/tiny@v2", cached_only=True)
    with pytest.raises(NetworkError, match="cannot be reached"):
        await machine.take("hf:org/other", endpoint=NOBODY)


async def test_links_out_of_the_cache_are_not_followed(machine: Importer, hub: Hub) -> None:
    """A cache that somebody else may write publishes nothing of this user's."""
    snapshot = await trio.to_thread.run_sync(download, hub, machine.cache)
    secret = machine.cache.parent / "secret"
    secret.write_bytes(FILES["config.json"])
    (snapshot / "config.json").unlink()
    for target in (secret, Path("../../../../secret"), secret.parent):
        (snapshot / "config.json").symlink_to(target)
        for cached_only in (True, False):
            with pytest.raises(Refused, match="out of its cache"):
                await machine.take(cached_only=cached_only)
        (snapshot / "config.json").unlink()
    blob = snapshot.parent.parent / "blobs" / git_sha1(FILES["config.json"])
    blob.unlink()
    blob.symlink_to(secret)
    (snapshot / "config.json").symlink_to(f"../../blobs/{blob.name}")
    with pytest.raises(Refused, match="out of its cache"):
        await machine.take()
    assert await machine.store.releases() == []


async def test_blobs_that_the_cache_shares_are_followed(machine: Importer, hub: Hub) -> None:
    """Since 2.0 a repository's blob may be a link to one of the whole cache's."""
    snapshot = await trio.to_thread.run_sync(download, hub, machine.cache)
    blob = (snapshot / "model.safetensors").resolve()
    shared = machine.cache / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(Path("../../blobs/ab") / shared.name)
    result = await machine.take(cached_only=True)
    assert [file["path"] for file in result["files"]] == sorted(FILES)


async def test_a_cache_without_links_needs_the_hub(machine: Importer, hub: Hub) -> None:
    """Where nothing is called by its hash, the Hub's list alone says what a file must be."""
    snapshot = await trio.to_thread.run_sync(download, hub, machine.cache)
    place = snapshot / "config.json"
    place.unlink()
    place.write_bytes(FILES["config.json"])
    with pytest.raises(Refused, match=r"what config\.json of org/tiny must be"):
        await machine.take(cached_only=True)
    assert (await machine.take())["downloaded"] == 0


async def test_a_dry_run_moves_nothing(machine: Importer, hub: Hub) -> None:
    """It says what would be imported, and what of that is in the cache."""
    await trio.to_thread.run_sync(
        partial(download, hub, machine.cache, allow_patterns="*.safetensors")
    )
    before = hub.downloads()
    result = await machine.take(dry_run=True)
    assert hub.downloads() == before
    rest = sum(map(len, FILES.values())) - len(WEIGHTS)
    assert result["bytes"] == {
        "total": rest + len(WEIGHTS), "download": rest, "cached": len(WEIGHTS)
    }  # fmt: skip
    assert [file["path"] for file in result["files"] if file["cached"]] == ["model.safetensors"]
    assert await machine.store.releases() == []


# --- what others would refuse ---------------------------------------------------------------------


async def test_pickles_stay_out_unless_they_are_named(machine: Importer, hub: Hub) -> None:
    """By their very name: a pattern that happens to match is not enough."""
    hub.make("org/both", FILES | {"pytorch_model.bin": PICKLE, "x.py": b"", "m.onnx": b"1"})
    result = await machine.take("hf:org/both", include=("*",))
    assert [file["path"] for file in result["files"]] == sorted(FILES)
    assert {one["path"]: one["format"] for one in result["left"]} == {
        "m.onnx": "onnx", "pytorch_model.bin": "pickle", "x.py": "code"
    }  # fmt: skip
    assert "--include '*' --include m.onnx takes it along" in machine.notes()
    assert not any("pytorch_model.bin" in path for path in hub.downloads())
    result = await machine.take("hf:org/both", include=("*", "pytorch_model.bin"), name="all")
    assert "pytorch_model.bin" in [file["path"] for file in result["files"]]


async def test_a_model_without_weights_is_refused(machine: Importer, hub: Hub) -> None:
    """Unless that is what was asked for: then it is only papers that are imported."""
    hub.make("org/old", {"pytorch_model.bin": PICKLE, "config.json": b"{}"})
    with pytest.raises(Refused, match="no format that is safe") as caught:
        await machine.take("hf:org/old")
    assert "--include '*' --include pytorch_model.bin" in caught.value.next
    assert hub.downloads() == []
    result = await machine.take("hf:org/old", include=("*.json",))
    assert [file["path"] for file in result["files"]] == ["config.json"]


async def test_a_pickle_under_another_name_is_found(machine: Importer, hub: Hub) -> None:
    """By its bytes, once they are here."""
    hub.make("org/sly", FILES | {"extra.bin": PICKLE, "fake.safetensors": PICKLE})
    result = await machine.take("hf:org/sly")
    assert [file["path"] for file in result["files"]] == sorted(FILES)
    assert "extra.bin is left out: its bytes are a pickle" in machine.notes()
    hub.make("org/all", {"model.safetensors": PICKLE, "config.json": b"{}"})
    with pytest.raises(Refused, match="no format that is safe"):
        await machine.take("hf:org/all")


async def test_settings_that_name_code_are_told_of(machine: Importer, hub: Hub) -> None:
    """They stay in, for clients that need no code; that others refuse them is said."""
    settings = json.dumps({"auto_map": {"AutoModel": "modeling_x.X"}}).encode()
    hub.make("org/code", FILES | {"config.json": settings, "modeling_x.py": b"import os"})
    result = await machine.take("hf:org/code")
    assert "config.json" in [file["path"] for file in result["files"]]
    assert "config.json names code that is not in the release" in machine.notes()


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("what", ["wrong_bytes", "wrong_hash"])
async def test_other_bytes_than_the_hub_lists_are_caught(
    machine: Importer, hub: Hub, path: str, what: str
) -> None:
    """By SHA-256 or git's SHA-1; the error names the file, and nothing is published."""
    setattr(hub, what, {path})
    with pytest.raises(VerificationFailed, match="is not what the Hub lists") as caught:
        await machine.take()
    assert caught.value.message.startswith(path)
    assert "Delete " in caught.value.next
    assert await machine.store.releases() == []


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
async def test_a_damaged_cache_is_caught_offline(machine: Importer, hub: Hub, path: str) -> None:
    """A blob is called by its hash, so that no Hub is needed to see it."""
    snapshot = await trio.to_thread.run_sync(download, hub, machine.cache)
    blob = (snapshot / path).resolve()
    blob.write_bytes(bytes(len(FILES[path])))
    with pytest.raises(VerificationFailed, match="is not what its name in the cache says"):
        await machine.take(cached_only=True)


@pytest.mark.parametrize(
    ("change", "ref", "kind", "says"),
    [
        ({"status": 429}, "hf:org/tiny", NetworkError, "no more requests"),
        ({"status": 500}, "hf:org/tiny", NetworkError, "HTTP 500"),
        ({"status": 403}, "hf:org/tiny", Refused, "HTTP 403"),
        ({"status": 401}, "hf:org/tiny", Refused, "HTTP 401"),
        ({}, "hf:org/none", NotFound, "has no model org/none"),
        ({}, "hf:datasets/org/tiny", NotFound, "has no dataset org/tiny"),
        ({}, "hf:org/tiny@v9", NotFound, "no revision v9"),
        ({"lost": {"config.json"}}, "hf:org/tiny", NotFound, "does not have it"),
    ],
)
async def test_each_trouble_is_one_clear_error(
    machine: Importer,
    hub: Hub,
    change: dict[str, Any],
    ref: str,
    kind: type[AllodError],
    says: str,
) -> None:
    """Whose fault it is, in a sentence, and what to do next."""
    for name, value in change.items():
        setattr(hub, name, value)
    with pytest.raises(kind, match=says) as caught:
        await machine.take(ref)
    assert caught.value.next
    assert "\n" not in caught.value.message


async def test_what_is_not_for_everybody_is_told_of(machine: Importer, hub: Hub) -> None:
    """A gated one is refused with the way in; what this user may read is published knowingly."""
    hub.repos["model", "org/tiny"].gated = True
    with pytest.raises(Refused, match="gated") as caught:
        await machine.take()
    assert "hf auth login" in caught.value.next
    hub.repos["model", "org/tiny"].gated = False
    hub.repos["model", "org/tiny"].private = True
    await machine.take()
    assert "not given to everybody" in machine.notes()


async def test_a_full_disk_is_said_before_the_download(
    machine: Importer, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not after hours of it."""
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("node.hub.importing.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DiskFull, match="have to be downloaded"):
        await machine.take()
    assert hub.downloads() == []


@pytest.mark.parametrize("path", ["../up.txt", "/etc/passwd", "a//b", "con.txt", "x/.git/config"])
async def test_paths_that_no_release_may_name_are_refused(
    machine: Importer, hub: Hub, path: str
) -> None:
    """Before anything of theirs touches the disk; without that file the rest comes."""
    hub.make("org/bad", FILES | {path: b"x"})
    with pytest.raises(UsageError, match="cannot be imported") as caught:
        await machine.take("hf:org/bad")
    assert "--exclude" in caught.value.next
    assert hub.downloads() == []
    assert await machine.take("hf:org/bad", exclude=(path,))


async def test_a_card_that_cannot_be_read_can_be_left_out(machine: Importer, hub: Hub) -> None:
    """It is a stranger's, and nobody here can mend it."""
    hub.make("org/card", FILES | {"README.md": b"---\nlicense: [mit\n---\n"})
    with pytest.raises(UsageError, match="not YAML") as caught:
        await machine.take("hf:org/card")
    assert "--exclude README.md" in caught.value.next
    result = await machine.take("hf:org/card", exclude=("README.md",), license="MIT")
    assert result["license"] == "MIT"


async def test_too_many_files_end_the_list(
    machine: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it would have gone on."""
    monkeypatch.setattr("node.importers.hub.MAX_FILES", 3)
    with pytest.raises(UsageError, match="more than the 3 files"):
        await machine.take()


async def test_folders_without_end_end_the_list(
    machine: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that never comes to a file is given up like any other."""
    from huggingface_hub import HfApi

    monkeypatch.setattr("node.importers.hub.MAX_FILES", 3)
    folders: list[object] = []

    def endless(*args: Any, **options: Any) -> Iterator[object]:
        while len(folders) < 10:
            folders.append(object())
            yield folders[-1]

    monkeypatch.setattr(HfApi, "list_repo_tree", endless)
    with pytest.raises(UsageError, match="more than the 3 files"):
        await machine.take()
    assert len(folders) == 4


@pytest.mark.parametrize(
    ("endpoint", "seeds"),
    [
        ("https://mirror.example", True),
        ("https://me:secret@mirror.example", False),
        ("http://mirror.example", False),
    ],
)
async def test_no_password_is_published(
    machine: Importer, hub: Hub, endpoint: str, seeds: bool
) -> None:
    """A mirror's address is a web seed where everybody may use it as it stands."""
    download(hub, machine.cache)
    result = await machine.take(endpoint=endpoint, cached_only=True)
    known = await machine.store.manifest(CID.parse(result["manifest"]))
    assert known is not None
    assert (b"mirror.example" in known[0]) is seeds
    assert b"secret" not in known[0]


async def test_a_cancel_ends_it_and_the_next_goes_on(machine: Importer, hub: Hub) -> None:
    """At once, although the library waits for bytes; complete files are not downloaded again."""
    hub.stalls = {"model.safetensors"}
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.take)
            await trio.to_thread.run_sync(hub.stalled.wait)
            while not any(isinstance(event, Progress) for event in machine.events):
                await trio.testing.wait_all_tasks_blocked(0.01)
            scope.cancel()
    assert await machine.store.releases() == []
    hub.stalls = set()
    hub.go.set()
    result = await machine.take()
    assert result["downloaded"] >= len(WEIGHTS)
    assert sum(path.endswith("model.safetensors") for path in hub.downloads()) >= 2


# --- words and policies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hf:gpt2", Repository("model", "gpt2")),
        ("hf:org/tiny", Repository("model", "org/tiny")),
        ("hf://models/org/tiny@v1", Repository("model", "org/tiny", "v1")),
        ("hf:datasets/org/data@refs/pr/1", Repository("dataset", "org/data", "refs/pr/1")),
    ],
)
def test_repositories_are_named(text: str, found: Repository) -> None:
    """As the Hub's own tools name them."""
    assert parse_repository(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "org/tiny", "hf:", "hf:org/", "hf:a/b/c", "hf:org/ti--ny", "hf:org/..", "hf:org/tiny@",
        "hf:org/tiny@../../x", "hf:org/tiny@/x", "hf:org/tiny@a//b", "hf:spaces/org/x", "hf:o r/x",
    ],
)  # fmt: skip
def test_what_names_no_repository_is_refused(text: str) -> None:
    """Among it everything that would lead out of a cache."""
    with pytest.raises(UsageError, match="names no repository"):
        parse_repository(text)


async def test_an_origin_is_no_parent(machine: Importer) -> None:
    """A rule about unknown parents is not about where this very work was taken from."""
    manifest = await machine.manifest(await machine.take())
    assert ROLE == ORIGIN
    assert [is_origin(one) for one in manifest.lineage] == [True, False, False]
    assert Facts.of(manifest).parents == (None, None)
    assert not is_origin({"role": ORIGIN, "manifest": str(CID.parse(str(manifest.cid)))})


# --- the command ----------------------------------------------------------------------------------


async def test_the_command_asks_what_its_user_s_clients_ask(tmp_path: Path, hub: Hub) -> None:
    """Which Hub, which cache and whether there is a network say its own variables, not the node's.

    The node that runs does the work, and gives the release to others.
    """
    alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
    await alice.run("key", "new", "alice")
    async with alice.node() as node:
        alice.environ |= hub.environ(str(tmp_path / "hf"))
        found = await alice.run("import", "hf:org/tiny")
        assert found["downloaded"] == sum(map(len, FILES.values()))
        before = len(hub.asked)
        alice.environ |= {"HF_HUB_OFFLINE": "1"}
        assert (await alice.run("import", "hf:org/tiny"))["ref"] == found["ref"]
        assert len(hub.asked) == before
        got = await bob.run("fetch", found["ref"], "--peer", node.address)
        for path, data in FILES.items():
            assert (Path(got["path"]) / path).read_bytes() == data
        chain = (await bob.run("provenance", found["ref"]))["chain"]
        assert chain[0]["parents"][0]["uri"] == found["origin"]
    error = await alice.refused("import", "hf:org/none", code=3)
    assert error["code"] == "NOT_FOUND"
    assert not hub.tokens
    assert os.listdir(tmp_path / "hf" / "hub" / "models--org--tiny" / "refs") == ["main"]
