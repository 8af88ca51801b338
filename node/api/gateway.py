"""What this node holds, as an IPFS trustless gateway: blocks, verifiable CARs, byte ranges.

    GET /ipfs/{cid}[/{path}]                 the file's bytes; Range is honoured
    GET /ipfs/{cid}[/{path}]?format=raw      one block
    GET /ipfs/{cid}[/{path}]?format=car      a CARv1 of the blocks from the CID down
        &dag-scope=block|entity|all          only the block, the file or directory, all below it
        &entity-bytes=FROM:TO                only the leaves that hold these bytes of the file

The format may also be asked for by an Accept header.
Answers carry what the specification of path gateways asks for: the CIDs on the way in
``X-Ipfs-Roots``, an ETag for each format, which ``If-None-Match`` may name, and for blocks and CARs
a Content-Disposition that keeps browsers from showing them. Nothing is ever fetched for an asker,
so ``Cache-Control: only-if-cached`` changes nothing but the status of a miss, 412.
Whoever reads must verify; so a file that is still being fetched is served as far as it is there,
and a block that is not held is a plain 404, never a search of the network.

Knows the store and nothing of peers or sockets: a request in, a response out.
Specification: specs.ipfs.tech/http-gateways/trustless-gateway and /path-gateway.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import trio

from node.gate import Gate
from node.store import Held, Store
from p2p.car import car_block, car_header
from p2p.cid import CID, Codec
from p2p.dagpb import DirectoryNode, FileNode, ShardNode, decode
from p2p.errors import NotFound, PeerRefused, UsageError
from p2p.http import FileBody, Request, Response, content_range, parse_range
from p2p.murmur import murmur3_x64_64

RAW_TYPE: Final = "application/vnd.ipld.raw"
CAR_TYPE: Final = "application/vnd.ipld.car"
SCOPES: Final = ("block", "entity", "all")
MAX_PATH: Final = 64  # segments; a release's paths are bounded to fewer

PROBE: Final = "bafkqaaa"
"""An empty block, spelled out in its own CID: readers ask for it to see whether this is a gateway.
No other CID of its kind is known here."""
PROBE_CAR: Final = bytes.fromhex("19a265726f6f747381d82a45000155000067" + b"version".hex() + "01")

# Content never changes under its address.
_FOREVER: Final = "public, max-age=29030400, immutable"


@dataclass(frozen=True, slots=True)
class _Span:
    """The bytes of a file that a CAR is to show: ``start <= i < stop``; None: to the end."""

    start: int
    stop: int | None


class Gateway:
    """Answers ``/ipfs/`` requests from a store, as far as the gate lets it."""

    def __init__(self, store: Store, gate: Gate | None = None) -> None:
        self._store = store
        self._gate = gate

    async def __call__(self, request: Request) -> Response:
        """Answer one request; NotFound, UsageError and PeerRefused(412, 416) become its status."""
        try:
            response = await self._answer(request)
        except NotFound as exc:
            if "only-if-cached" in request.headers.get("cache-control", ""):
                raise PeerRefused(exc.message, status=412) from exc
            raise
        if _matches(request.headers.get("if-none-match", ""), response.headers["etag"]):
            kept = {"etag", "cache-control", "vary", "x-ipfs-path", "x-ipfs-roots"}
            headers = {name: value for name, value in response.headers.items() if name in kept}
            return Response(304, headers)
        return response

    async def _answer(self, request: Request) -> Response:
        first, *path = [part for part in request.path.split("/")[2:] if part] or [""]
        if first == PROBE and not path:
            return _probe(self._format(request))
        cid = CID.parse(first)
        if len(path) > MAX_PATH:
            raise UsageError(f"A path has at most {MAX_PATH} segments, this one has {len(path)}.")
        root = cid
        cid, walked, roots = await self._resolve(cid, path)
        if self._gate is not None:
            if path:
                await self._gate.check(root, "/".join(path))
            await self._gate.check(cid)
        where = {
            "x-ipfs-path": quote(request.path),
            "x-ipfs-roots": ",".join(str(one) for one in roots),
        }
        kind = self._format(request)
        if kind == "raw":
            headers = _headers(str(cid), RAW_TYPE, "raw") | where
            return Response(200, headers, await self._block(cid))
        if kind == "car":
            return await self._car(request, cid, walked, where)
        return await self._bytes(request, cid, where)

    @staticmethod
    def _format(request: Request) -> str:
        asked = request.query.get("format")
        if asked is None:
            accept = request.headers.get("accept", "")
            asked = "raw" if RAW_TYPE in accept else "car" if CAR_TYPE in accept else ""
        if asked not in ("", "raw", "car"):
            raise UsageError(f"The format is raw or car, not {asked!r}.")
        return asked

    async def _resolve(
        self, cid: CID, path: list[str]
    ) -> tuple[CID, list[tuple[CID, bytes]], list[CID]]:
        """Follow ``path`` through directories.

        Returns the CID at its end, the blocks on the way, and the CID of each part of the way.
        """
        walked: list[tuple[CID, bytes]] = []
        roots = [cid]
        for name in path:
            roots.append(await self._entry(roots[-1], name, walked))
        return roots[-1], walked, roots

    async def _entry(self, cid: CID, name: str, walked: list[tuple[CID, bytes]]) -> CID:
        """Find a name in a directory, going down its shards by the name's hash."""
        here, places = cid, murmur3_x64_64(name.encode()).to_bytes(8, "big")
        for place in places:
            block = await self._block(here)
            walked.append((here, block))
            node = decode(block) if here.codec is Codec.DAG_PB else None
            if node is None or isinstance(node, FileNode):
                raise NotFound(f"{cid} is no directory that could hold {name!r}.")
            links = {link.name: link.cid for link in node.links}
            label = f"{place:02X}"
            wanted = name if isinstance(node, DirectoryNode) else label + name
            if wanted in links:
                return links[wanted]
            if isinstance(node, DirectoryNode) or label not in links:
                break
            here = links[label]
        raise NotFound(f"The directory {cid} holds no {name!r}.")

    async def _block(self, cid: CID) -> bytes:
        block = await self._store.block(cid)
        if block is None:
            raise NotFound(f"This node does not hold the block {cid}.")
        return block

    async def _bytes(self, request: Request, cid: CID, where: dict[str, str]) -> Response:
        """The bytes of a file, or of the one range that was asked for and is there."""
        held = await self._store.held(cid)
        if held is None:
            raise NotFound(f"This node does not hold the file {cid}.")
        size = held.outline.size
        wanted = parse_range(request.headers.get("range"), size)
        start, stop = wanted or (0, size)
        if not held.have.covers(start, stop):
            raise NotFound(f"This node does not hold bytes {start} to {stop} of {cid} yet.")
        headers = _headers(str(cid), "application/octet-stream") | where
        headers["accept-ranges"] = "bytes"
        if wanted is not None:
            headers["content-range"] = content_range(start, stop, size)
        body = FileBody(held.path, start, stop - start)
        return Response(200 if wanted is None else 206, headers, body)

    async def _car(
        self,
        request: Request,
        cid: CID,
        walked: list[tuple[CID, bytes]],
        where: dict[str, str],
    ) -> Response:
        scope = request.query.get("dag-scope", "all")
        if scope not in SCOPES:
            raise UsageError(f"The dag-scope is one of {', '.join(SCOPES)}, not {scope!r}.")
        root = walked[0][0] if walked else cid
        span = _entity_bytes(request.query.get("entity-bytes"))
        blocks = self._blocks(cid, scope, span)
        try:  # the first block decides between 200 and 404
            first = await anext(blocks)
        except StopAsyncIteration as exc:
            raise NotFound(f"This node does not hold {cid}.") from exc
        headers = _headers(str(cid), f"{CAR_TYPE}; version=1; order=dfs; dups=y", "car") | where
        told = f"{request.path} {scope} {span.start} {span.stop}"  # all that the blocks hang on
        headers["etag"] = f'W/"{cid}.car.{hashlib.sha256(told.encode()).hexdigest()[:16]}"'

        if request.method == "HEAD":
            await blocks.aclose()

        async def body() -> AsyncIterator[bytes]:
            async with aclosing(blocks):
                yield car_header(root) + b"".join(car_block(*block) for block in walked)
                yield car_block(*first)
                async for block in blocks:
                    yield car_block(*block)

        return Response(200, headers, body())

    async def _blocks(
        self, cid: CID, scope: str, span: _Span
    ) -> AsyncGenerator[tuple[CID, bytes], None]:
        """The blocks of a scope, depth first, the root before all."""
        held = await self._store.held(cid)
        if held is not None:
            outline = held.outline  # of a terabyte: half a second's work
            nodes = await trio.to_thread.run_sync(lambda: dict(outline.blocks()))
            if scope == "block":
                yield cid, nodes[cid] if cid in nodes else await self._block(cid)
                return
            for name, start, stop in _walk(cid, nodes, 0, held.outline.size, span):
                yield name, nodes[name] if name in nodes else await _leaf(held, start, stop)
            return
        block = await self._block(cid)
        yield cid, block
        if scope == "block" or cid.codec is not Codec.DAG_PB:
            return
        node = decode(block)
        if isinstance(node, FileNode):
            return  # a node of a file whose root was not named: its leaves are not looked for
        for link in node.links:
            # A shard's own shards belong to the directory, what it lists does not.
            inner = isinstance(node, ShardNode) and len(link.name) == 2
            if not inner and await self._withheld(link.cid):
                continue  # whoever reads sees that it is missing
            if inner or scope == "all":
                async with aclosing(self._blocks(link.cid, scope, _Span(0, None))) as below:
                    async for found in below:
                        yield found

    async def _withheld(self, cid: CID) -> bool:
        return self._gate is not None and await self._gate.refuses(cid) is not None


