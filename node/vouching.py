"""Endorse: what one of this machine's publishers says of a release that is held here.

The statement is kept with the release's signatures, so whoever fetches the release from this node
gets it too, and passes it on (p2p/bundles.py says how much of that a node takes).
Nothing here says whether anybody should believe it: that is a policy's to say.
"""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import trio

from node.holdings import find_release, link
from node.messages import EndorseParams, Report
from p2p.attest import Kind, read_attestation, write_attestation
from p2p.cid import CID
from p2p.envelope import sign_bundle
from p2p.errors import NotFound, UsageError

if TYPE_CHECKING:
    from node.keyring import Keyring
    from node.store import Store

RESULTS = {"passed": True, "failed": False}


class VouchNode(Protocol):
    """What vouching needs of a node."""

    @property
    def store(self) -> "Store": ...
    @property
    def keyring(self) -> "Keyring": ...
    @property
    def default_key(self) -> str: ...
    def spread(self, cids: list[CID]) -> list[str]:
        """Announce these if this node is on the network; its addresses, none if it is not."""
        ...


async def endorse(params: EndorseParams, node: VouchNode, report: Report) -> dict[str, Any]:
    """Say of a release that it passed or failed, how it did in tests, or what is thought of it.

    Returns the JSON object of ``allod endorse --json``.
    """
    kind, passed, details = _read(params)
    release = await find_release(node.store, node.keyring, params.ref)
    cid, name = release.manifest_cid, chosen_key(node.keyring, params.key, node.default_key)
    repository = node.keyring.repository(name)
    key, publisher = await trio.to_thread.run_sync(lambda: (repository.signer, repository.id))
    payload = write_attestation(
        kind,
        manifest=cid,
        release=f"{release.name}@{release.version}",
        publisher=publisher,
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        passed=passed,
        text=params.review if kind == "review" else params.note,
        policy=params.policy,
        details=details,
    )
    bundle = sign_bundle(payload, key)
    owners = await node.store.publishers.keys(release.publisher)
    await node.store.add_bundles(cid, [bundle], owners, {key.public})
    said = read_attestation(bundle)
    return {
        "ok": True,
        "ref": link(release),
        "manifest": str(cid),
        "kind": kind,
        "result": {True: "passed", False: "failed", None: None}[passed],
        "publisher": publisher,
        "did": key.public.did,
        "at": said.at,
        "announced": bool(node.spread([cid])),
    }


def chosen_key(keyring: "Keyring", name: str, default: str) -> str:
    """Return which of this machine's publishers speaks: the one named, the only one, the default.

    ``NotFound`` where that is nobody.
    """
    names = keyring.names()
    chosen = name or (names[0] if len(names) == 1 else default)
    if chosen not in names:
        raise NotFound(
            f"This machine has no publisher key called {chosen!r}.",
            next="`allod key list` shows its keys, `allod key new NAME` makes one.",
        )
    return chosen


def _read(params: EndorseParams) -> tuple[Kind, bool | None, dict[str, Any]]:
    """Return what kind of statement is asked for, its result, and the further fields."""
    if params.evaluation and params.review:
        raise UsageError("--evaluation and --review are two statements; make one after the other.")
    if params.policy and (params.evaluation or params.review):
        raise UsageError("--policy belongs to an endorsement, not to an evaluation or a review.")
    if params.note and params.review:
        raise UsageError("A review has its own words; leave --note out.")
    if params.result not in ("", *RESULTS):
        raise UsageError(f"The result is passed or failed, not {params.result[:80]!r}.")
    if params.review:
        return "review", RESULTS.get(params.result), {}
    if params.evaluation:
        return _read_evaluation(params)
    if not params.result:
        raise UsageError(
            "Nobody said whether the release passed or failed.",
            next="Add --result passed or --result failed, or --review with what is to be said.",
        )
    return "endorsement", RESULTS[params.result], {}


def _read_evaluation(params: EndorseParams) -> tuple[Kind, bool | None, dict[str, Any]]:
    """Read an in-toto test result; figures that are not whole numbers become texts."""
    try:
        details = json.loads(params.evaluation, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"The evaluation is not JSON: {exc}.") from exc
    if not isinstance(details, dict):
        raise UsageError(f"The evaluation is a JSON object, not {type(details).__name__}.")
    said = {"passed": "PASSED", "failed": "FAILED", "": details.get("result")}[params.result]
    if said not in ("PASSED", "WARNED", "FAILED"):
        raise UsageError(
            f"The evaluation's result is PASSED, WARNED or FAILED, not {said!r:.80}.",
            next="Put it into the file as `result`, or add --result.",
        )
    return "evaluation", {"PASSED": True, "FAILED": False, "WARNED": None}[said], details
