"""HEAD and GET of a file, as the Hub answers them: its ETag is what the client calls it by.

A client waits ten seconds for the head. So a small file whose name nobody knows yet is brought here
first, and what does not come in time goes by its CID until it is here.
"""

from contextlib import aclosing
from typing import Final
from urllib.parse import quote

import trio
from starlette.requests import Request
from starlette.responses import Response

from node.api.hub.problems import missing, problem, warnings
from node.api.streamed import streamed
from node.hub.origin import commit_of
from node.hub.resolving import Missing
from node.hub.sums import Sum, Sums
from node.reading import OpenRelease
from p2p.errors import AllodError, NoSources, NotFound
from p2p.manifest import FileEntry

HEAD_WITHIN: Final = 7.0
"""Seconds in which a small file must come, for its true name to be in the answer."""
SMALL: Final = 1 << 20
"""Bytes of a file that is brought here before its head is answered."""


async def answer_file(request: Request, opened: OpenRelease, path: str, sums: Sums) -> Response:
    """Answer for a file of an open release."""
    commit = commit_of(opened.manifest)
    try:
        entry = opened.entry(path)
    except NotFound as exc:
        return missing(Missing("EntryNotFound", exc.message), commit)
    try:
        await opened.check(entry)
        one = await _sum(opened, entry, sums)
        headers = _headers(entry, one, commit)
        if _is_same(request.headers.get("if-none-match", ""), one.etag):
            answer: Response = Response(status_code=304, headers=headers)
        elif request.method == "HEAD":
            headers["content-length"] = str(entry.size)
            answer = Response(None, 200, headers)
        else:
            answer = await streamed(opened, entry, request.headers.get("range"), headers)
    except AllodError as exc:
        if isinstance(exc, NotFound):  # nobody has it now; the repository has
            exc = NoSources(exc.message, next=exc.next)
        answer = problem(exc, entry.size)
        answer.headers["x-repo-commit"] = commit
    for name, value in warnings(opened.warnings):
        answer.headers.append(name, value)
    return answer


async def _sum(opened: OpenRelease, entry: FileEntry, sums: Sums) -> Sum:
    """Return a file's name at the Hub, for which a small one is brought here."""
    one = (await sums.of(opened, [entry]))[entry.path]
    if one.known or entry.size > SMALL:
        return one
    with trio.move_on_after(HEAD_WITHIN):
        async with aclosing(opened.read(entry, 0, entry.size)) as pieces:
            async for _ in pieces:
                pass
        return (await sums.of(opened, [entry]))[entry.path]
    return one


def _is_same(if_none_match: str, etag: str) -> bool:
    """Say whether the client has a file of this name already (RFC 9110 13.1.2)."""
    have = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
    return etag in have or if_none_match.strip() == "*"


def _headers(entry: FileEntry, one: Sum, commit: str) -> dict[str, str]:
    name = quote(entry.path.rpartition("/")[2])
    headers = {
        "etag": one.etag,
        "x-repo-commit": commit,
        "accept-ranges": "bytes",
        "content-type": "application/octet-stream",
        "content-disposition": f"inline; filename*=UTF-8''{name}",
        "cache-control": "no-store",
    }
    if one.large:
        headers |= {"x-linked-etag": one.etag, "x-linked-size": str(entry.size)}
    return headers
