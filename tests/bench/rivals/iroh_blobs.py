"""iroh-blobs over QUIC, as in the Python package iroh 0.35: published in place, no discovery.

What counts is the download into its store; putting the files where a person wants them is left out.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.bench.agent import AgentRival, Fetch, Json, run_agent

RIVALS = [AgentRival("iroh", __name__, "", ("iroh",))]


class _Heard:
    """A callback that keeps what it is told, and raises what went wrong."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self.done: Any = None

    async def progress(self, progress: Any) -> None:
        if progress.type() == self._kind.ABORT:
            raise OSError(progress.as_abort().error)
        if progress.type() == self._kind.ALL_DONE:
            self.done = progress.as_all_done()


@contextmanager
def _node(home: Path) -> Iterator[Any]:
    iroh: Any = import_module("iroh")
    loop = asyncio.new_event_loop()
    iroh.iroh_ffi.uniffi_set_event_loop(loop)
    options = iroh.NodeOptions(
        gc_interval_millis=0,
        blob_events=None,
        enable_docs=False,
        ipv4_addr="127.0.0.1:0",
        ipv6_addr=None,
        node_discovery=iroh.NodeDiscoveryConfig.NONE,
        secret_key=None,
        protocols=None,
    )
    run = loop.run_until_complete
    node = run(iroh.Iroh.persistent_with_options(str(home / "node"), options))
    yield iroh, node, run
    run(node.node().shutdown())


@contextmanager
def serve(folder: Path, home: Path, option: str) -> Iterator[Json]:
    """Add a folder, or its one file, in place."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    with _node(home) as (iroh, node, run):
        heard = _Heard(iroh.AddProgressType)
        path, wrap = folder, iroh.WrapOption.wrap(None)
        if len(files) == 1:
            path, wrap = files[0], iroh.WrapOption.no_wrap()
        begin = time.perf_counter()
        tag = iroh.SetTagOption.auto()
        run(node.blobs().add_from_path(str(path), True, tag, wrap, heard))
        seconds = time.perf_counter() - begin
        address = run(node.net().node_addr())
        yield {
            "publish": seconds,
            "hash": str(heard.done.hash),
            "many": len(files) > 1,
            "node": run(node.net().node_id()),
            "addresses": [one for one in address.direct_addresses() if one.startswith("127.")],
        }


@contextmanager
def receive(card: Json, home: Path, option: str) -> Iterator[Fetch]:
    """Download by hash from the node that is known."""
    with _node(home) as (iroh, node, run):

        def fetch() -> float:
            begin = time.perf_counter()
            heard = _Heard(iroh.DownloadProgressType)
            key = iroh.PublicKey.from_string(card["node"])
            wanted = iroh.BlobDownloadOptions(
                iroh.BlobFormat.HASH_SEQ if card["many"] else iroh.BlobFormat.RAW,
                [iroh.NodeAddr(key, None, card["addresses"])],
                iroh.SetTagOption.auto(),
            )
            run(node.blobs().download(iroh.Hash.from_string(card["hash"]), wanted, heard))
            return time.perf_counter() - begin

        yield fetch


if __name__ == "__main__":
    run_agent(serve, receive)