def _walk(
    cid: CID, nodes: dict[CID, bytes], start: int, stop: int, span: _Span
) -> Iterator[tuple[CID, int, int]]:
    """The blocks of a file that hold bytes of ``span``, depth first: (CID, first, last byte)."""
    yield cid, start, stop
    if cid not in nodes:
        return
    node = decode(nodes[cid])
    if not isinstance(node, FileNode):  # an Outline holds nothing else
        raise NotFound(f"{cid} is no file.")
    at = start
    for index, size in enumerate(node.sizes):
        digest = node.digests[32 * index : 32 * index + 32]
        below = CID(node.codec, node.hash, digest)
        if at + size > span.start and (span.stop is None or at < span.stop):
            yield from _walk(below, nodes, at, at + size, span)
        at += size


async def _leaf(held: Held, start: int, stop: int) -> bytes:
    if not held.have.covers(start, stop):
        raise NotFound(f"This node does not hold bytes {start} to {stop} yet.")

    def read() -> bytes:
        with held.path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    return await trio.to_thread.run_sync(read)


def _entity_bytes(text: str | None) -> _Span:
    """Read ``FROM:TO`` (TO inclusive, or * for the end); negative numbers are not offered."""
    if text is None:
        return _Span(0, None)
    first, _, last = text.partition(":")
    if not (first.isascii() and first.isdecimal() and len(first) < 16) or not (
        last == "*" or (last.isascii() and last.isdecimal() and len(last) < 16)
    ):
        raise UsageError(f"entity-bytes is FROM:TO with whole numbers, or FROM:*, not {text!r}.")
    return _Span(int(first), None if last == "*" else int(last) + 1)


