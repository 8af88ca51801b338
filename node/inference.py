"""What the doors ask of a model, and what they get: the words between doors, engines and peers.

A door (api/openai, api/ollama, or a peer's request) makes a ``Call`` of what a client sent,
checked and with nothing in it that was not asked for. ``Inference`` finds the served release that
the client means, and whoever can answer: an engine of this node, or a peer that serves the very
same manifest. The ``Answer`` is the engine's own bytes as they come.

Pure data and one Protocol: knows no engine, socket or database.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from p2p.cid import CID

Endpoint = Literal["chat/completions", "completions", "embeddings", "responses"]
"""What follows ``/v1/`` in the path of a request; an engine has the same paths."""

Capability = Literal[
    "chat", "completions", "embeddings", "responses", "tools", "json_schema", "logprobs", "choices"
]
"""What an engine can do with a model: an endpoint, or a field of a request that it honours.

choices: several answers at once (``n``)."""

State = Literal["cold", "loading", "ready", "failed", "remote"]
"""cold: it is loaded when somebody asks. remote: only peers answer, its files are not here."""


@dataclass(frozen=True, slots=True)
class Served:
    """A release that is served, as a door shows it."""

    name: str
    """What clients call it: alice/tiny."""
    aliases: tuple[str, ...]
    """Other names that mean it: its manifest CID, alice/tiny@1.0.0, <publisher id>/tiny."""
    manifest: CID
    """The digest that every answer names."""
    publisher: str
    """The publisher's id."""
    created: int
    """When the release was made, Unix seconds."""
    size: int
    """Bytes of its weights."""
    capabilities: frozenset[Capability]
    context: int
    """Tokens of one request, prompt and answer together; 0 where nobody knows yet."""
    architecture: str = ""
    """As GGUF names it: llama, qwen2, bert."""
    format: str = ""
    """gguf or safetensors."""
    quantization: str = ""
    """Q4_1, BF16; empty where nobody knows."""
    parameters: int = 0
    template: str = ""
    """Its chat template, where it has one."""
    license: str = ""
    """SPDX."""
    state: State = "cold"
    engine: str = ""
    """The engine that runs it, or would."""
    memory: int = 0
    """Bytes that it takes, or is estimated to take."""
    until: float = 0.0
    """Unix time at which it is unloaded if nobody asks; 0: not loaded, or for good."""
    shared: bool = False
    """Peers whom the owner named may ask it."""
    via_peers: bool = False
    """Peers may answer in this node's place, and so see the prompt."""


def _nobody() -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model: ``body`` is its JSON object, as an engine is to get it."""

    endpoint: Endpoint
    body: bytes
    stream: bool
    """Whether the answer is a stream of server-sent events."""
    may_leave: bool = False
    """Whether a peer may see it: the token that came with it allows that."""
    needs: frozenset[Capability] = field(default_factory=frozenset)
    """What the engine must be able to do."""
    handed: Callable[[], None] = field(default=_nobody, repr=False, compare=False)
    """Is called when the request goes to whoever answers: from then on it takes their time."""


@dataclass(slots=True)
class Answer:
    """What came back. ``body`` yields the answer's bytes as they come; it is read at most once."""

    status: int
    """HTTP status: 200, or an error whose body is in OpenAI's shape."""
    content_type: str
    """application/json or text/event-stream."""
    body: AsyncIterator[bytes]
    served_by: str
    """The peer id of the node whose engine answers."""


class Inference(Protocol):
    """Whoever can answer for models; the doors know nothing else."""

    @property
    def peer_id(self) -> str:
        """This node's peer id."""

    def served(self) -> Sequence[Served]:
        """All models that can be asked, by name."""

    def find(self, name: str) -> Served:
        """The model that a client means by ``name``; ``NotFound`` with what there is."""

    def ask(self, model: Served, call: Call) -> AbstractAsyncContextManager[Answer]:
        """Have ``call`` answered; leaving the block frees the slot, whatever has been read.

        It waits for a slot, and loads the model if need be. Raises before the first byte only:
        ``Busy`` (with ``retry_after``), ``NoMemory``, ``Refused`` by the policy, ``Unsupported``,
        ``EngineError``. What goes wrong later, the body raises: ``EngineError`` or ``PeerFault``.
        """


class Load(Protocol):
    """How busy a model is; ``down``: its engine has just failed, and is not back yet."""

    @property
    def slots(self) -> int: ...
    @property
    def busy(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def down(self) -> bool: ...


class Local(Inference, Protocol):
    """This node's own engines; never one that asks peers."""

    def load(self, name: str) -> Load:
        """Say how busy a model is. ``NotFound``."""
