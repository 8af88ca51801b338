"""What the node writes down, and what it never does."""

import json
import logging
import sys
from pathlib import Path

import httpx

from node.logs import log_layout
from tests.network.people import Person

PROMPT = "the prompt that nobody else may read"
WRONG = "sk-a-token-that-is-not-good-here"


def record(message: str, *, trace: bool = False) -> logging.LogRecord:
    """Make a record as a logger would."""
    found = None
    if trace:
        try:
            raise ValueError("broken")
        except ValueError:
            found = sys.exc_info()
    return logging.LogRecord("p2p.host", logging.WARNING, "f", 1, message, (), found)


def test_a_json_log_has_one_object_a_line() -> None:
    """Time, level, logger, message; a message of several lines, or from a stranger, is one line."""
    line = log_layout("json").format(record('two\nlines and a "quote" \u2028'))
    assert len(line.splitlines()) == 1
    found = json.loads(line)
    assert found["time"].endswith("Z")
    assert (found["level"], found["logger"]) == ("warning", "p2p.host")
    assert found["message"] == 'two\nlines and a "quote" \u2028'
    traced = json.loads(log_layout("json").format(record("x", trace=True)))
    assert "ValueError: broken" in traced["trace"]


def test_a_text_log_is_for_people() -> None:
    """The usual line."""
    assert (
        log_layout("text").format(record("a peer left")).endswith("WARNING p2p.host: a peer left")
    )


async def test_no_secret_is_in_the_log(tmp_path: Path) -> None:
    """At level debug: no token, no prompt, no secret key, of neither good nor bad requests."""
    alice = Person(tmp_path / "alice")
    await alice.run("key", "new", "alice")
    config = ("-c", "log.level=debug", "-c", "log.format=json", "-c", "serve.auth=token")
    async with alice.start(*config, "up") as node:
        http = (await node.answer())["http"]
        token = (await alice.run("token", "new", "bob"))["token"]
        await alice.run("doctor")
        question = {"model": "none/such", "messages": [{"role": "user", "content": PROMPT}]}
        async with httpx.AsyncClient(timeout=60) as client:
            for bearer in (token, WRONG):
                for path in ("/v1/chat/completions", "/api/chat", f"/{WRONG}", "/control/v1/ls"):
                    answer = await client.post(
                        http + path, json=question, headers={"Authorization": f"Bearer {bearer}"}
                    )
                    assert answer.status_code >= 400
        control = (alice.home / "run" / "control.token").read_text().strip()
        assert await node.stop() == 0
    written = (alice.home / "logs" / "allod.log").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert lines[-1]["message"] == "stopped in order"
    keys = [file.read_text().splitlines()[1] for file in (alice.home / "keys").rglob("*.key")]
    assert len(keys) == 4
    for secret in (PROMPT, token, WRONG, control, *keys):
        assert secret not in written
        assert secret not in "\n".join(node.logged)
