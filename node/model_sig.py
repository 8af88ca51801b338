"""The ``model.sig`` of a release: made after it was published, and written out for other tools.

It takes the SHA-256 of every file, which takes longer than publishing itself; so it is made when
the release is published and announced already, in the background of a node that runs, else before
the command ends. What was not finished is marked in the store, and the next node that runs here
goes on with it.
It travels with the other signatures, so whoever fetches the release can write it out.
"""

import logging
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from node.keyring import Keyring
from node.messages import Event, Note, Progress, Report
from node.store import Store, durable
from p2p.bundles import find_model_signature
from p2p.cid import CID
from p2p.errors import AllodError, NotFound, UsageError
from p2p.keys import SecretKey
from p2p.manifest import Manifest, parse_manifest
from p2p.naming import signing_keys

log = logging.getLogger(__name__)

SIGNATURE_FILE: Final = "model.sig"
AUTHORITY_FILE: Final = "publisher.pem"
FIRST: Final = 5.0
"""Seconds until what an earlier run has left is gone on with: a node that runs for one command has
better things to do."""


async def sign_model(cid: CID, key: SecretKey, store: Store, report: Report) -> bool:
    """Make the ``model.sig`` of a release that is here, and keep it with its signatures.

    False where there is none to be had: a file is not here any more, or there are too many.
    """
    from p2p.bridge import write_model_signature

    manifest = await _manifest(cid, store)
    if manifest is None:
        return False
    contents = {entry.cid: entry.size for entry in manifest.files}
    total, done = sum(contents.values()), 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        report(Progress("sha256", done=done, total=total))

    try:
        with store.using(cid):
            sums = await store.sha256(contents.keys(), count)
        if len(sums) < len(contents):
            report(Note("It gets no model.sig: not all of its files are here.", "warning"))
            return False
        bundle = await trio.to_thread.run_sync(write_model_signature, manifest, sums, key)
    except UsageError as exc:
        report(Note(f"It gets no model.sig: {exc.message}", "warning"))
        return False
    await store.add_bundles(cid, [bundle], await store.publishers.keys(manifest.publisher))
    return True


async def _manifest(cid: CID, store: Store) -> Manifest | None:
    """Read the manifest of a release with all its entries; None if they are not here."""
    known = await store.manifest(cid)
    if known is None:
        return None
    payload, _, listing = known
    manifest = await trio.to_thread.run_sync(parse_manifest, payload, listing)
    return manifest if manifest.files else None


class ModelSigner:
    """Makes what is wanted in the background of a node, one release after the other."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._asked: trio.MemorySendChannel[CID] | None = None

    def ask(self, cid: CID) -> bool:
        """Have the marked release signed soon; False where nothing runs in the background."""
        if self._asked is None:
            return False
        self._asked.send_nowait(cid)
        return True

    async def run(self) -> None:
        """Sign what is asked for, and what an earlier run has left, until cancelled."""
        self._asked, inbox = trio.open_memory_channel[CID](math.inf)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_back)
                async for cid in inbox:
                    await self._sign(cid)
        finally:
            self._asked = None

    async def _look_back(self) -> None:
        await trio.sleep(FIRST)
        for cid in await self._store.model_signatures_wanted():
            self.ask(cid)

    async def _sign(self, cid: CID) -> None:
        try:
            release = await self._store.release(cid)
            if release is not None and release.petname in self._keyring.names():
                key = await trio.to_thread.run_sync(self._keyring.publisher, release.petname)
                made = await sign_model(cid, key, self._store, _log)
                await self._store.want_model_signature(cid, False)
                if made:
                    log.info("%s has its model.sig", cid)
        except AllodError as exc:  # one release that cannot be read: the others still can
            log.warning("%s gets no model.sig now: %s", cid, exc)


def _log(event: Event) -> None:
    if isinstance(event, Note):
        log.warning("%s", event.text)


@dataclass(frozen=True, slots=True)
class Saved:
    """Where the two files lie, and the command that checks a folder by them."""

    signature: Path
    authority: Path
    command: str


async def save_signature(cid: CID, store: Store, into: Path, content: Path) -> Saved:
    """Write ``model.sig`` and ``publisher.pem`` of a release into the folder ``into``.

    ``content``: the folder with the release's files, which the command names. ``NotFound`` where
    this node knows no ``model.sig`` of it, ``VerificationFailed`` for one that is not about these
    files.
    """
    from p2p.bridge import ModelSignature, check_model_signature

    manifest = await _manifest(cid, store)
    statement = await store.statement(cid)
    if manifest is None or statement is None:
        raise NotFound(
            f"This store does not hold the list of files of {cid}.",
            next="Fetch the release first.",
        )
    metadata = await store.publishers.get(manifest.publisher)

    def find() -> ModelSignature | None:
        """Prefer one by a key that still holds: a replaced one may be in a thief's hands."""
        roots = signing_keys(manifest.publisher, metadata.roots) if metadata is not None else []
        found = (find_model_signature(cid, statement.bundles, keys) for keys, _ in reversed(roots))
        return next(filter(None, found), None)

    signature = await trio.to_thread.run_sync(find)
    if signature is None:
        raise NotFound(
            f"No model.sig of {manifest.name} {manifest.version} is known here.",
            next="It is made some time after publishing; ask the publisher, or fetch again later.",
        )
    check_model_signature(signature, manifest)
    saved = Saved(into / SIGNATURE_FILE, into / AUTHORITY_FILE, verify_command(into, content))

    def write() -> None:
        into.mkdir(parents=True, exist_ok=True)
        durable.replace_file(saved.signature, signature.bundle, into)
        durable.replace_file(saved.authority, signature.authority.encode(), into)

    await durable.on_disk("write a model.sig", write)
    return saved


def verify_command(saved: Path, content: Path) -> str:
    """Return the command that checks a folder by what was saved, for a shell.

    The tool passes over files that belong to git unless it is told not to.
    """
    words: Iterable[str | Path] = (
        "model_signing", "verify", "certificate", content,
        "--signature", saved / SIGNATURE_FILE,
        "--certificate_chain", saved / AUTHORITY_FILE,
        "--no-ignore-git-paths",
    )  # fmt: skip
    return shlex.join(map(str, words))
