"""What people say of a release, on real nodes: signed by one, found by another beside it."""

import json
from pathlib import Path

import pytest

from p2p.bundles import is_model_signature, read_attestations
from tests.network.people import Person
from tests.releases import noise, write_folder

pytestmark = pytest.mark.timeout(120)


def bundles(person: Person, manifest: str) -> list[bytes]:
    """The bundles that somebody's store has of a release."""
    folder = person.home / "store" / "manifests" / manifest / "bundles"
    return [file.read_bytes() for file in folder.iterdir()]


async def test_an_endorsement_travels_with_the_release(tmp_path: Path) -> None:
    """Alice publishes, Bob fetches and endorses, Carol fetches from both and has both their words.

    So has she the model.sig, by which other tools check the files.
    """
    alice, bob, carol = (Person(tmp_path / name) for name in ("alice", "bob", "carol"))
    files = {"model.bin": noise(300_000), "README.md": b"# Tiny\n"}
    published = await alice.publish(write_folder(tmp_path / "in", files), "tiny")
    assert published["modelSig"] == "made"
    manifest = published["manifest"]
    await bob.run("key", "new", "bob")
    async with alice.node() as a, bob.node() as b:
        await bob.run("fetch", published["ref"], "--peer", a.address)
        endorsed = await bob.run("endorse", published["ref"], "--result", "passed")
        results = tmp_path / "results.json"
        results.write_text(json.dumps({"result": "FAILED", "configuration": [{"name": "arc"}]}))
        await bob.run("endorse", published["ref"], "--evaluation", str(results))
        assert endorsed["announced"]
        words = (published["ref"], "--peer", a.address, "--peer", b.address)
        await carol.run("fetch", *words)
        while len(read_attestations(bundles(carol, manifest))) < 2:
            await carol.run("fetch", *words)  # who was too slow with it the first time
    said = {one.kind: one for one in read_attestations(bundles(carol, manifest))}
    assert said.keys() == {"endorsement", "evaluation"}
    assert (said["endorsement"].passed, said["evaluation"].passed) == (True, False)
    assert said["endorsement"].key.did == endorsed["did"]
    assert sum(map(is_model_signature, bundles(carol, manifest))) == 1
