"""``allod trust``: whom this node trusts, which policies it follows, what it denies.

Each function is one operation's body. They edit ``policy.toml`` and what lies beside it; the gate
notices that by itself, in this process and in a node that runs.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from node.communities import source_of, take
from node.gate import Gate
from node.holdings import find_release, spell_out
from node.keyring import Keyring
from node.messages import Report
from node.rulebook import Rulebook
from node.store import Store
from p2p.cid import CID
from p2p.errors import NotFound, UsageError
from p2p.keys import PublicKey
from p2p.policy.reader import PUBLISHER
from p2p.references import parse_reference

if TYPE_CHECKING:
    from node.fetch import FetchNode

Json = dict[str, Any]
T = TypeVar("T")


class TrustNode(Protocol):
    """What the operations need of a node."""

    @property
    def store(self) -> Store: ...
    @property
    def keyring(self) -> Keyring: ...
    @property
    def gate(self) -> Gate: ...


async def add(node: TrustNode, ref: str, petname: str) -> Json:
    """Give a publisher a petname: named by its id, by a link, or by a release that is held."""
    publisher = await _publisher(node, ref)
    changed = await _edit(node, lambda book: book.trust(petname, publisher))
    return {"ok": True, "petname": petname, "publisher": publisher, "changed": changed}


async def remove(node: TrustNode, name: str) -> Json:
    """Take away a petname, or a subscription, named as ``list`` shows it."""
    if await _edit(node, lambda book: book.unsubscribe(name)):
        return {"ok": True, "petname": "", "publisher": "", "ref": name}
    petname, publisher = await _edit(node, lambda book: book.distrust(name))
    return {"ok": True, "petname": petname, "publisher": publisher, "ref": ""}


async def show(node: TrustNode) -> Json:
    """Show the policy: names, what was seen, what is followed and denied."""
    policy, book = await node.gate.policy(), node.gate.rulebook
    seen = await node.gate.seen()

    def subscriptions() -> list[Json]:
        return [
            {"ref": one.ref, "endorsers": one.endorsers} | source_of(book.community(one.ref))
            for one in policy.subscriptions
        ]

    return {
        "ok": True,
        "file": str(book.file),
        "tofu": policy.tofu,
        "publishers": [
            {"petname": name, "publisher": id} for name, id in policy.publishers.items()
        ],
        "seen": [
            {"publisher": id, "since": since}
            for id, since in seen.items()
            if policy.petname(id) is None
        ],
        "rules": len(policy.rules),
        "subscriptions": await trio.to_thread.run_sync(subscriptions),
        "deny": [
            {"file": one.name, "entries": len(one), "foreign": one.foreign, "wrong": one.wrong}
            for one in policy.lists
        ],
    }


async def deny(node: TrustNode, what: str, reason: str) -> Json:
    """Deny a CID, a publisher, a key, or a release that is held, here and from now on."""
    denied = await _denied(node, what)
    await _edit(node, lambda book: book.deny(denied, reason))
    return {"ok": True, "denied": denied, "reason": reason}


async def subscribe(node: "FetchNode", ref: str, peers: Sequence[str], report: Report) -> Json:
    """Fetch the policy of a community, and follow it from now on."""
    found = await take(ref, node, report, peers)
    changed = await _edit(node, lambda book: book.subscribe(ref))
    return {"ok": True, "ref": ref} | found | {"changed": changed or found["changed"]}


async def _edit(node: TrustNode, change: Callable[[Rulebook], T]) -> T:
    found = await trio.to_thread.run_sync(change, node.gate.rulebook)
    await node.gate.policy()  # in force at once; a node in another process notices soon
    return found


async def _publisher(node: TrustNode, ref: str) -> str:
    if PUBLISHER.fullmatch(ref):
        try:  # the CID of a manifest looks like an id
            held = await node.store.release(CID.parse(ref))
        except UsageError:
            held = None
        return held.publisher if held is not None else ref
    reference = parse_reference(ref)
    if reference.publisher is not None and PUBLISHER.fullmatch(reference.publisher):
        return reference.publisher
    named = spell_out(ref, node.keyring, node.gate.petnames())
    return (await find_release(node.store, node.keyring, named)).publisher


async def _denied(node: TrustNode, what: str) -> str:
    if what.startswith("did:key:"):
        return PublicKey.from_did(what).did
    if PUBLISHER.fullmatch(what):
        return what
    if len(what) >= 59 and "/" not in what:
        return str(CID.parse(what))
    reference = parse_reference(what)
    if reference.manifest is not None:
        return str(reference.manifest)
    named = spell_out(what, node.keyring, node.gate.petnames())
    try:
        return str((await find_release(node.store, node.keyring, named)).manifest_cid)
    except NotFound as exc:
        raise NotFound(
            f"{what} is not held here, so nobody knows which release it is.",
            next="Deny it by its manifest CID, or its publisher by the id.",
        ) from exc
