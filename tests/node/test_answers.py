"""What a node that shares models answers to peers: to whom, within which bounds, how proved."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from node.api.answers import Answers
from node.api.openai.requests import read_chat
from node.api.peer import PeerApi
from node.inference import Call, Served
from node.moderation import Moderation
from node.receipts import Receipts
from p2p.cid import CID, Codec
from p2p.errors import (
    AllodError,
    Busy,
    EngineError,
    NotFound,
    PeerRefused,
    Refused,
    Unsupported,
    UsageError,
)
from p2p.http import MAX_BODY, LiveBody, Request, Response, Send, error_response
from p2p.keys import SecretKey
from p2p.receipt import check_receipt, read_receipt
from p2p.serving import BEAT, PLACES, SIGN_OF_LIFE, Serving
from tests.inference import (
    DONE,
    TOO_LONG,
    Script,
    Step,
    chat_stream,
    chat_whole,
    whole,
)
from tests.sharing import CHAT, MANIFEST, Desk, Local, Policy, tiny

KEY = SecretKey.generate()
OURS, FRIEND, STRANGER = KEY.public.peer_id, "12D3KooWfriend", "12D3KooWstranger"


@dataclass
class Sent:
    """What went out to a peer."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    async def start(self, status: int, headers: Mapping[str, str]) -> Send:
        await trio.lowlevel.checkpoint()
        self.status, self.headers = status, headers
        return self.send

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.pieces.append(data)


class Stage:
    """A sharing node, and what its peers ask."""

    def __init__(self, local: Local | None = None, peers: tuple[str, ...] = (FRIEND,)) -> None:
        self.local = local or Local()
        self.local.peer_id = OURS
        self.desk = Desk(Receipts(KEY))
        self.gate = Policy()
        self.answers = Answers(self.local, self.desk, self.gate, peers)

    async def get(self, path: str, peer: str = FRIEND) -> Response:
        return await self.answers(Request("GET", f"/allod/v1/{path}", {}, {}, peer))

    def request(
        self, asked: Any = CHAT, endpoint: str = "chat/completions", peer: str = FRIEND
    ) -> Request:
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        path = f"/allod/v1/answer/{MANIFEST}/{endpoint}"
        return Request("POST", path, {}, {}, peer, body)

    async def post(self, request: Request | None = None) -> Sent:
        request, sent = request or self.request(), Sent()
        response = await self.answers(request)
        assert isinstance(response.body, LiveBody)
        await response.body.run(sent.start)
        return sent


def check(stage: Stage, request: Request, sent: Sent) -> None:
    """See that the answer is signed for."""
    receipt = stage.desk.receipts.get(sent.headers["x-receipt-id"])
    assert receipt is not None
    check_receipt(
        read_receipt(receipt),
        manifest=MANIFEST,
        peer=OURS,
        request_sha256=hashlib.sha256(request.body).hexdigest(),
        response_sha256=hashlib.sha256(sent.body).hexdigest(),
        now=time.time(),
    )


# -- who may ask what


async def test_how_busy_it_is() -> None:
    """A peer whom the owner names learns how busy a shared model is."""
    stage = Stage(Local(slots=3, busy=2, waiting=1))
    response = await stage.get(f"serving/{MANIFEST}")
    assert isinstance(response.body, bytes)
    said = Serving.decode(response.body)
    assert (said.slots, said.busy, said.waiting, said.context) == (3, 2, 1, 2048)
    assert (said.state, "chat" in said.capabilities) == ("ready", True)


@pytest.mark.parametrize("peers", [(FRIEND,), ("all",), (STRANGER, FRIEND)])
async def test_those_who_are_named_are_answered(peers: tuple[str, ...]) -> None:
    """By their id, or as everybody."""
    stage = Stage(peers=peers)
    assert stage.answers.takes(stage.request()) == MAX_BODY
    assert (await stage.post()).status == 200


@pytest.mark.parametrize("peers", [(), (STRANGER,), ("ALL", FRIEND + "x")])
async def test_others_are_not(peers: tuple[str, ...]) -> None:
    """They are told nothing of the model, and their body is not read."""
    stage = Stage(peers=peers)
    with pytest.raises(NotFound):
        await stage.get(f"serving/{MANIFEST}")
    with pytest.raises(PeerRefused) as caught:
        stage.answers.takes(stage.request())
    assert caught.value.status == 403
    with pytest.raises(PeerRefused):
        await stage.answers(stage.request())
    assert not stage.local.asked


