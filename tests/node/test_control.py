"""The control API on a real port: what it does for its owner, and what it refuses to all others."""

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from node.api.loopback import loopback_app, serve_loopback
from node.messages import MAX_REQUEST, NoParams, Note, Progress, Report, to_json
from node.operations import Node, Operation
from p2p.errors import PortInUse
from tests.node.door import TOKEN, Door, lines, request, serving, split


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with serving(tmp_path) as found:
        yield found


async def test_events_come_first_and_the_result_last(door: Door) -> None:
    """An operation answers with its events and then its result, one JSON object a line."""
    status, body = await door.post("echo", b'{"ref": "x", "unknown": 1}')
    assert status == 200
    assert lines(body) == [
        {"note": {"text": "hello", "level": "info"}},
        {"progress": to_json(Progress("count", 1, 2))},
        {"note": {"text": "from a thread", "level": "info"}},
        {"result": {"ok": True, "ref": "x"}},
    ]  # fmt: skip


async def test_events_arrive_while_the_work_goes_on(door: Door) -> None:
    """A note is on the wire before the operation ends."""
    stream = await trio.open_tcp_stream("127.0.0.1", door.port)
    async with stream:
        await stream.send_all(request("/control/v1/wait", b"{}", door.port))
        got = b""
        with trio.fail_after(60):
            while b"waiting" not in got:
                got += await stream.receive_some()
        assert b"result" not in got
        door.story.go_on.set()
        with trio.fail_after(60):
            while b"result" not in got:
                got += await stream.receive_some()


async def test_hanging_up_cancels_the_operation(door: Door) -> None:
    """A client that goes away takes its operation with it, and the node goes on."""
    stream = await trio.open_tcp_stream("127.0.0.1", door.port)
    await stream.send_all(request("/control/v1/wait", b"{}", door.port, connection=None))
    with trio.fail_after(60):
        await door.story.started.wait()
        await stream.aclose()
        await door.story.cancelled.wait()
    assert (await door.post("echo", b'{"ref": "x"}'))[0] == 200


async def test_an_error_is_the_last_line(door: Door) -> None:
    """An error of ours keeps its code, its sentence and its advice."""
    status, body = await door.post("missing")
    assert status == 200
    assert lines(body)[-1]["error"] == {
        "code": "NOT_FOUND",
        "message": "It is not here.",
        "next": "Look there.",
        "exit_code": 3,
        "peer": "",
    }


async def test_a_bug_in_an_operation_does_not_end_the_node(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """An unforeseen exception is one error line and one log record; the next request works."""
    _, body = await door.post("broken")
    error = lines(body)[-1]["error"]
    assert error["code"] == "OTHER"
    assert "KeyError" in error["message"]
    assert "Traceback" not in error["message"]
    assert len([one for one in caplog.records if one.name == "node.api.control"]) == 1
    assert (await door.post("echo", b'{"ref": "x"}'))[0] == 200


async def test_a_flood_of_events_never_loses_the_result(door: Door) -> None:
    """Events past the buffer are dropped, the result comes."""
    _, body = await door.post("flood")
    got = lines(body)
    assert got[-1] == {"result": {"ok": True}}
    assert len(got) < 5000


async def test_health_needs_no_token(door: Door) -> None:
    """GET /health says that a node answers here, and no more."""
    raw = request("/health", b"", door.port, method="GET", authorization=None, content_type=None)
    assert split(await door.talk(raw)) == (200, b'{"ok":true}')


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9771",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil@127.0.0.1",
        "127.0.0.1:9771@evil.example",
        "127.0.0.2",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "localhost.",
        "127.0.0.1:99999999",
        "",
    ],
)
async def test_another_host_name_is_refused(door: Door, host: str) -> None:
    """A page that points its own domain at 127.0.0.1 gets nothing, not even /health."""
    for raw in (
        request("/control/v1/echo", b"{}", door.port, host=host),
        request("/health", b"", door.port, method="GET", host=host),
    ):
        status, body = split(await door.talk(raw))
        assert status == 403
        assert b'"REFUSED"' in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "LOCALHOST", "[::1]:80"])
async def test_this_machines_names_pass(door: Door, host: str) -> None:
    """Any loopback name is this machine, whatever port a tunnel shows it on."""
    assert (await door.post("echo", b'{"ref": "x"}', host=host))[0] == 200


async def test_no_host_or_two_are_refused(door: Door) -> None:
    """A request has exactly one Host; what a proxy could read in two ways is turned down."""
    status, _ = await door.post("echo", host=None)
    assert status == 400
    raw = request("/control/v1/echo", b"{}", door.port)
    twice = raw.replace(b"\r\n", b"\r\nhost: evil.example\r\n", 1)
    assert split(await door.talk(twice))[0] in (400, 403)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:1"),
        ("origin", "http://localhost"),
        ("origin", "https://127.0.0.1"),
        ("sec_fetch_site", "cross-site"),
        ("sec_fetch_site", "same-site"),
    ],
)
async def test_another_sites_page_is_refused(door: Door, header: str, value: str) -> None:
    """A browser that says which site asks is believed, even with the right token."""
    status, body = await door.post("echo", b'{"ref": "x"}', **{header: value})
    assert (status, b"Another site" in body) == (403, True)


