"""Endorse: signed by who was asked to, about the very release, kept, and refused where unclear."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from node.keyring import Keyring
from node.messages import EndorseParams
from node.store import Store
from node.vouching import endorse
from p2p.attest import Attestation
from p2p.bundles import read_attestations
from p2p.cid import CID
from p2p.errors import NotFound, UsageError
from tests.node.conftest import Stores
from tests.releases import Published, publish_into, write_folder


@dataclass
class Machine:
    """A node with a release of somebody else's."""

    store: Store
    keyring: Keyring
    release: Published
    default_key: str = "default"
    spreads: list[CID] = field(default_factory=list)

    def spread(self, cids: list[CID]) -> list[str]:
        self.spreads += cids
        return ["/an/address"]

    @property
    def ref(self) -> str:
        return str(self.release.manifest.cid)

    async def endorse(self, **given: Any) -> dict[str, Any]:
        return await endorse(EndorseParams(self.ref, **given), self, lambda event: None)

    async def said(self) -> list[Attestation]:
        statement = await self.store.statement(self.release.manifest.cid)
        assert statement is not None
        assert self.release.bundle in statement.bundles
        return sorted(read_attestations(statement.bundles), key=lambda one: one.kind)


@pytest.fixture
async def machine(new_store: Stores, tmp_path: Path) -> Machine:
    keyring = Keyring(tmp_path / "keys")
    keyring.new("bob")
    store = await new_store()
    release = await publish_into(store, write_folder(tmp_path / "in", {"a": b"1"}))
    return Machine(store, keyring, release)


async def test_an_endorsement_is_signed_and_kept(machine: Machine) -> None:
    """It is by the publisher's key, about the release, and others are told who has it."""
    result = await machine.endorse(result="passed", note="Fine.", policy="https://example.org/p")
    [said] = await machine.said()
    assert (said.kind, said.passed, said.text) == ("endorsement", True, "Fine.")
    assert said.manifest == machine.release.manifest.cid
    assert said.key == machine.keyring.publisher("bob").public
    assert said.details["policy"] == {"uri": "https://example.org/p"}
    assert (result["kind"], result["result"], result["did"]) == (
        "endorsement",
        "passed",
        said.key.did,
    )
    assert (result["publisher"], result["at"], result["announced"]) == (
        said.publisher,
        said.at,
        True,
    )
    assert machine.spreads == [said.manifest]


async def test_a_change_of_mind(machine: Machine) -> None:
    """A later word by the same policy takes the earlier one's place."""
    await machine.endorse(result="failed", note="z")
    await machine.endorse(result="failed", policy="urn:x")
    assert len(await machine.said()) == 2


async def test_an_evaluation_keeps_its_figures(machine: Machine) -> None:
    """Numbers that JSON here cannot hold become texts; the result is the file's or the option's."""
    figures = {"accuracy": 0.437, "samples": 500, "best": float("inf")}
    test = {"configuration": [{"name": "arc"}], "allod_metrics": figures}
    with pytest.raises(UsageError, match="PASSED, WARNED or FAILED"):
        await machine.endorse(evaluation=json.dumps(test))
    assert (await machine.endorse(evaluation=json.dumps(test), result="failed"))["kind"] == (
        "evaluation"
    )
    warned = {**test, "result": "WARNED", "configuration": [{"name": "mmlu"}]}
    assert (await machine.endorse(evaluation=json.dumps(warned)))["result"] is None
    results = {said.details["result"]: said.details for said in await machine.said()}
    assert results.keys() == {"FAILED", "WARNED"}
    assert results["FAILED"]["allod_metrics"] == {
        "accuracy": "0.437",
        "samples": 500,
        "best": "Infinity",
    }


async def test_a_review_with_and_without_a_verdict(machine: Machine) -> None:
    """Words of several lines, signed; the verdict may be left out."""
    result = await machine.endorse(review="Good.\nBut slow.")
    assert (result["kind"], result["result"]) == ("review", None)
    [said] = await machine.said()
    assert (said.text, said.passed) == ("Good.\nBut slow.", None)
    assert (await machine.endorse(review="Bad.", result="failed"))["result"] == "failed"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "passed or failed"),
        ({"result": "good"}, "passed or failed, not 'good'"),
        ({"review": "x", "evaluation": "{}"}, "two statements"),
        ({"review": "x", "policy": "urn:x"}, "--policy belongs"),
        ({"review": "x", "note": "y"}, "its own words"),
        ({"evaluation": "{"}, "not JSON"),
        ({"evaluation": "[1]"}, "a JSON object, not list"),
        ({"evaluation": '{"result": "great"}'}, "not 'great'"),
        ({"evaluation": '{"result": "PASSED", "url": 5}'}, "cannot be stated"),
        ({"result": "passed", "policy": "no uri"}, "cannot be stated"),
        ({"result": "passed", "note": "a\nb"}, "cannot be stated"),
    ],
)
async def test_what_is_unclear_is_not_signed(
    machine: Machine, given: dict[str, Any], message: str
) -> None:
    """Each mistake is one sentence that names it, and nothing is kept."""
    with pytest.raises(UsageError, match=message):
        await machine.endorse(**given)
    assert await machine.said() == []


async def test_who_speaks(machine: Machine) -> None:
    """With several keys somebody is named, or the default speaks; an unknown name is told."""
    machine.keyring.new("carol")
    with pytest.raises(NotFound, match="'default'"):
        await machine.endorse(result="passed")
    with pytest.raises(NotFound, match="'dave'"):
        await machine.endorse(result="passed", key="dave")
    machine.default_key = "carol"
    await machine.endorse(result="passed")
    await machine.endorse(result="passed", key="bob")
    assert {said.key for said in await machine.said()} == {
        machine.keyring.publisher(name).public for name in ("bob", "carol")
    }


async def test_what_is_not_here_is_not_endorsed(machine: Machine) -> None:
    """Whoever speaks of a release has it."""
    await machine.store.remove(machine.release.manifest.cid)
    with pytest.raises(NotFound):
        await machine.endorse(result="passed")
