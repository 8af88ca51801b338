"""The HTTP that other nodes see: blocks and bytes by CID, outlines, statements.

    GET /ipfs/{cid}                      see gateway.py
    GET /allod/v1/outline/{cid}          the Outline of a file: a CARv1 of its inner nodes
    GET /allod/v1/have/{cid}             what of a file, or of a release, is held here
    GET /allod/v1/manifest/{cid}         the payload of a manifest
    GET /allod/v1/bundles/{cid}          the signature bundles known for it, one a line
    GET /allod/v1/publisher/{id}/{file}  what a publisher says: a file of its TUF metadata
    GET /allod/v1/lane                   an offer of a lane; over libp2p streams only

Where models are shared, peers are answered for them too, see answers.py; streams only as well.

It answers from the store alone: it never asks the network on behalf of a stranger.
The same answers go over libp2p streams and loopback HTTP.
"""

import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from node.api.gateway import CAR_TYPE, Gateway
from node.gate import Gate
from node.store import Store
from p2p.cid import CID, Codec
from p2p.errors import NotFound
from p2p.http import Handler, Request, Response
from p2p.lane.offer import Encryption, Offer

MAX_HAVE_FILES: Final = 100_000
"""Files that one ``have`` answer for a release lists: the asker bounds the answer to 16 MiB."""

HAVE_REST: Final = 10.0
"""Times as long as it took to make a ``have`` answer it is given again: a stranger's request must
not cost a look at a million files each time, and a fetch of a few may be followed closely."""
MAX_COUNTED: Final = 4
"""Releases whose answers are kept, some MiB each."""


class PeerApi:
    """Answers what a node answers to other nodes."""

    def __init__(
        self,
        store: Store,
        offer: Callable[[str, Encryption], Offer] | None = None,
        *,
        gate: Gate | None = None,
        answers: Handler | None = None,
    ) -> None:
        """``offer`` makes lanes, ``answers`` answers for shared models: both only for an instance
        whose every asker has proved who it is.

        ``gate`` says what is given to others; without one all that is held is.
        """
        self._store = store
        self._offer = offer
        self.answers = answers
        self._gate = gate
        self._gateway = Gateway(store, gate)
        self._counting = trio.Lock()
        self._counted: OrderedDict[CID, tuple[float, bytes]] = OrderedDict()
        """What was said of a release lately, and until when it is said again."""
        self._routes: dict[str, Callable[[CID], Awaitable[Response]]] = {
            "outline": self._outline,
            "have": self._have,
            "manifest": self._manifest,
            "bundles": self._bundles,
        }

    async def __call__(self, request: Request) -> Response:
        """Answer one request; the errors that it raises say their own HTTP status."""
        match request.path.split("/"):
            case ["", "ipfs", _, *_]:
                return await self._gateway(request)
            case ["", "allod", "v1", name, cid] if name in self._routes:
                return await self._routes[name](CID.parse(cid))
            case ["", "allod", "v1", "publisher", id, file]:
                return await self._publisher(id, file)
            case ["", "allod", "v1", "lane"] if self._offer is not None:
                wants: Encryption = "off" if request.query.get("encryption") == "off" else "tls"
                body = self._offer(request.peer, wants).encode()
                return Response(200, {"content-type": "application/json"}, body)
            case ["", "allod", "v1", "serving" | "answer" | "receipt", *_] if self.answers:
                return await self.answers(request)
        raise NotFound(f"There is nothing at {request.path} on this node.")

    async def _outline(self, cid: CID) -> Response:
        if self._gate is not None:
            await self._gate.check(cid)
        outline = await self._store.outline(cid)
        if outline is None:
            raise NotFound(f"This node holds no outline of {cid}.")
        # A file of a terabyte has a million leaves: half a second of encoding.
        body = await trio.to_thread.run_sync(outline.encode)
        return Response(200, {"content-type": CAR_TYPE}, body)

    async def _have(self, cid: CID) -> Response:
        if self._gate is not None:
            await self._gate.check(cid)
        if cid.codec is Codec.JSON:
            return await self._have_release(cid)
        held = await self._store.held(cid)
        if held is None:
            raise NotFound(f"This node holds nothing of {cid}.")
        return _json({"size": held.outline.size, "have": [list(span) for span in held.have]})

    async def _have_release(self, cid: CID) -> Response:
        release = await self._store.release(cid)
        if release is None:
            raise NotFound(f"This node holds nothing of the release {cid}.")
        withheld = await self._gate.withheld(cid) if self._gate is not None else frozenset()
        if release.complete and not withheld:
            return _json({"complete": True, "files": {}})
        async with self._counting:
            known = self._counted.get(cid)
            begin = trio.current_time()
            if known is not None and begin < known[0]:
                return _json_of(known[1])
            body = await self._count(cid, withheld)
            now = trio.current_time()
            self._counted.pop(cid, None)
            self._counted[cid] = now + HAVE_REST * (now - begin), body
            while len(self._counted) > MAX_COUNTED:
                self._counted.popitem(last=False)
        return _json_of(body)

    async def _count(self, cid: CID, withheld: frozenset[CID]) -> bytes:
        """Look at every file of a release that is not complete: seconds, where they are many."""
        named = await self._store.release_files(cid)
        files = {file.cid: file.size for file in named if file.cid not in withheld}
        whole = await self._store.has_many(files.keys())
        growing: dict[CID, list[tuple[int, int]]] = {}
        for file in self._store.unfinished() & files.keys():
            held = await self._store.held(file)
            if held is not None:
                growing[file] = list(held.have)

        def write() -> bytes:
            have = {file: [(0, files[file])] for file in whole} | growing
            listed = {str(file): have[file] for file in list(have)[:MAX_HAVE_FILES]}
            return json.dumps({"complete": False, "files": listed}).encode()

        return await trio.to_thread.run_sync(write)

    async def _manifest(self, cid: CID) -> Response:
        if self._gate is not None:
            await self._gate.check_statement(cid)
        known = await self._store.statement(cid)
        if known is None:
            raise NotFound(f"This node does not hold the manifest {cid}.")
        return Response(200, {"content-type": "application/json"}, known.payload)

    async def _publisher(self, id: str, file: str) -> Response:
        data = await self._store.publishers.file(id, file)
        if data is None:
            raise NotFound(f"This node does not hold {file[:80]!r} of the publisher {id[:80]!r}.")
        return _json_of(data)

    async def _bundles(self, cid: CID) -> Response:
        if self._gate is not None:
            await self._gate.check_statement(cid)
        known = await self._store.statement(cid)
        if known is None:
            raise NotFound(f"This node does not hold the manifest {cid}.")
        lines = b"".join(bundle + b"\n" for bundle in known.bundles)
        return Response(200, {"content-type": "application/x-ndjson"}, lines)


def _json(value: object) -> Response:
    return _json_of(json.dumps(value).encode())


def _json_of(body: bytes) -> Response:
    return Response(200, {"content-type": "application/json"}, body)
