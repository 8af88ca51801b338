"""``allod search``: releases by words, among the publishers that this machine knows.

Searched are the lists of all publishers whose metadata is here (those that the owner follows, and
those of releases that are held), and the cards of the releases that are held. Nothing is asked of
the network: nobody learns what somebody looks for, and nobody can put himself into the answer whom
this machine has never had to do with.

Every word must be somewhere. A word in the name counts more than one in the description, and that
more than one in the card.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from node.messages import SearchParams
from node.naming import NamingNode
from node.provenance import People
from node.store import Store, durable
from p2p.cid import CID
from p2p.errors import StoreError, UsageError, VerificationFailed
from p2p.manifest import parse_manifest
from p2p.naming import Named
from p2p.references import share_link

MAX_CARD: Final = 256 << 10
"""Bytes of a card that are looked through: what a person would read of it."""
MAX_RESULTS: Final = 100
"""Releases in an answer, the best first."""
MAX_WORDS: Final = 32
"""Words that are looked for."""

_WEIGHTS: Final = {"name": 100, "license": 20, "kind": 20, "description": 10, "card": 1}

Json = dict[str, Any]


@dataclass(slots=True)
class _Found:
    """A release that can be looked for: its texts by where they stand, in small letters."""

    publisher: str
    named: Named
    texts: dict[str, str]
    held: bool

    def score(self, words: Sequence[str]) -> int:
        """Return how well the words fit; 0 if one of them is nowhere."""
        total = 0
        for word in words:
            places = [_WEIGHTS[key] for key, text in self.texts.items() if word in text]
            best = max(places, default=0)
            if not best:
                return 0
            total += best + (50 if word == self.texts["name"].rpartition("/")[2] else 0)
        return total


async def search(params: SearchParams, node: NamingNode) -> Json:
    """Return the releases that fit: the JSON object of ``allod search --json``."""
    words = [word.casefold() for text in params.words for word in text.split()]
    if not 0 < len(words) <= MAX_WORDS:
        raise UsageError(
            f"A search is for 1 to {MAX_WORDS} words, these are {len(words)}.",
            next="`allod ls` lists all that is held.",
        )
    people = await trio.to_thread.run_sync(People, node)
    found = [
        (score, one)
        for one in await _candidates(node.store, people, everything=params.all)
        if params.kind in ("", one.named.kind) and (score := one.score(words))
    ]
    found.sort(key=lambda item: (-item[0], -item[1].named.sequence, item[1].named.path))
    return {
        "ok": True,
        "found": len(found),
        "results": [_shown(one, people) for _, one in found[:MAX_RESULTS]],
    }


async def _candidates(store: Store, people: People, *, everything: bool) -> list[_Found]:
    """Gather what can be found; only the newest good version of a name unless all are wanted."""
    here = {one.manifest_cid for one in await store.releases()}
    found = []
    for publisher in await store.publishers.ids():
        held = await store.publishers.held(publisher)
        if held is None:
            continue
        petname = people.petname(publisher)
        for named in held.names.entries if everything else _newest(held.names.entries):
            texts = {
                "name": f"{petname or ''}/{named.name}".casefold(),
                "description": named.description.casefold(),
                "license": named.license.casefold(),
                "kind": named.kind,
            }
            if named.manifest in here:
                texts["card"] = (await _card(store, named.manifest)).casefold()
            found.append(_Found(publisher, named, texts, named.manifest in here))
    return found


def _newest(entries: Iterable[Named]) -> Iterable[Named]:
    best: dict[str, Named] = {}
    for one in entries:
        if one.status is None and one.sequence > getattr(best.get(one.name), "sequence", 0):
            best[one.name] = one
    return best.values()


async def _card(store: Store, cid: CID) -> str:
    """Return the card of a release that is held; nothing where it has none."""
    known = await store.manifest(cid)
    if known is None:
        return ""
    payload, _, listing = known
    try:
        manifest = await trio.to_thread.run_sync(parse_manifest, payload, listing)
    except VerificationFailed:
        return ""
    path = manifest.docs.get("card", "README.md")
    entry = next((one for one in manifest.files if one.path == path), None)
    held = await store.held(entry.cid) if entry is not None else None
    if held is None or not held.have.covers(0, min(held.size, MAX_CARD)):
        return ""
    place = held.path

    def read() -> str:
        with place.open("rb") as stream:
            return stream.read(MAX_CARD).decode(errors="replace")

    try:
        return await durable.on_disk("read a card", read)
    except StoreError:  # it went away meanwhile
        return ""


def _shown(one: _Found, people: People) -> Json:
    named = one.named
    return {
        "ref": share_link(one.publisher, named.name, named.manifest, ()),
        "manifest": str(named.manifest),
        "publisher": one.publisher,
        "petname": people.petname(one.publisher),
        "name": named.name,
        "version": named.version,
        "kind": named.kind,
        "license": named.license,
        "description": named.description,
        "added": named.added,
        "held": one.held,
        "status": None if named.status is None else named.status.state,
    }
