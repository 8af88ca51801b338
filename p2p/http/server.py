"""The answering side: one stream, one handler, one request after the other.

A request is GET or HEAD, or another method without a body where ``methods`` names it, such as
OPTIONS on a port for browsers.
A POST is one only where ``Bodies`` says so, by its head: it says how long its body is, and the body
comes within ``HttpLimits.body``, into room that is held for it until it
is answered. While it is, a reset of the stream cancels whatever works on the answer. The end of the
asker's side does not: some end theirs right after each request (go-libp2p), and read on.

The peer's faults (a malformed head, a body that nobody wants, silence) get an answer where one is
possible, end this stream, and are raised as PeerFault so that the caller can count them.
A bug in the handler gets a bare 500 and is raised as it is: whoever runs the stream decides.
An AllodError of the handler becomes its status with ``{"error": {"code", "message"}}``, and so does
one of ``Bodies``; what went wrong inside this node (5xx) is not told to strangers.
"""

import logging
import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from urllib.parse import parse_qsl, unquote

import h11
import trio

from p2p.errors import AllodError, PeerFault, PeerGone, PeerRefused
from p2p.http.messages import (
    CLOSING,
    DEFAULT_LIMITS,
    MAX_BODY,
    MAX_QUERY_FIELDS,
    READ_SIZE,
    Bodies,
    ByteStream,
    FileBody,
    Handler,
    HttpLimits,
    LiveBody,
    Request,
    Resets,
)
from p2p.http.outlet import Outlet, error_response, open_body

log = logging.getLogger(__name__)


class NoBodies:
    """No request has a body."""

    def limit(self, request: Request) -> int:
        """See Bodies.limit."""
        return 0

    def hold(self, request: Request, size: int) -> AbstractContextManager[None]:
        """See Bodies.hold."""
        return nullcontext()


NO_BODIES: Bodies = NoBodies()
METHODS = ("GET", "HEAD")
"""The methods that every stream takes."""


async def serve_http(
    stream: ByteStream,
    handler: Handler,
    *,
    peer: str,
    limits: HttpLimits = DEFAULT_LIMITS,
    bodies: Bodies = NO_BODIES,
    methods: Collection[str] = METHODS,
) -> None:
    """Answer requests on ``stream`` until the peer closes it or stays idle; then close it.

    Raises PeerFault (PeerGone when it vanished in the middle), or whatever bug the handler has.
    """
    try:
        await _Server(stream, handler, peer, limits, bodies, methods).run()
    except trio.BrokenResourceError as exc:
        raise PeerGone("The peer closed the stream in the middle.", peer=peer) from exc
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING):
            await stream.aclose()


