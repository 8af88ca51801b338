"""What stands before an answer: tokens, bodies, models."""

import json

import pytest

from node.accounts import Account
from node.api.openai.fields import MAX_BODY
from tests.desk import KeptAccounts, PlainDesk, serving_models
from tests.inference import ScriptedInference, served

ASK: dict[str, object] = {"model": "alice/tiny", "messages": [{"role": "user", "content": "hi"}]}
TOKEN = "allod-good"
ACCOUNT = Account("1", "bob", ("alice/tiny",), None, None, False)


def guarded() -> PlainDesk:
    return PlainDesk(accounts=KeptAccounts(tokens={TOKEN: ACCOUNT}, needed=True))


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer wrong", "Bearer allod-wrong", f"Basic {TOKEN}", TOKEN]
)
async def test_without_a_good_token_nothing_is_read(given: str) -> None:
    """Where a token is needed, another one is a 401 before the body, on every endpoint."""
    async with serving_models(guarded()) as doors:
        for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/api/chat"):
            status, _ = await doors.push(path, b"x" * (9 << 20), authorization=given)
            assert status == 401
            answer = await doors.post(path, b"", authorization=given)
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/models", "/v1/models/alice/tiny", "/v1/receipts/x"):
            answer = await doors.get(path, authorization=given)
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert doors.engine.asked == []


async def test_a_good_token_is_an_account() -> None:
    """With its token an account asks its models, sees them, and no others."""
    desk = guarded()
    desk.inference = ScriptedInference(models=[served(), served("alice/other")])
    async with serving_models(desk) as doors:
        bearer = {"authorization": f"bearer {TOKEN}"}
        assert (await doors.post("/v1/chat/completions", ASK, **bearer)).status_code == 200
        listed = (await doors.get("/v1/models", **bearer)).json()["data"]
        assert [one["id"] for one in listed] == ["alice/tiny"]
        answer = await doors.post("/v1/chat/completions", ASK | {"model": "alice/other"}, **bearer)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "model_not_allowed"
        assert (await doors.get("/v1/models/alice/other", **bearer)).status_code == 403
        [use] = await doors.desk.accounts.wait_recorded(1)
        assert not doors.engine.asked[0][1].may_leave
        assert use.endpoint == "chat/completions"


async def test_any_key_is_no_token_where_none_is_needed() -> None:
    """Clients insist on some key: a word that is no token of ours counts as none."""
    async with serving_models() as doors:
        answer = await doors.post("/v1/chat/completions", ASK, authorization="Bearer sk-dummy")
        assert answer.status_code == 200
        assert doors.engine.asked[0][1].may_leave


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content_type": "text/plain"}, 415, "unsupported_media_type"),
        ({"content_type": ""}, 415, "unsupported_media_type"),
        ({"content_encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"content_type": "Application/JSON; charset=utf-8"}, 200, None),
    ],
)
async def test_only_json_is_taken(headers: dict[str, str], status: int, code: str | None) -> None:
    """What a form on a web page can send, or what hides its size, is turned down by its type."""
    async with serving_models() as doors:
        answer = await doors.post("/v1/chat/completions", ASK, **headers)
        assert answer.status_code == status
        assert answer.json().get("error", {}).get("code") == code


async def test_a_body_that_is_too_large_is_refused_either_way() -> None:
    """Announced or not, more than a request may have is a 413, and the door lives on."""
    async with serving_models() as doors:
        big = json.dumps(ASK | {"user": "x" * MAX_BODY}).encode()
        chat = "/v1/chat/completions"
        status, told = await doors.push(chat, big)
        assert status == 413
        assert json.loads(told)["error"]["code"] == "request_too_large"
        assert (await doors.push(chat, b"", content_length="9" * 18))[0] == 413
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        chunked = {"content_length": None, "transfer_encoding": "chunked"}
        assert (await doors.push(chat, chunk * 20 + b"0\r\n\r\n", **chunked))[0] == 413
        assert (await doors.post("/v1/chat/completions", ASK)).status_code == 200


async def test_a_large_body_is_taken() -> None:
    """Megabytes within the bound pass, and reach the engine whole."""
    async with serving_models() as doors:
        text = "word " * 400_000
        ask = ASK | {"messages": [{"role": "user", "content": text}]}
        assert (await doors.post("/v1/chat/completions", ask)).status_code == 200
        assert doors.engine.bodies[0]["messages"][0]["content"] == text


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"[" * 99_999, b'{"a": NaN}'])
async def test_a_body_that_is_no_request_is_a_400(body: bytes) -> None:
    """Nonsense is one clear sentence, and never reaches the engine."""
    async with serving_models() as doors:
        answer = await doors.post("/v1/chat/completions", body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_json"
        assert doors.engine.asked == []


@pytest.mark.parametrize(
    "name", ["alice/other", "", "../../etc/passwd", "gpt-4", "\N{SNOWMAN}", "alice/tiny:latest"]
)
async def test_a_model_that_is_not_served_is_a_404(name: str) -> None:
    """Whatever name a client sends, it is a served one or not found."""
    async with serving_models() as doors:
        answer = await doors.post("/v1/chat/completions", ASK | {"model": name})
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        assert answer.json()["error"]["param"] == "model"


async def test_every_name_of_a_model_means_it() -> None:
    """An alias or the digest asks the same model, and the engine hears its one name."""
    async with serving_models() as doors:
        model = doors.engine.models[0]
        for name in (model.name, *model.aliases, str(model.manifest)):
            answer = await doors.post("/v1/chat/completions", ASK | {"model": name})
            assert answer.headers["x-model-digest"] == str(model.manifest)
        assert {body["model"] for body in doors.engine.bodies} == {"alice/tiny"}


@pytest.mark.parametrize(
    ("can", "path", "more", "code", "param"),
    [
        ({"embeddings"}, "/v1/chat/completions", {}, "model_not_supported", "model"),
        ({"embeddings"}, "/v1/responses", {}, "model_not_supported", "model"),
        ({"chat"}, "/v1/embeddings", {}, "model_not_supported", "model"),
        ({"chat"}, "/v1/completions", {}, "model_not_supported", "model"),
        (
            {"chat"},
            "/v1/chat/completions",
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            "unsupported_parameter",
            "tools",
        ),
        (
            {"chat"},
            "/v1/chat/completions",
            {"response_format": {"type": "json_object"}},
            "unsupported_parameter",
            "response_format",
        ),
    ],
)
async def test_what_a_models_engine_cannot_is_refused(
    can: set[str], path: str, more: dict[str, object], code: str, param: str
) -> None:
    """A field or an endpoint that the engine would not honour is a 400 that names it."""
    desk = PlainDesk(inference=ScriptedInference(models=[served(capabilities=frozenset(can))]))
    base: dict[str, dict[str, object]] = {
        "/v1/chat/completions": ASK,
        "/v1/responses": {"model": "alice/tiny", "input": "x"},
        "/v1/embeddings": {"model": "alice/tiny", "input": "x"},
        "/v1/completions": {"model": "alice/tiny", "prompt": "x"},
    }
    async with serving_models(desk) as doors:
        answer = await doors.post(path, base[path] | more)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == (code, param)
        assert doors.engine.asked == []
