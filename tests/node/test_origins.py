"""Which web pages may use the doors for models, and that no page gets anything else."""

import pytest

from node.api.origins import MAX_ASKED, Origins
from tests.desk import serving_models
from tests.inference import PEER

PAGE = "https://chat.example.org"
ASK = {"model": "alice/tiny", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("origins", "origin", "path", "allowed"),
    [
        ([PAGE], PAGE, "/v1/models", True),
        ([PAGE + "/"], PAGE.upper(), "/api/chat", True),
        ([PAGE], PAGE, "/control/v1/status", False),
        ([PAGE], PAGE, "/api/models/alice/tiny", False),
        ([PAGE], PAGE, "/api/datasets", False),
        ([PAGE], PAGE, "/v1", False),
        ([PAGE], PAGE, "/ipfs/x", False),
        ([PAGE], PAGE, "/", False),
        ([PAGE], "https://chat.example.org.evil.example", "/v1/models", False),
        ([PAGE], "http://chat.example.org", "/v1/models", False),
        ([PAGE], "https://chat.example.org:444", "/v1/models", False),
        ([], PAGE, "/v1/models", False),
        (["*"], PAGE, "/v1/models", False),
        (["*"], "*", "/v1/models", False),
        (["null"], "null", "/v1/models", False),
        ([""], "", "/v1/models", False),
    ],
)
def test_who_may_ask_what(origins: list[str], origin: str, path: str, allowed: bool) -> None:
    """An origin is allowed by its whole name, and the doors for models only."""
    assert Origins(origins).allows(origin, path) is allowed


def test_a_list_of_headers_without_end_is_not_repeated() -> None:
    """What a page wants to send is repeated to it only within reason."""
    answer = Origins([PAGE]).preflight(PAGE, "x" * (MAX_ASKED + 1), False)
    assert "access-control-allow-headers" not in answer.headers
    assert "access-control-allow-private-network" not in answer.headers


async def test_a_page_that_the_owner_named_may_ask() -> None:
    """Its preflight and its request pass, and it may read the headers that say who answered."""
    async with serving_models(origins=[PAGE]) as doors:
        preflight = await doors.client.options(
            CHAT,
            headers={
                "origin": PAGE,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type",
                "access-control-request-private-network": "true",
                "sec-fetch-site": "cross-site",
            },
        )
        assert preflight.status_code == 204
        allowed = preflight.headers
        assert allowed["access-control-allow-origin"] == PAGE
        assert "authorization" in allowed["access-control-allow-headers"]
        assert "POST" in allowed["access-control-allow-methods"]
        assert allowed["access-control-allow-private-network"] == "true"
        assert "access-control-allow-credentials" not in allowed
        for path in (CHAT, "/api/chat"):
            answer = await doors.post(path, ASK, origin=PAGE, sec_fetch_site="cross-site")
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["vary"] == "Origin"
            assert "x-served-by" in answer.headers["access-control-expose-headers"]
            assert answer.headers["x-served-by"] == PEER


async def test_errors_can_be_read_by_such_a_page() -> None:
    """A refusal carries the headers too, else a page could not say what went wrong."""
    async with serving_models(origins=[PAGE]) as doors:
        answer = await doors.post(CHAT, {}, origin=PAGE)
        assert answer.status_code == 400
        assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "*"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": PAGE, "host": "evil.example"},
    ],
)
async def test_other_pages_get_nothing(headers: dict[str, str]) -> None:
    """A page that was not named, or one behind a name of its own for this machine, is refused."""
    async with serving_models(origins=[PAGE]) as doors:
        answer = await doors.post(CHAT, ASK, **headers)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        preflight = await doors.client.options(
            CHAT, headers=sent | {"access-control-request-method": "POST"}
        )
        assert preflight.status_code == 403
        assert doors.engine.asked == []


async def test_two_origins_are_none() -> None:
    """A request with two origins could be read in two ways, and is refused."""
    async with serving_models(origins=[PAGE]) as doors:
        answer = await doors.client.post(
            CHAT, json=ASK, headers=[("origin", PAGE), ("origin", "https://evil.example")]
        )
        assert answer.status_code == 403


async def test_a_named_page_gets_the_doors_for_models_only() -> None:
    """Everything else on loopback stays closed to it, preflights included."""
    async with serving_models(origins=[PAGE]) as doors:
        for path in ("/health", "/control/v1/status", "/ipfs/x", "/allod/v1/have/x", "/"):
            answer = await doors.get(path, origin=PAGE)
            assert answer.status_code == 403
            preflight = await doors.client.options(
                path, headers={"origin": PAGE, "access-control-request-method": "GET"}
            )
            assert preflight.status_code == 403


async def test_no_page_no_headers() -> None:
    """Programs that are no browser see nothing of all this."""
    async with serving_models(origins=[PAGE]) as doors:
        answer = await doors.post(CHAT, ASK)
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert (await doors.client.options(CHAT)).status_code == 405