def _headers(name: str, media_type: str, format: str = "") -> dict[str, str]:
    headers = {
        "content-type": media_type,
        "etag": f'"{name}.{format}"' if format else f'"{name}"',
        "cache-control": _FOREVER,
        "x-content-type-options": "nosniff",
        "vary": "accept",  # which may name the format
    }
    if format:
        suffix = "bin" if format == "raw" else format
        headers["content-disposition"] = f'attachment; filename="{name}.{suffix}"'
        headers["accept-ranges"] = "none"
    return headers


def _probe(format: str) -> Response:
    """Answer a reader that wants to know whether this is a gateway."""
    media_type = {"raw": RAW_TYPE, "car": f"{CAR_TYPE}; version=1"}.get(
        format, "application/octet-stream"
    )
    headers = _headers(PROBE, media_type, format) | {
        "x-ipfs-path": f"/ipfs/{PROBE}",
        "x-ipfs-roots": PROBE,
    }
    return Response(200, headers, PROBE_CAR if format == "car" else b"")


def _matches(asked: str, etag: str) -> bool:
    """Say whether If-None-Match names the ETag; a weak one counts as the same (RFC 9110)."""
    named = {one.strip().removeprefix("W/") for one in asked.split(",")}
    return "*" in named or etag.removeprefix("W/") in named
