"""The door for Ollama's clients, on a real port."""

import json

import pytest

from node.accounts import Account
from node.api.ollama.routes import NOT_OFFERED
from p2p.errors import Busy, EngineError
from tests.desk import KeptAccounts, PlainDesk, serving_models
from tests.inference import (
    PEER,
    Script,
    ScriptedInference,
    delta,
    piece,
    served,
)

ASK = {"model": "alice/tiny", "messages": [{"role": "user", "content": "hi"}]}


async def test_a_chat_streams_by_default() -> None:
    """Lines come as they are made, with the headers that say who answered; usage is counted."""
    async with serving_models() as doors:
        answer = await doors.post("/api/chat", ASK, content_type="text/plain")
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["x-served-by"] == PEER
        assert answer.headers["x-model-digest"] == str(doors.engine.models[0].manifest)
        found = [json.loads(line) for line in answer.text.splitlines()]
        assert "".join(one["message"]["content"] for one in found) == "Hello!"
        [use] = await doors.desk.accounts.wait_recorded(1)
        assert (use.endpoint, use.prompt, use.completion) == ("api/chat", 32, 3)


async def test_generate_and_embed() -> None:
    """The other endpoints answer in their own shapes."""
    everything = frozenset({"chat", "completions", "embeddings"})
    models = [served(capabilities=everything)]
    async with serving_models(PlainDesk(inference=ScriptedInference(models=models))) as doors:
        ask = {"model": "alice/tiny:latest", "prompt": "hi", "stream": False}
        assert (await doors.post("/api/generate", ask)).json()["response"] == "Hello!"
        raw = (await doors.post("/api/generate", ask | {"raw": True})).json()
        assert raw["response"] == " Paris. The"
        loaded = (await doors.post("/api/generate", {"model": "alice/tiny"})).json()
        assert loaded["done_reason"] == "load"
        many = await doors.post("/api/embed", {"model": "alice/tiny", "input": ["a", "b"]})
        assert many.json()["embeddings"] == [[0.5, -0.25, 1.0]] * 2
        one = await doors.post("/api/embeddings", {"model": "alice/tiny", "prompt": "a"})
        assert one.json() == {"embedding": [0.5, -0.25, 1.0]}


async def test_models_are_listed_and_shown() -> None:
    """Tags has all, ps those that are loaded, show one, by its name with a tag or without."""
    models = [served(), served("bob/cold", state="cold")]
    async with serving_models(PlainDesk(inference=ScriptedInference(models=models))) as doors:
        tags = (await doors.get("/api/tags")).json()["models"]
        assert [one["name"] for one in tags] == ["alice/tiny:latest", "bob/cold:latest"]
        ps = (await doors.get("/api/ps")).json()["models"]
        assert [one["name"] for one in ps] == ["alice/tiny:latest"]
        for ask in ({"model": "bob/cold"}, {"name": "bob/cold:latest"}):
            shown = (await doors.post("/api/show", ask)).json()
            assert shown["details"]["family"] == "llama"
        assert "version" in (await doors.get("/api/version")).json()


async def test_the_root_says_what_clients_look_for() -> None:
    """Clients probe / with GET or HEAD."""
    async with serving_models() as doors:
        assert (await doors.get("/")).text == "Ollama is running"
        assert (await doors.client.head("/")).status_code == 200


@pytest.mark.parametrize(
    ("path", "ask", "status"),
    [
        ("/api/chat", ASK | {"model": "nobody"}, 404),
        ("/api/show", {"model": "nobody"}, 404),
        ("/api/show", {}, 400),
        ("/api/show", [], 400),
        ("/api/chat", {"model": "alice/tiny", "messages": 5}, 400),
        ("/api/chat", b"nonsense", 400),
        ("/api/embed", {"model": "alice/tiny", "input": "x"}, 400),
    ],
)
async def test_errors_are_in_ollamas_shape(path: str, ask: object, status: int) -> None:
    """An error is one sentence under one key."""
    async with serving_models() as doors:
        answer = await doors.post(path, ask)
        assert answer.status_code == status
        assert list(answer.json()) == ["error"]
        assert isinstance(answer.json()["error"], str)


async def test_what_breaks_in_the_middle_is_the_last_line() -> None:
    """A stream that breaks ends with an error line; nothing out yet, and it is a status."""
    broken = EngineError("The engine died.")

    desk = PlainDesk(
        inference=ScriptedInference(
            script=lambda model, call: Script([piece(delta(content="Hel")), broken])
        )
    )
    async with serving_models(desk) as doors:
        *_, last = (await doors.post("/api/chat", ASK)).text.splitlines()
        assert json.loads(last) == {"error": "The engine died."}
        whole = await doors.post("/api/chat", ASK | {"stream": False})
        assert (whole.status_code, whole.json()) == (502, {"error": "The engine died."})
        doors.engine.fails = Busy("Full.", retry_after=2)
        busy = await doors.post("/api/chat", ASK)
        assert (busy.status_code, busy.headers["retry-after"]) == (429, "2")


@pytest.mark.parametrize("name", sorted(NOT_OFFERED))
async def test_models_do_not_come_and_go_by_this_door(name: str) -> None:
    """What changes the models is refused with the command that does it, large bodies dropped."""
    async with serving_models() as doors:
        path = f"/api/{name.replace('{digest}', 'sha256:0')}"
        answer = await doors.client.request("DELETE" if name == "delete" else "POST", path)
        assert answer.status_code == 501
        assert "allod" in answer.json()["error"] or "no copies" in answer.json()["error"]
        assert (await doors.push(path, b"x" * (4 << 20)))[0] == 501


async def test_a_token_sees_its_models_only() -> None:
    """Lists have the models of the token, and what is not among them is a 403."""
    account = Account("1", "bob", ("alice/tiny",), None, None, False)
    desk = PlainDesk(
        inference=ScriptedInference(models=[served(), served("alice/other")]),
        accounts=KeptAccounts(tokens={"allod-bob": account}, needed=True),
    )
    async with serving_models(desk) as doors:
        bearer = {"authorization": "Bearer allod-bob"}
        for path in ("/api/tags", "/api/ps"):
            assert (await doors.get(path)).status_code == 401
            models = (await doors.get(path, **bearer)).json()["models"]
            assert [one["name"] for one in models] == ["alice/tiny:latest"]
        shown = await doors.post("/api/show", {"model": "alice/other"}, **bearer)
        assert shown.status_code == 403
        status, _ = await doors.push("/api/show", b"x" * (4 << 20), authorization="Bearer x")
        assert status == 401
