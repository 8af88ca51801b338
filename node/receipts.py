"""The receipts of this node: its word on what it answered, for whoever asks for it.

Who answers a request begins a draft, feeds it the answer's bytes as they go out, and finishes it.
The draft's id is known from the start, so that it can be sent before the answer.
What is hashed is what the client sent, and what it got: the bodies' bytes, and nothing is kept of
them. The signature is made when somebody asks for the receipt; most are never asked for.

Receipts are in memory only, the newest ``MAX_RECEIPTS`` for ``KEEP`` seconds: who wants one for
longer fetches it, it is proof by itself (p2p/receipt.py).
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from node.inference import Served
from node.messages import ReceiptParams
from node.store import durable
from p2p.errors import NotFound, VerificationFailed
from p2p.keys import SecretKey
from p2p.receipt import MAX_RECEIPT, Body, Exchange, read_receipt, sign_receipt

MAX_RECEIPTS: Final = 1000
"""Receipts that are kept: about 1 KB each."""
KEEP: Final = 3600.0
"""Seconds that a receipt is kept."""

_PIECE: Final = 1 << 20  # bytes of a file that are hashed at once

Json = dict[str, Any]


class Draft:
    """A receipt in the making; nobody but its maker touches it."""

    def __init__(self, receipts: "Receipts", model: Served, endpoint: str, request: bytes) -> None:
        self.id: Final = secrets.token_urlsafe(16)
        self._receipts = receipts
        self._model = model
        self._endpoint = endpoint
        self._request = Body(hashlib.sha256(request).hexdigest(), len(request))
        self._hash = hashlib.sha256()
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Count the next bytes of the answer."""
        self._hash.update(data)
        self._size += len(data)

    def finish(self, status: int, served_by: str) -> None:
        """Have the receipt kept: all of the answer went by, whose engine gave it is known."""
        now = self._receipts.now()
        exchange = Exchange(
            model=self._model.manifest,
            publisher=self._model.publisher,
            endpoint=self._endpoint,
            request=self._request,
            response=Body(self._hash.hexdigest(), self._size),
            status=status,
            at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
            served_by=served_by,
        )
        self._receipts.keep(self.id, exchange, now)


class Receipts:
    """The receipts that can be asked for; ``key`` is the node's, ``clock`` gives Unix time."""

    def __init__(self, key: SecretKey, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self.now = clock
        self._kept: OrderedDict[str, tuple[float, Exchange]] = OrderedDict()  # the oldest first

    def begin(self, model: Served, endpoint: str, request: bytes) -> Draft:
        """Begin a receipt for a request to a model; ``endpoint`` such as chat/completions."""
        return Draft(self, model, endpoint, request)

    def get(self, id: str) -> bytes | None:
        """Return a receipt, signed; None where there is none, or none yet, or none any more."""
        self._tidy(self.now())
        kept = self._kept.get(id)
        return None if kept is None else sign_receipt(kept[1], self._key)

    def keep(self, id: str, exchange: Exchange, now: float) -> None:
        """Keep what a draft came to."""
        self._kept[id] = (now, exchange)
        self._tidy(now)

    def _tidy(self, now: float) -> None:
        """Forget what is too old, and the oldest of too many."""
        while self._kept:
            at, _ = next(iter(self._kept.values()))
            if len(self._kept) <= MAX_RECEIPTS and abs(now - at) < KEEP:
                break
            self._kept.popitem(last=False)


async def check_file(params: ReceiptParams) -> Json:
    """Check a receipt in a file, and whether it is for the request and the response in others.

    ``VerificationFailed`` says what is wrong, ``NotFound`` which file is missing.
    """

    def check() -> Json:
        try:
            receipt = read_receipt(_read(Path(params.file)))
        except VerificationFailed as exc:
            raise VerificationFailed(
                f"{params.file} is no receipt that can be believed: {exc.message}",
                next="It is what /v1/receipts/{id} answered, byte for byte.",
            ) from exc
        said, checked = receipt.exchange, ["signature"]
        for what, file, body in (
            ("request", params.request, said.request),
            ("response", params.response, said.response),
        ):
            if not file:
                continue
            found = _hash(Path(file))
            if found != body:
                raise VerificationFailed(
                    f"The receipt is for a {what} of {body.size} bytes with the SHA-256 "
                    f"{body.sha256}, but {file} has {found.size} bytes and {found.sha256}."
                )
            checked.append(what)
        return {
            "ok": True,
            "checked": checked,
            "model": str(said.model),
            "publisher": said.publisher,
            "endpoint": said.endpoint,
            "status": said.status,
            "time": said.at,
            "servedBy": receipt.served_by,
            "signedBy": receipt.signed_by,
            "did": receipt.key.did,
        }

    return await trio.to_thread.run_sync(check)


def _read(path: Path) -> bytes:
    with durable.disk_errors("read the receipt"):
        try:
            with path.open("rb") as file:
                return file.read(MAX_RECEIPT + 1)
        except FileNotFoundError as exc:
            raise NotFound(f"There is no file {path}.") from exc


def _hash(path: Path) -> Body:
    digest, size = hashlib.sha256(), 0
    with durable.disk_errors("read the file"):
        try:
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
                    size += len(piece)
        except FileNotFoundError as exc:
            raise NotFound(f"There is no file {path}.") from exc
    return Body(digest.hexdigest(), size)
