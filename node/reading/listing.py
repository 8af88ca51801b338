"""What files a release has, and which of them are here."""

from typing import TYPE_CHECKING, Any

from node.messages import FilesParams
from node.reading.reader import Reader, open_reader
from p2p.references import share_link

if TYPE_CHECKING:
    from node.fetch import FetchNode


async def list_files(
    params: FilesParams, node: "FetchNode", reader: Reader | None
) -> dict[str, Any]:
    """List a release's files; nothing of them is fetched. The JSON object of ``allod files``."""
    if reader is None:
        async with open_reader(node) as own:
            return await list_files(params, node, own)
    opened = await reader.open(params.ref, peers=params.peers)
    manifest, held = opened.manifest, await opened.held()
    files = []
    for entry in manifest.files:
        shown = {
            "path": entry.path,
            "size": entry.size,
            "cid": str(entry.cid),
            "held": entry.cid in held,
        }
        if entry.sha256 is not None:
            shown["sha256"] = entry.sha256
        files.append(shown)
    return {
        "ok": True,
        "ref": share_link(manifest.publisher, manifest.name, manifest.cid, ()),
        "name": manifest.name,
        "version": manifest.version,
        "kind": manifest.kind,
        "publisher": manifest.publisher,
        "license": manifest.license.get("spdx", ""),
        "manifest": str(manifest.cid),
        "size": manifest.size,
        "files": files,
        "warnings": list(opened.warnings),
    }