class _Server:
    def __init__(
        self,
        stream: ByteStream,
        handler: Handler,
        peer: str,
        limits: HttpLimits,
        bodies: Bodies,
        methods: Collection[str],
    ) -> None:
        self._stream = stream
        self._handler = handler
        self._peer = peer
        self._limits = limits
        self._bodies = bodies
        self._methods = methods
        self._ended = False
        self._conn = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.max_head)
        self._outlet = Outlet(stream, self._conn, peer, limits)

    async def run(self) -> None:
        while True:
            with ExitStack() as held:
                request = await self._next(held)
                if request is None:
                    return
                if request.method == "POST" and isinstance(self._stream, Resets):
                    await self._answer_watched(request, self._stream)
                else:
                    await self._answer(request)
            if self._conn.our_state is not h11.DONE or self._conn.their_state is not h11.DONE:
                return
            self._conn.start_next_cycle()

    async def _next(self, held: ExitStack) -> Request | None:
        """The next request, whose body has its room in ``held``; None when there is no more."""
        try:
            head = await self._head()
            if head is None:
                return None
            request = self._request(head)
            if request.method == "POST":
                return await self._with_body(request, held)
            event = self._conn.next_event()
            if not isinstance(event, h11.EndOfMessage):  # cannot be: there is no body
                raise PeerFault("Expected the end of the request.", peer=self._peer)
            return request
        except h11.RemoteProtocolError as exc:
            if self._ended:
                raise PeerGone("The peer closed in the middle of a request.") from exc
            await self._outlet.refuse(exc.error_status_hint or 400, f"Malformed request: {exc}.")
            raise PeerFault(f"Expected an HTTP request, came: {exc}.", peer=self._peer) from exc
        except PeerRefused as exc:
            await self._outlet.refuse(exc.status, exc.message)
            raise

    async def _head(self) -> h11.Request | None:
        """Return the next head, or None when the peer closed or idled between requests."""
        limits = self._limits
        waiting = not self._conn.trailing_data[0]
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + (limits.idle if waiting else limits.head)
            while True:
                event = self._conn.next_event()
                if isinstance(event, h11.Request):
                    return event
                if isinstance(event, h11.ConnectionClosed):
                    return None
                data = await self._stream.receive_some(limits.max_head)
                if data and waiting:
                    waiting = False
                    scope.deadline = trio.current_time() + limits.head
                self._ended = not data
                self._conn.receive_data(bytes(data))
        if waiting:
            return None
        raise PeerRefused(
            f"Expected a whole request head within {limits.head:g} s.", status=408, peer=self._peer
        )

    def _request(self, head: h11.Request) -> Request:
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        method = head.method.decode("ascii")
        if method != "POST" and method not in self._methods:
            raise self._refused("Expected the method GET or HEAD.", 405)
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        if method != "POST" and has_body:
            raise self._refused("Expected a request without a body.", 413)
        path, query = split_target(head.target, self._peer)
        return Request(method, path, query, headers, self._peer)

    async def _with_body(self, request: Request, held: ExitStack) -> Request | None:
        """The request with its body, if it may have one; None when it was told that it may not."""
        try:
            limit = min(self._bodies.limit(request), MAX_BODY)
        except AllodError as exc:
            await self._decline(exc)
            return None
        if not limit:
            raise self._refused("Expected the method GET or HEAD.", 405)
        if "content-length" not in request.headers or "transfer-encoding" in request.headers:
            raise self._refused("Expected a body that says how long it is.", 411)
        size = int(request.headers["content-length"])  # h11 has checked it
        if size > limit:
            raise self._refused(f"Expected a body of at most {limit} bytes, came {size}.", 413)
        try:
            held.enter_context(self._bodies.hold(request, size))
        except AllodError as exc:
            await self._decline(exc)
            return None
        return replace(request, body=await self._body())

    async def _body(self) -> bytes:
        """Read a body; h11 counts it."""
        body = bytearray()
        with trio.move_on_after(self._limits.body):
            if self._conn.they_are_waiting_for_100_continue:
                await self._outlet.go_on()
            while True:
                event = self._conn.next_event()
                if isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return bytes(body)
                else:
                    data = await self._stream.receive_some(READ_SIZE)
                    self._ended = not data
                    self._conn.receive_data(bytes(data))
        raise self._refused(f"Expected a whole body within {self._limits.body:g} s.", 408)

    async def _decline(self, error: AllodError) -> None:
        """Tell why a body is not read, which is nobody's fault; the stream ends then.

        Closing on a peer that still writes can destroy what it was told, so it gets a moment.
        """
        response = error_response(error)
        headers = {**response.headers, "connection": "close"}
        await self._outlet.send("POST", replace(response, headers=headers))
        with trio.move_on_after(CLOSING):
            while await self._stream.receive_some(READ_SIZE):
                pass

    async def _answer_watched(self, request: Request, stream: Resets) -> None:
        """Answer a request; PeerGone as soon as the peer resets the stream."""
        failed: Exception | None = None
        reset = False

        async def watch() -> None:
            nonlocal reset
            await stream.wait_reset()
            reset = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                await self._answer(request)
            except Exception as exc:
                # Whatever it is, it is raised below: out of the nursery it would come in a group.
                failed = exc
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed
        if reset:
            raise PeerGone("The peer reset the stream before it was answered.", peer=self._peer)

    async def _answer(self, request: Request) -> None:
        file: int | None = None
        done: Callable[[], None] | None = None
        try:
            try:
                response = await self._handler(request)
                done = response.done
                if isinstance(response.body, FileBody) and request.method == "GET":
                    file = await trio.to_thread.run_sync(open_body, response.body)
                if isinstance(response.body, LiveBody):
                    await self._outlet.send_live(request.method, response.headers, response.body)
                    return
            except AllodError as exc:
                if not self._outlet.fresh:
                    raise  # the head is out: only a broken stream can tell the peer
                response = error_response(exc)
                if response.status >= 500:
                    log.warning("the request for %s failed: %s", request.path, exc)
            except Exception:
                # The bug is raised again for the stream's owner; the peer gets a bare 500.
                if self._outlet.fresh:
                    message = "This node cannot answer at the moment."
                    await self._outlet.refuse(500, message, request.method)
                raise
            await self._outlet.send(request.method, response, file)
        finally:
            if file is not None:
                os.close(file)
            if done is not None:
                done()

    def _refused(self, message: str, status: int) -> PeerRefused:
        return PeerRefused(message, status=status, peer=self._peer)


def split_target(target: bytes, peer: str) -> tuple[str, dict[str, str]]:
    """Split a request target into its decoded path and its query; PeerRefused(400) if bad."""
    raw_path, _, raw_query = target.decode("ascii", "replace").partition("?")
    try:
        path = unquote(raw_path, errors="strict")
        pairs = parse_qsl(
            raw_query,
            keep_blank_values=True,
            strict_parsing=bool(raw_query),
            errors="strict",
            max_num_fields=MAX_QUERY_FIELDS,
        )
    except ValueError as exc:
        raise PeerRefused(
            f"The request target is malformed: {exc}.", status=400, peer=peer
        ) from exc
    query = dict(pairs)
    if not path.startswith("/") or not path.isprintable() or len(query) != len(pairs):
        raise PeerRefused(
            "Expected a path that starts with / and a query that names each field once.",
            status=400,
            peer=peer,
        )
    return path, query
