"""Which path is which, on a real port, in OpenAI's words."""

import json

import pytest

from node.api.openai.routes import DOORS
from tests.desk import PlainDesk, pieces_of, serving_models
from tests.inference import ScriptedInference, served


async def test_models_are_listed() -> None:
    """Every served model is listed under its name, with its digest and publisher."""
    models = [served(), served("bob/other")]
    async with serving_models(PlainDesk(inference=ScriptedInference(models=models))) as doors:
        answer = await doors.get("/v1/models")
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.json()["object"] == "list"
        first, second = answer.json()["data"]
        assert first == {
            "id": "alice/tiny",
            "object": "model",
            "created": 1_700_000_000,
            "owned_by": models[0].publisher,
            "digest": str(models[0].manifest),
            "context_length": 2048,
        }
        assert second["id"] == "bob/other"


@pytest.mark.parametrize("path", ["alice/tiny", "alice%2Ftiny", "alice/tiny@1.0.0"])
async def test_a_model_is_shown(path: str) -> None:
    """A model is found by each of its names, slash and all."""
    async with serving_models() as doors:
        assert (await doors.get(f"/v1/models/{path}")).json()["id"] == "alice/tiny"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("DELETE", "/v1/models/alice/tiny", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/responses", 405, "method_not_allowed"),
        ("GET", "/v1/responses/resp_1", 404, "unknown_url"),
        ("POST", "/v1/images/generations", 404, "unknown_url"),
        ("POST", "/v1/files", 404, "unknown_url"),
        ("GET", "/v1/", 404, "unknown_url"),
    ],
)
async def test_what_is_not_there_is_said_in_openais_shape(
    method: str, path: str, status: int, code: str
) -> None:
    """An unknown path is a 404, a wrong method a 405, both with an error object."""
    async with serving_models() as doors:
        answer = await doors.client.request(method, f"{doors.url}{path}")
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code


async def test_no_path_leads_out_of_the_door() -> None:
    """Dots in a path lead nowhere."""
    async with serving_models() as doors:
        status, body = await doors.push("/v1/../control/v1/status", b"{}")
        assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url")


async def test_a_refused_upload_does_not_hold_the_door() -> None:
    """Megabytes to a path that is not there are dropped while the answer goes out."""
    async with serving_models() as doors:
        assert (await doors.push("/v1/files", b"x" * (8 << 20)))[0] == 404
        assert (await doors.get("/v1/models")).status_code == 200


async def test_completions() -> None:
    """A text goes on, whole and streamed."""
    async with serving_models() as doors:
        ask = {"model": "alice/tiny", "prompt": "The capital of France is", "max_tokens": 3}
        assert (await doors.post("/v1/completions", ask)).json()["choices"][0]["text"]
        answer = await doors.post("/v1/completions", ask | {"stream": True})
        words = [one["choices"][0]["text"] for one in pieces_of(answer.content)]
        assert "".join(words) == " Paris. The"
        assert doors.engine.asked[0][1].endpoint == "completions"


async def test_embeddings() -> None:
    """Vectors come in the encoding that was asked, and their tokens are counted."""
    models = [served(capabilities=frozenset({"embeddings"}))]
    async with serving_models(PlainDesk(inference=ScriptedInference(models=models))) as doors:
        ask: dict[str, object] = {"model": "alice/tiny", "input": ["a", "b"]}
        data = (await doors.post("/v1/embeddings", ask)).json()["data"]
        assert [one["embedding"] for one in data] == [[0.5, -0.25, 1.0]] * 2
        packed = await doors.post("/v1/embeddings", ask | {"encoding_format": "base64"})
        assert packed.json()["data"][0]["embedding"] == "AAAAPwAAgL4AAIA/"
        uses = await doors.desk.accounts.wait_recorded(2)
        assert (uses[0].prompt, uses[0].completion) == (7, 0)


async def test_responses() -> None:
    """A response is made of a chat."""
    async with serving_models() as doors:
        ask = {"model": "alice/tiny", "input": "hi"}
        answer = (await doors.post("/v1/responses", ask)).json()
        assert answer["output"][0]["content"][0]["text"] == "Hello!"
        stream = await doors.post("/v1/responses", ask | {"stream": True})
        assert stream.headers["content-type"] == "text/event-stream"
        *_, last = pieces_of(stream.content)
        assert last["type"] == "response.completed"
        assert doors.engine.asked[0][1].endpoint == "chat/completions"
        uses = await doors.desk.accounts.wait_recorded(2)
        assert {use.endpoint for use in uses} == {"responses"}


def test_the_endpoints_are_openais() -> None:
    """Each door stands where OpenAI's clients look for it."""
    assert {one.endpoint for one in DOORS} == {
        "chat/completions",
        "completions",
        "embeddings",
        "responses",
    }
