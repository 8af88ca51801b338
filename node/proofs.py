"""The proofs of a release as files, for tools that know nothing of Allod.

statement.json             the manifest: an in-toto statement, byte for byte as it was signed
publisher.sigstore.json    the publisher's signature over it, which sigstore's tools verify
model.sig, publisher.pem   with which OpenSSF's model_signing verifies the folder of files
"""

from pathlib import Path
from typing import Any, Final

import trio

from node.model_sig import save_signature
from node.store import Store, durable
from p2p.cid import CID
from p2p.errors import NotFound, UsageError, VerificationFailed
from p2p.manifest import parse_manifest
from p2p.naming import authenticate

STATEMENT_FILE: Final = "statement.json"
BUNDLE_FILE: Final = "publisher.sigstore.json"

Json = dict[str, Any]


async def save_proofs(cid: CID, store: Store, folder: Path) -> Json:
    """Write the files, replacing those of an earlier time; say which, and the command to use.

    ``missing`` says why there is no model.sig. VerificationFailed where the publisher's signature
    is not there.
    """
    if not folder.is_absolute():
        raise UsageError(f"A folder for the proofs needs a whole path, {folder} is none.")
    statement = await store.statement(cid)
    if statement is None:
        raise NotFound(f"This store does not hold the statement {cid}.")
    manifest = await trio.to_thread.run_sync(parse_manifest, statement.payload)
    metadata = await store.publishers.get(manifest.publisher)
    if metadata is None:
        raise VerificationFailed(
            f"Nothing is known here of the keys of {manifest.publisher}, so no signature is sound.",
            next="`allod fetch` of the release gets them.",
        )
    good = await trio.to_thread.run_sync(
        authenticate, statement.payload, statement.bundles, metadata
    )

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        durable.replace_file(folder / STATEMENT_FILE, statement.payload, folder)
        durable.replace_file(folder / BUNDLE_FILE, good[0], folder)

    await durable.on_disk("write the proofs", write)
    saved: Json = {
        "folder": str(folder),
        "files": [STATEMENT_FILE, BUNDLE_FILE],
        "command": "",
        "missing": "",
    }
    try:
        known = await store.manifest(cid)
        whole = await trio.to_thread.run_sync(
            parse_manifest, statement.payload, None if known is None else known[2]
        )
        signature = await save_signature(cid, store, folder, await store.view(whole))
    except NotFound as exc:
        return saved | {"missing": exc.message}
    files = [*saved["files"], signature.signature.name, signature.authority.name]
    return saved | {"files": files, "command": signature.command}
