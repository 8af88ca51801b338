"""The verbs for trio: the same names, arguments, results and errors as in ``allod``, async.

    async with allod.trio.open_file("alice/data", "x.csv") as f:
        head = await f.read(1000)

Cancelling a verb ends the work in the node, too; what came is kept, and the same goes on there.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from io import SEEK_CUR, SEEK_END, SEEK_SET
from os import PathLike
from typing import TYPE_CHECKING, Unpack

import trio

from allod import wire
from allod.asked import (
    Publishing,
    fetch_params,
    publish_params,
    release_params,
    statement_params,
)
from allod.door import Door, find_again, find_door
from allod.errors import of_node
from allod.reading import BLOCK
from allod.releases import File, Json, Published, Release, Watch, read_published, read_release
from allod.showing import listening, warn
from node.messages import (
    MAX_LINE,
    Event,
    Failure,
    FilesParams,
    Note,
    Progress,
    Result,
    decode,
    to_json,
)
from p2p.errors import AllodError

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncFile", "fetch", "files", "open_file", "publish", "release"]

_SILENCE = 60.0  # seconds; the node sends a blank line every ten while it works


async def fetch(
    ref: str | Release,
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    tensors: Iterable[str] = (),
    revision: str | None = None,
    local_dir: str | PathLike[str] | None = None,
    hf_cache: str | PathLike[str] | bool | None = None,
    peers: Iterable[str] = (),
    progress: Watch | bool | None = None,
    yes: bool = False,
    pin: bool = True,
    offline: bool = False,
) -> Release:
    """Bring a release, or a part of it, to this disk; see ``allod.fetch``."""
    params = fetch_params(
        ref, include, exclude, tensors, revision, local_dir, peers, yes=yes, pin=pin,
        offline=offline, hf_cache=hf_cache,
    )  # fmt: skip
    got = await _perform("fetch", params, progress)
    shown = await _perform("files", FilesParams(got["ref"]))
    return read_release(shown, params.ref, params.peers, got)


async def publish(
    folder: str | PathLike[str],
    name: str,
    *,
    progress: Watch | bool | None = None,
    **options: Unpack[Publishing],
) -> Published:
    """Publish a folder, or a single file; see ``allod.publish``."""
    params = publish_params(folder, name, options)
    return read_published(await _perform("publish", params, progress))


async def release(
    ref: str | Release,
    *,
    revision: str | None = None,
    peers: Iterable[str] = (),
    yes: bool = False,
) -> Release:
    """Look a release up and verify what its publisher signed; see ``allod.release``."""
    if isinstance(ref, Release) and not revision:
        return ref
    wanted = release_params(ref, revision, peers)
    if yes:
        await _perform("fetch", statement_params(wanted))
    shown = await _perform("files", wanted)
    warn(shown.get("warnings", ()))
    return read_release(shown, wanted.ref, wanted.peers)


async def files(
    ref: str | Release,
    *,
    revision: str | None = None,
    peers: Iterable[str] = (),
    yes: bool = False,
) -> tuple[File, ...]:
    """List the files of a release; see ``allod.files``."""
    return (await release(ref, revision=revision, peers=peers, yes=yes)).files


@asynccontextmanager
async def open_file(
    ref: str | Release,
    path: str,
    *,
    block: int = BLOCK,
    revision: str | None = None,
    peers: Iterable[str] = (),
    yes: bool = False,
) -> "AsyncIterator[AsyncFile]":
    """Open one file of a release for the block; see ``allod.open_file``."""
    opened = await release(ref, revision=revision, peers=peers, yes=yes)
    file = opened.file(path)
    async with _client(wire.SILENCE) as http:
        yield AsyncFile(opened.ref, file, http, max(block, 1))


class AsyncFile:
    """A file of a release, read in binary; one task uses it at a time. Made by ``open_file``."""

    def __init__(self, ref: str, file: File, http: "httpx.AsyncClient", block: int) -> None:
        self.file = file
        self._ref = ref
        self._http = http
        self._block = block
        self._at = 0
        self._begin, self._kept = 0, b""  # where the kept block begins, and its bytes
        self._door: Door | None = None

    @property
    def size(self) -> int:
        """Return how many bytes the file has."""
        return self.file.size

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to a position, which may lie behind the end."""
        origin = {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self.size}
        if whence not in origin:
            raise ValueError(f"whence is 0, 1 or 2, but {whence} came")
        if origin[whence] + offset < 0:
            raise ValueError(f"a position is not negative, but {origin[whence] + offset} came")
        self._at = origin[whence] + offset
        return self._at

    async def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, or all that are left; fewer at the end of the file."""
        start = self._at
        stop = self.size if size < 0 else min(start + size, self.size)
        found = []
        while start < stop:
            if self._begin <= start < self._begin + len(self._kept):
                piece = self._kept[start - self._begin : stop - self._begin]
            elif stop - start >= self._block:
                piece = await self.read_range(start, stop)
            else:
                self._begin, self._kept = start, b""
                self._kept = await self.read_range(start, start + self._block - start % self._block)
                continue
            found.append(piece)
            start += len(piece)
        self._at = max(self._at, start)
        return b"".join(found)

    async def read_range(self, start: int, stop: int) -> bytes:
        """Return the bytes ``start <= i < stop``, wherever the position is, and leave that."""
        import httpx

        data, stop, tries = bytearray(), min(stop, self.size), 2
        while start + len(data) < stop:
            door = self._door = self._door or await _find_door()
            before = len(data)
            try:
                await self._ask(door, start + before, stop, data)
            except httpx.TransportError as exc:
                tries = (2 if len(data) > before else tries) - 1
                if not tries:
                    raise wire.went_away() from exc
                self._door = await _find_again(door, exc)
        return bytes(data)

    async def _ask(self, door: Door, start: int, stop: int, data: bytearray) -> None:
        asked = {"ref": self._ref, "path": self.file.path}
        headers = door.headers | wire.range_header(start, stop)
        limit = len(data) + stop - start
        url = door.url + wire.READ
        async with self._http.stream("GET", url, params=asked, headers=headers) as got:
            if not wire.is_range(got.status_code, got.headers, start, stop, self.size):
                raise wire.refusal(got.status_code, await _body(got))
            async for piece in got.aiter_raw():
                if len(data) + len(piece) > limit:
                    raise wire.stranger()
                data += piece


async def _perform(name: str, params: object, progress: Watch | bool | None = None) -> Json:
    """Have the node do one operation; cancelling it cancels that."""
    import httpx

    door = await _find_door()
    with listening(progress) as listen:
        try:
            try:
                return await _ask(door, name, params, listen)
            except httpx.TransportError as exc:  # it ended since it was found, or just
                other = await _find_again(door, exc)
                if other == door:
                    raise
                return await _ask(other, name, params, listen)
        except httpx.TransportError as exc:
            raise wire.went_away() from exc
        except AllodError as exc:
            raise of_node(exc) from exc


async def _ask(door: Door, name: str, params: object, listen: Callable[[Event], None]) -> Json:
    async with (
        _client(_SILENCE) as http,
        http.stream(
            "POST", f"{door.url}/control/v1/{name}", json=to_json(params), headers=door.headers
        ) as got,
    ):
        if got.status_code != 200:
            raise wire.refusal(got.status_code, await _body(got))
        if got.headers.get("content-type") != "application/x-ndjson":
            raise wire.stranger()
        ends: list[Result | Failure] = []
        async with aclosing(_lines(got)) as lines:
            async for line in lines:  # to its end: httpx leaves no stream in the middle well
                message = decode(line)
                if isinstance(message, Progress | Note):
                    listen(message)
                elif message is not None:
                    ends.append(message)
    for end in ends:
        if isinstance(end, Failure):
            raise end.error()
        return end.value
    raise wire.went_away()


async def _lines(got: "httpx.Response") -> AsyncGenerator[bytes, None]:
    rest = bytearray()
    async for piece in got.aiter_raw():
        rest += piece
        if b"\n" in piece:
            *whole, last = bytes(rest).split(b"\n")
            for line in whole:
                yield line
            rest = bytearray(last)
        elif len(rest) > MAX_LINE:
            raise wire.stranger()


async def _body(got: "httpx.Response") -> bytes:
    body = b""
    async for piece in got.aiter_raw():
        body += piece
        if len(body) > wire.MAX_ERROR:
            break
    return body


async def _find_door() -> Door:
    # In a thread, since a node may have to start; if that is cancelled, it just starts.
    return await trio.to_thread.run_sync(find_door, abandon_on_cancel=True)  # type: ignore[call-arg]


async def _find_again(lost: Door, exc: "httpx.TransportError") -> Door:
    import httpx

    find = partial(find_again, lost, refused=isinstance(exc, httpx.ConnectError))
    return await trio.to_thread.run_sync(find, abandon_on_cancel=True)  # type: ignore[call-arg]


def _client(silence: float) -> "httpx.AsyncClient":
    import httpx

    return httpx.AsyncClient(
        timeout=httpx.Timeout(silence, connect=wire.CONNECT_TIMEOUT),
        limits=httpx.Limits(keepalive_expiry=wire.KEPT),
        trust_env=False,  # no proxy stands before loopback
        verify=False,  # plain HTTP: spares reading the certificates
    )