async def test_the_doors_own_page_may_ask(door: Door) -> None:
    """An Origin that is this very door passes."""
    status, _ = await door.post(
        "echo",
        b'{"ref": "x"}',
        origin=f"http://127.0.0.1:{door.port}",
        sec_fetch_site="same-origin",
    )
    assert status == 200


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        "Bearer \xff",
    ],
)
async def test_without_the_token_nothing_is_read(door: Door, given: str | None) -> None:
    """No token, a wrong one or another scheme: 401 before the body, and the operation's name
    is not even confirmed."""
    for name in ("echo", "nonsense"):
        status, body = await door.post(name, b"x" * 1000, authorization=given)
        assert status == 401
        assert b"token" in body


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_only_json_is_taken(door: Door, kind: str | None) -> None:
    """What a form on a web page can send is turned down by its type."""
    assert (await door.post("echo", b'{"ref": "x"}', content_type=kind))[0] == 415
    assert (
        await door.post("echo", b'{"ref":"x"}', content_type="Application/JSON; charset=utf-8")
    )[0] == 200


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b"\xff\xfe", b'{"ref": 1}', b"[" * 99999]
)
async def test_wrong_params_are_a_400(door: Door, body: bytes) -> None:
    """A body that is not the operation's params is one clear sentence."""
    status, answer = await door.post("echo", body)
    assert status == 400
    assert json.loads(answer)["error"]["code"] == "USAGE"


async def test_a_body_that_is_too_large_is_refused_either_way(door: Door) -> None:
    """Announced or not, more than a request may have is a 413, and the door lives on."""
    huge = b"x" * (MAX_REQUEST + 1)
    assert (await door.post("echo", huge))[0] == 413
    assert (await door.post("echo", b"", content_length="9" * 18))[0] == 413
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    raw = request(
        "/control/v1/echo", b"", door.port, content_length=None, transfer_encoding="chunked"
    )
    assert split(await door.talk(raw + chunk * 40 + b"0\r\n\r\n"))[0] == 413
    assert (await door.post("echo", b'{"ref": "x"}'))[0] == 200


async def test_a_refused_upload_does_not_hold_the_door(door: Door) -> None:
    """Megabytes sent without a token are dropped while the answer goes out."""
    status, _ = await door.post("echo", b"x" * (8 << 20), authorization=None)
    assert status == 401
    status, _ = await door.post("echo", b"x" * (8 << 20), host="evil.example")
    assert status == 403


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
async def test_only_post_works(door: Door, method: str) -> None:
    """Other methods are a 405, so a preflight is never answered with permission."""
    answer = await door.talk(request("/control/v1/echo", b"", door.port, method=method))
    assert split(answer)[0] == 405
    assert b"access-control" not in answer.lower()


async def test_unknown_operations_and_paths_are_a_404(door: Door) -> None:
    """A name that is not in the table, and a secret that stays here, are not found."""
    for name in ("nonsense", "key.export", "__class__", "x" * 5000):
        status, body = await door.post(name, b'{"name": "a"}')
        assert status == 404
        assert len(body) < 300
    assert split(await door.talk(request("/elsewhere", b"", door.port)))[0] == 404


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /control/v1/echo HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /control/v1/echo HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"y" * 100_000,
        b"\x16\x03\x01\x02\x00",
        b"\x00" * 5000,
    ],
)
async def test_malformed_http_does_no_harm(door: Door, raw: bytes) -> None:
    """Nonsense gets a 4xx or a closed connection; the next request works."""
    stream = await trio.open_tcp_stream("127.0.0.1", door.port)
    async with stream:
        await stream.send_all(raw)
        await stream.send_eof()
        with trio.fail_after(60):
            try:
                got = b"".join([piece async for piece in stream])
            except trio.BrokenResourceError:
                got = b""
    assert not got or got.startswith(b"HTTP/1.1 4")
    assert (await door.post("echo", b'{"ref": "x"}'))[0] == 200


async def test_websockets_are_closed(door: Door) -> None:
    """An upgrade is turned down; there is no websocket behind this door."""
    raw = request(
        "/control/v1/echo", b"", door.port, method="GET",
        connection="upgrade", upgrade="websocket",
        sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==", sec_websocket_version="13",
        content_length=None,
    )  # fmt: skip
    assert split(await door.talk(raw))[0] == 403


async def test_a_port_in_use_is_one_sentence(door: Door, tmp_path: Path) -> None:
    """A second door on the same port is PortInUse with what to do about it."""
    with pytest.raises(PortInUse) as caught:
        await serve_loopback(loopback_app([]), door.port)
    assert str(door.port) in caught.value.message
    assert "http.port" in caught.value.next


async def test_the_door_is_on_loopback_only(door: Door) -> None:
    """Nothing listens on the machine's other addresses."""
    with socket.socket() as probe, pytest.raises(OSError):  # noqa: PT011 - which one differs
        probe.connect(("127.0.0.2", door.port))


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
async def test_a_reader_that_stopped_reading_does_not_keep_the_node(tmp_path: Path) -> None:
    """A client that asks for much and reads nothing is reset, so that the node can stop."""
    full = trio.Event()

    async def flood(node: Node, params: NoParams, report: Report) -> dict[str, Any]:
        for i in range(20_000):
            report(Note("x" * 60_000))
            if i % 200 == 0:
                await trio.lowlevel.checkpoint()
        full.set()
        return await trio.sleep_forever()

    more = {"ls": Operation("ls", NoParams, flood, "nothing")}
    with trio.fail_after(60):
        async with serving(tmp_path, more, stall=0.5) as door:
            stream = await trio.open_tcp_stream("127.0.0.1", door.port)
            await stream.send_all(request("/control/v1/ls", b"{}", door.port))
            await full.wait()
        await stream.aclose()
