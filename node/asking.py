"""Asking the node's OpenAI-compatible door from the terminal: a conversation, streamed.

Uses the standard library's HTTP client, as the other commands do, so that nothing heavy is
imported. Errors of the door come out as ours.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from node.presence import find_node
from p2p.errors import AllodError, EngineError, NoNode

if TYPE_CHECKING:
    from node.config import Config

Json = dict[str, Any]

SILENCE: Final = 1200.0
"""Seconds that an answer may be silent: the node itself gives up long before."""
MAX_LINE: Final = 1 << 20
"""Bytes of one server-sent event."""
START_WITHIN: Final = 60.0
"""Seconds for a node to end when the chat does."""


class Overlong(AllodError):
    """The conversation does not fit into the model's context."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where the running node answers, and the token that its owner has."""

    host: str
    port: int
    token: str = field(repr=False)

    @classmethod
    def of(cls, config: "Config") -> "Door":
        """Find the running node's door; ``NoNode``."""
        presence = find_node(config.folders)
        if presence is None:
            raise NoNode("The node went away.", next="Start it again with `allod up`.")
        where = urlsplit(presence.http)
        token = config.token or presence.token()
        return cls(where.hostname or "127.0.0.1", where.port or 80, token)


class Conversation:
    """What was said so far. ``last``: the last answer as ``--json`` shows it."""

    def __init__(self, door: Callable[[], Door], model: str, system: str, knobs: Json) -> None:
        """``door`` is looked for at each question: the node may have started anew."""
        self._door = door
        self._model = model
        self._system = system
        self._knobs = knobs
        self._said: list[tuple[str, str]] = []
        self.last: Json = {}

    def clear(self, system: str | None = None) -> None:
        """Forget everything; ``system``: how the model is to behave from now on."""
        self._said.clear()
        self._system = self._system if system is None else system

    def forget_oldest(self) -> bool:
        """Forget the first question and its answer; False if there is none."""
        if self._said:
            del self._said[0]
            return True
        return False

    def crowded(self) -> bool:
        """Say whether the last answer was cut off because the context was full."""
        return self.last.get("finish_reason") == "length" and "max_tokens" not in self._knobs

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer as it comes, and remember both; leaving early ends the answer.

        ``Overlong``, ``EngineError``, ``NoNode``.
        """
        answer: list[str] = []
        try:
            for piece in self._stream(question):
                answer.append(piece)
                yield piece
        finally:
            if answer:
                self._said.append((question, "".join(answer)))
                self.last["answer"] = "".join(answer)

    def _stream(self, question: str) -> Iterator[str]:
        import http.client

        door = self._door()
        connection = http.client.HTTPConnection(door.host, door.port, timeout=SILENCE)
        self.last = {"model": self._model, "answer": ""}
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(self._request(question)).encode(),
                {
                    "Content-Type": "application/json",
                    "Authorization": f"Bearer {door.token}",
                },
            )
            response = connection.getresponse()
            if response.status != 200:
                raise _error(response.read(MAX_LINE))
            self.last["manifest"] = response.getheader("x-model-digest")
            self.last["served_by"] = response.getheader("x-served-by")
            while line := response.readline(MAX_LINE):
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield from self._event(json.loads(line[6:]))
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise NoNode(
                "The node went away before the answer was complete.",
                next="Start it again with `allod up`.",
            ) from exc
        finally:
            connection.close()  # the node frees the slot at once

    def _request(self, question: str) -> Json:
        messages = [{"role": "system", "content": self._system}] if self._system else []
        for asked, answered in self._said:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answered})
        messages.append({"role": "user", "content": question})
        return {
            "model": self._model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._knobs,
        }

    def _event(self, event: Json) -> Iterator[str]:
        if "error" in event:
            raise _error_of(event)
        if event.get("usage"):
            self.last["usage"] = event["usage"]
        for choice in event.get("choices") or ():
            if choice.get("finish_reason"):
                self.last["finish_reason"] = choice["finish_reason"]
            piece = (choice.get("delta") or {}).get("content")
            if piece:
                yield piece


def _error(body: bytes) -> AllodError:
    try:
        return _error_of(json.loads(body))
    except (ValueError, RecursionError):
        return EngineError("The node refused the question, and did not say why.")


def _error_of(value: Json) -> AllodError:
    error = value.get("error")
    said = error if isinstance(error, dict) else {}
    message = str(said.get("message") or "The node gave no answer.")
    kind = Overlong if said.get("code") == "context_length_exceeded" else EngineError
    return kind(message)


@contextmanager
def started_node(config: "Config") -> Iterator[None]:
    """Run a node beside this process for the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "node.cli", *_overrides(config), "up", "--json"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C ends an answer, not the node
    )  # fmt: skip
    assert process.stdout is not None
    try:
        if not process.stdout.readline().startswith(b'{"ok": true'):
            raise NoNode("No node could be started.", next="`allod up` says why.")
        yield
    finally:
        process.terminate()
        try:
            process.wait(START_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _overrides(config: "Config") -> list[str]:
    """The configuration keys that this command line sets, for the node's."""
    from node.settings import show_value

    given = [key for key, origin in config.origins.items() if origin == "on the command line"]
    return [word for key in given for word in ("-c", f"{key}={show_value(config.value(key))}")]