@pytest.mark.parametrize(
    "models",
    [[], [tiny(shared=False)], [tiny(state="remote")], [tiny(manifest=CID.of(b"x", Codec.JSON))]],
)
async def test_what_is_not_shared_is_not_there(models: list[Served]) -> None:
    """A model that is kept back, or only known of peers, is a 404 like one that there is not."""
    stage = Stage(Local(models=models), peers=("all",))
    for ask in (stage.get(f"serving/{MANIFEST}"), stage.answers(stage.request())):
        with pytest.raises(NotFound):
            await ask
    with pytest.raises(NotFound):
        stage.answers.takes(stage.request())


async def test_what_the_policy_refuses_is_not_answered() -> None:
    """A release that was refused since is 410, for the question and for the request."""
    stage = Stage()
    stage.gate.refused.add(MANIFEST)
    for ask in (stage.get(f"serving/{MANIFEST}"), stage.answers(stage.request())):
        with pytest.raises(Refused) as caught:
            await ask
        assert error_response(caught.value).status == 410
    assert not stage.local.asked


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("serving/nonsense", UsageError),
        ("serving", NotFound),
        (f"serving/{MANIFEST}/x", NotFound),
        (f"answer/{MANIFEST}/chat/completions", NotFound),  # a GET
        ("receipt/AAAAAAAAAAAAAAAAAAAAAA", NotFound),
        ("receipt/../../x", NotFound),
    ],
)
async def test_what_there_is_not(path: str, error: type[AllodError]) -> None:
    """Paths that name nothing are 404, malformed CIDs 400."""
    with pytest.raises(error):
        await Stage().get(path)


async def test_bodies_are_for_requests_alone() -> None:
    """Nothing but a request to an engine's endpoint may bring a body."""
    stage = Stage()
    for path in ("/ipfs/x", f"/allod/v1/serving/{MANIFEST}", "/allod/v1/receipt/x", "/"):
        assert stage.answers.takes(Request("POST", path, {}, {}, FRIEND)) == 0
    for endpoint in ("", "models", "chat", "../slots", "chat/completions/x"):
        with pytest.raises(NotFound):
            stage.answers.takes(stage.request(endpoint=endpoint))


async def test_loopback_and_lanes_do_not_answer(new_store: Any) -> None:
    """Only where the asker has proved who it is there is anything at these paths."""
    stage = Stage(peers=("all",))
    api = PeerApi(await new_store())
    for request in (
        stage.request(),
        Request("GET", f"/allod/v1/serving/{MANIFEST}", {}, {}, "loopback"),
        Request("GET", "/allod/v1/receipt/x", {}, {}, "loopback"),
    ):
        with pytest.raises(NotFound, match="nothing at"):
            await api(request)
    proved = PeerApi(await new_store(), answers=stage.answers)
    assert (await proved(Request("GET", f"/allod/v1/serving/{MANIFEST}", {}, {}, FRIEND))).body


# -- answers


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_and_its_receipt(stream: bool) -> None:
    """The engine's answer, the model by its digest, what it was named, and a receipt that fits."""
    stage = Stage()
    request = stage.request(CHAT | {"stream": stream})
    sent = await stage.post(request)
    assert sent.status == 200
    assert sent.headers["content-type"] == ("text/event-stream" if stream else "application/json")
    assert sent.headers["x-model-digest"] == str(MANIFEST)
    assert sent.headers["x-model-publisher"] == tiny().publisher
    assert f'"model":"{MANIFEST}"'.encode() in sent.body.replace(b": ", b":")
    assert b"alice" not in sent.body
    assert sent.body.endswith(DONE) is stream
    assert (sent.headers.get("content-length") == str(len(sent.body))) is not stream
    check(stage, request, sent)
    got = await stage.get(f"receipt/{sent.headers['x-receipt-id']}")
    assert got.body == stage.desk.receipts.get(sent.headers["x-receipt-id"])


