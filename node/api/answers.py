"""What a node that shares models answers to peers, in the place of theirs.

    GET  /allod/v1/serving/{manifest}            how busy a shared model is
    POST /allod/v1/answer/{manifest}/{endpoint}  an answer of its engine, with digest and receipt
    GET  /allod/v1/receipt/{id}                  the signed receipt of an answer

Only on libp2p streams, where the asker has proved who it is, only for models that the owner shares
(``allod serve --share``), only to peers whom he names (``serve.peers``), and only what the policy
lets out. A request goes through the same checks as one at this node's own door, and a moderator
hears what it hears there. It is answered by an engine of this node or not at all: no request is
passed on.

An answer's model is called by the manifest's CID, on both ways: nobody learns what the other's
owner calls a publisher. A stream in which nothing comes shows every ``BEAT`` seconds that it lives.
Nothing that a peer asks, or is told, is logged.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

from node.api.openai.desk import Desk
from node.api.openai.fields import parse_object
from node.api.openai.forms import JSON
from node.api.openai.relay import in_thread
from node.api.openai.requests import Asked, read_chat, read_completion, read_embeddings
from node.api.reply import Reply
from node.inference import Local, Served
from p2p.cid import CID
from p2p.errors import NotFound, PeerRefused
from p2p.http import MAX_BODY, LiveBody, Request, Response, Start
from p2p.serving import PLACES, Serving

AGAIN: Final = 2.0
"""Seconds after which a peer may ask again that has taken all of its places."""
ALL: Final = "all"
"""In ``serve.peers``: everybody."""

READERS: Final[Mapping[str, Callable[[dict[str, Any]], Asked]]] = {
    "chat/completions": read_chat,
    "completions": read_completion,
    "embeddings": read_embeddings,
}
"""The endpoints of engines; all other doors are made of these."""


class Gate(Protocol):
    """The owner's policy, as ``node.gate.Gate``."""

    async def check(self, cid: CID) -> None:
        """Raise ``Refused``, with the reason, for what is not given to others."""


class Answers:
    """See the module; ``takes`` is the rule of bodies that goes with it (p2p/host.py)."""

    def __init__(self, local: Local, desk: Desk, gate: Gate, peers: Collection[str]) -> None:
        """``desk``: its accounts, receipts and moderator. ``peers``: as ``serve.peers`` names."""
        self._local = local
        self._desk = desk
        self._gate = gate
        self._peers = frozenset(peers)
        self._places: Counter[str] = Counter()

    def takes(self, request: Request) -> int:
        """Return how many bytes a POST may bring; raises what it is answered if it may not."""
        match request.path.split("/"):
            case ["", "allod", "v1", "answer", manifest, *endpoint]:
                self._find(request, manifest, "/".join(endpoint))
                self._check_place(request.peer)
                return MAX_BODY
        return 0

    async def __call__(self, request: Request) -> Response:
        """Answer one request; the errors that it raises say their own HTTP status."""
        match request.path.split("/"):
            case ["", "allod", "v1", "serving", manifest]:
                return await self._serving(request, manifest)
            case ["", "allod", "v1", "receipt", id]:
                return self._receipt(id)
            case ["", "allod", "v1", "answer", manifest, *endpoint] if request.method == "POST":
                return await self._answer(request, manifest, "/".join(endpoint))
        raise NotFound(f"There is nothing at {request.path} on this node.")

    # --- who may ask what ------------------------------------------------------------------------

    def _allowed(self, peer: str) -> bool:
        return ALL in self._peers or peer in self._peers

    def _shared(self, manifest: str) -> Served:
        cid = CID.parse(manifest)
        for model in self._local.served():
            if model.manifest == cid and model.shared and model.state != "remote":
                return model
        raise NotFound(f"This node shares no model {cid}.")

    def _find(self, request: Request, manifest: str, endpoint: str) -> Served:
        """Return the model that a peer may ask; NotFound, or PeerRefused(403)."""
        model = self._shared(manifest)
        if not self._allowed(request.peer):
            raise PeerRefused(
                "This node does not answer for models to you.", status=403, peer=request.peer
            )
        if endpoint not in READERS:
            raise NotFound(f"Engines have no {endpoint[:40]!r}; they have {', '.join(READERS)}.")
        return model

    def _check_place(self, peer: str) -> None:
        if self._places[peer] >= PLACES:
            raise PeerRefused(
                f"A peer asks at most {PLACES} things at the same time.",
                status=429,
                retry_after=AGAIN,
                peer=peer,
            )

    @contextmanager
    def _place(self, peer: str) -> Iterator[None]:
        self._check_place(peer)
        self._places[peer] += 1
        try:
            yield
        finally:
            self._places[peer] -= 1
            if not self._places[peer]:
                del self._places[peer]

    # --- the answers -----------------------------------------------------------------------------

    async def _serving(self, request: Request, manifest: str) -> Response:
        model = self._shared(manifest)
        if not self._allowed(request.peer):
            raise NotFound(f"This node shares no model {model.manifest} with you.")
        await self._gate.check(model.manifest)
        load = self._local.load(model.name)
        serving = Serving(
            slots=max(1, load.slots),
            busy=load.busy,
            waiting=load.waiting,
            context=model.context,
            capabilities=frozenset(model.capabilities),
            state=model.state,
        )
        return Response(200, {"content-type": JSON}, serving.encode())

    def _receipt(self, id: str) -> Response:
        found = self._desk.receipts.get(id)
        if found is None:
            raise NotFound("There is no finished receipt by that id.")
        return Response(200, {"content-type": JSON}, found)

    async def _answer(self, request: Request, manifest: str, endpoint: str) -> Response:
        find = partial(self._find, request, manifest, endpoint)
        model = find()
        await self._gate.check(model.manifest)
        body = request.body
        asked = await in_thread(len(body), lambda: READERS[endpoint](parse_object(body)))
        reply = Reply(self._local, self._desk, find, asked, request)
        return Response(200, {}, LiveBody(partial(self._run, reply)))

    async def _run(self, reply: Reply, start: Start) -> None:
        with self._place(reply.peer):
            await reply.run(start)