async def test_completions_and_embeddings() -> None:
    """The other endpoints of engines are answered too."""
    stage = Stage(Local(models=[tiny(capabilities=frozenset({"completions", "embeddings"}))]))
    text = stage.request({"model": "x", "prompt": "The capital is"}, "completions")
    assert b" Paris" in (await stage.post(text)).body
    vectors = stage.request({"model": "x", "input": ["a", "b"]}, "embeddings")
    sent = await stage.post(vectors)
    assert len(json.loads(sent.body)["data"]) == 2
    check(stage, vectors, sent)


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"[]",
        b"{not json",
        {"model": "x"},
        CHAT | {"grammar": "root ::= [a-z]"},
        CHAT | {"slot_id": 1},
        CHAT | {"messages": "hello"},
        CHAT | {"max_tokens": -5},
    ],
)
async def test_only_what_our_own_door_takes(asked: Any) -> None:
    """A request passes the same checks as one at the node's own door: 400, and no engine hears."""
    stage = Stage()
    with pytest.raises(UsageError) as caught:
        await stage.answers(stage.request(asked))
    assert error_response(caught.value).status == 400
    assert not stage.local.asked


async def test_an_engines_refusal_is_passed_on() -> None:
    """A prompt that is too long is the engine's answer, signed for like any other."""
    stage = Stage(Local(script=lambda model, call: whole(TOO_LONG, 400)))
    request = stage.request()
    sent = await stage.post(request)
    assert (sent.status, sent.body) == (400, TOO_LONG)
    assert sent.headers["x-model-digest"] == str(MANIFEST)
    check(stage, request, sent)
    [use] = await stage.desk.accounts.wait_recorded(1)
    assert use.status == 400


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Busy("Full.", retry_after=3), 429),
        (EngineError("It died."), 503),
        (Unsupported("No tools."), 501),
    ],
)
async def test_what_engines_cannot_do(error: AllodError, status: int) -> None:
    """It has a status before the first byte, and is counted."""
    stage = Stage(Local(fails=error))
    with pytest.raises(type(error)):
        await stage.post()
    assert error_response(error).status == status
    [use] = await stage.desk.accounts.wait_recorded(1)
    assert use.status == status


async def test_an_engine_that_dies_in_the_middle() -> None:
    """What has gone out is not finished: no last event, no receipt."""
    steps: list[Step] = [*chat_stream("Hel", "lo")[:2], EngineError("It died.")]
    stage = Stage(Local(script=lambda model, call: Script(steps)))
    sent, request = Sent(), stage.request(CHAT | {"stream": True})
    response = await stage.answers(request)
    assert isinstance(response.body, LiveBody)
    with pytest.raises(EngineError):
        await response.body.run(sent.start)
    assert sent.pieces
    assert DONE not in sent.body
    assert stage.desk.receipts.get(sent.headers["x-receipt-id"]) is None


async def test_it_is_counted() -> None:
    """What a peer used is written down under its id."""
    stage = Stage()
    await stage.post(
        stage.request(CHAT | {"stream": True, "stream_options": {"include_usage": True}})
    )
    [(account, use)] = stage.desk.accounts.used
    assert account.id == f"peer:{FRIEND}"
    assert (use.model, use.manifest, use.endpoint) == ("alice/tiny", MANIFEST, "chat/completions")
    assert (use.prompt, use.completion, use.status, use.served_by) == (32, 3, 200, OURS)


async def test_signs_of_life(autojump_clock: trio.testing.MockClock) -> None:
    """A stream that pauses shows every ten seconds that it lives; the receipt covers that too."""
    pause = trio.Event()
    script = [*chat_stream("Hel")[:2], pause, *chat_stream("Hel")[2:]]
    stage = Stage(Local(script=lambda model, call: Script(script)))
    request, sent = stage.request(CHAT | {"stream": True}), Sent()
    response = await stage.answers(request)
    assert isinstance(response.body, LiveBody)
    run = response.body.run
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, sent.start)
        await trio.sleep(3.5 * BEAT)
        assert sent.pieces.count(SIGN_OF_LIFE) == 3
        pause.set()
    assert sent.body.endswith(DONE)
    assert sent.pieces.count(SIGN_OF_LIFE) == 3
    check(stage, request, sent)


async def test_hanging_up_frees_the_slot() -> None:
    """A cancelled answer frees its slot and its peer's place, and is counted."""
    never = trio.Event()
    steps = [*chat_stream("Hel")[:2], never]
    stage = Stage(Local(script=lambda model, call: Script(steps)))
    with trio.move_on_after(60) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.post, stage.request(CHAT | {"stream": True}))
            await trio.testing.wait_all_tasks_blocked()
            assert stage.local.busy == 1
            nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert stage.local.busy == 0
    [use] = await stage.desk.accounts.wait_recorded(1)
    assert use.status == 499
    assert use.prompt == len(stage.request(CHAT | {"stream": True}).body) // 4
    assert stage.answers.takes(stage.request()) == MAX_BODY


async def test_hanging_up_on_a_whole_answer_is_counted() -> None:
    """What an engine made for a peer that did not wait is guessed."""
    stage = Stage(Local(script=lambda model, call: Script([trio.Event()])))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.post, stage.request(CHAT | {"max_tokens": 70}))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    [use] = await stage.desk.accounts.wait_recorded(1)
    assert (use.status, use.completion) == (499, 70)
    assert use.prompt > 10


@pytest.mark.parametrize(
    "now", [[], [tiny(shared=False)], [tiny(manifest=CID.of(b"x", Codec.JSON))]]
)
async def test_what_is_shared_is_looked_at_again(now: list[Served]) -> None:
    """A model that is kept back, or replaced, between the look and the question is a 404."""
    stage, sent = Stage(), Sent()
    response = await stage.answers(stage.request())
    assert isinstance(response.body, LiveBody)
    stage.local.models = now
    with pytest.raises(NotFound) as caught:
        await response.body.run(sent.start)
    assert error_response(caught.value).status == 404
    assert (stage.local.asked, sent.status) == ([], 0)


async def test_what_is_shared_no_more_after_the_queue_is_not_answered() -> None:
    """A peer that waited for its slot until the owner changed his mind gets a 404."""
    stage = Stage()

    def script(model: Served, call: Call) -> Script:
        stage.local.models = [tiny(shared=False)]
        return Script(chat_stream("Hel"))

    stage.local.script, sent = script, Sent()
    response = await stage.answers(stage.request())
    assert isinstance(response.body, LiveBody)
    with pytest.raises(NotFound):
        await response.body.run(sent.start)
    assert sent.status == 0


async def test_a_peer_has_so_many_places() -> None:
    """One peer cannot take the whole queue; others are not concerned."""
    never = trio.Event()
    stage = Stage(Local(script=lambda model, call: Script([never])), peers=("all",))
    async with trio.open_nursery() as nursery:
        for _ in range(PLACES):
            nursery.start_soon(stage.post)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(PeerRefused) as caught:
            stage.answers.takes(stage.request())
        assert (caught.value.status, caught.value.retry_after > 0) == (429, True)
        with pytest.raises(PeerRefused):
            await stage.post()
        assert stage.answers.takes(stage.request(peer=STRANGER)) == MAX_BODY
        nursery.cancel_scope.cancel()
    assert stage.answers.takes(stage.request()) == MAX_BODY


class Judge:
    """A moderator that flags a word."""

    async def flags(self, text: str, role: str) -> bool:
        await trio.lowlevel.checkpoint()
        return "forbidden" in text


@pytest.mark.parametrize("where", ["prompt", "answer", "stream"])
async def test_a_moderator_hears_peers_too(where: str) -> None:
    """What the owner's moderator does not let pass, peers do not get either."""
    steps = chat_stream("forbid", "den")

    def say(model: Served, call: Call) -> Script:
        return Script(steps) if call.stream else whole(chat_whole("This is forbidden."))

    stage = Stage(Local(script=say))
    stage.desk.moderation = Moderation(Judge())  # type: ignore[arg-type]
    asked: dict[str, Any] = CHAT | {"stream": where == "stream"}
    if where == "prompt":
        asked["messages"] = [{"role": "user", "content": "Say the forbidden word."}]
    sent = Sent()
    response = await stage.answers(stage.request(asked))
    assert isinstance(response.body, LiveBody)
    with pytest.raises(Refused):
        await response.body.run(sent.start)
    assert not sent.pieces
    assert bool(stage.local.asked) is (where != "prompt")


async def test_what_another_node_asks_passes() -> None:
    """A call that our own door makes passes the checks of another node's, unchanged."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    rich = CHAT | {
        "stream": True,
        "temperature": 0.5,
        "max_completion_tokens": 5,
        "stop": ["x"],
        "tools": [tool],
        "tool_choice": "auto",
        "logprobs": True,
        "user": "somebody",
    }
    call: Call = read_chat(rich).call(str(MANIFEST), True)
    assert b"somebody" not in call.body
    stage = Stage()
    await stage.post(stage.request(call.body))
    [(_, heard)] = stage.local.asked
    assert json.loads(heard.body) == json.loads(call.body) | {"model": "alice/tiny"}
    assert heard.needs == call.needs
