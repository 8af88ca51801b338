"""What a client asks, checked: chat, completions and embeddings.

Each reader takes the JSON object that came and gives an ``Asked``: the fields that an engine is to
get and no others, what the engine must be able to do for them, and the form in which the answer
goes back. Fields that only hint (who the user is, what to cache, how hard to think) are passed
over; a field that would change the answer, and can't here, is refused by its name. Pure.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.api.openai import messages as chat
from node.api.openai.fields import (
    MAX_NAME,
    Check,
    biases,
    choice,
    flag,
    items,
    mapping,
    must,
    number,
    only,
    seed,
    stops,
    take,
    text,
    whole,
    wrong,
)
from node.api.openai.forms import Form, Opening, Relayed, Reshape, Whole
from node.api.openai.reshape import legacy_logprobs, packed, unpacked
from node.inference import Call, Capability, Endpoint

MAX_TOKENS: Final = 1 << 20
"""Tokens of an answer: more than any context."""

MAX_CHOICES: Final = 16
"""Answers to one prompt; each takes a slot of the engine."""

MAX_INPUTS: Final = 2048
"""Texts of one request for embeddings, or prompts of one for completions, as with OpenAI."""

MAX_TOKEN_ID: Final = (1 << 31) - 1
"""The largest number that a token can have."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, checked."""

    model: str
    """As the client named it."""
    endpoint: Endpoint
    """Of the engine."""
    fields: Mapping[str, Any]
    """What the engine is to get, but for the model's name."""
    form: Callable[[Opening], Form]
    """Makes what turns the engine's answer into the client's."""
    needs: frozenset[Capability]
    stream: bool = False
    prompts: tuple[str, ...] = ()
    """What a moderator is asked about."""
    opaque: bool = False
    """Part of the prompt is token numbers, which no moderator can read."""
    n: int = 1
    """Answers to each prompt."""
    choices: int = 1
    """Answers in all."""

    def call(self, model: str, may_leave: bool) -> Call:
        """Return the call of the engine's model of that name."""
        body = {"model": model, **self.fields}
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        written = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        return Call(self.endpoint, written, self.stream, may_leave, self.needs)


IGNORED: Final = frozenset(
    {
        "metadata", "prediction", "prompt_cache_key", "prompt_cache_retention",
        "prompt_cache_options", "reasoning_effort", "safety_identifier", "service_tier", "store",
        "user", "verbosity",
    }
)  # fmt: skip
"""Hints, and what only OpenAI's own house knows: an answer without them is no other answer."""

REFUSED: Final[Mapping[str, str]] = {
    "audio": "Models here take and give text only.",
    "functions": "Expected `tools`: `functions` is not taken any more.",
    "function_call": "Expected `tool_choice`: `function_call` is not taken any more.",
    "web_search_options": "This node does not search the web.",
    "moderation": "The owner of this node decides who moderates.",
    "best_of": "Engines here give each answer that they make; ask for `n`.",
    "echo": "Engines here do not repeat the prompt.",
    "suffix": "Engines here go on from the end of the prompt only.",
    "dimensions": "Models here give vectors of one length; shorten them yourself if the model "
    "was made for that.",
}
"""Known fields that cannot be honoured, and why; null, false and an empty list pass."""


def _text_only(value: object, param: str) -> object:
    return only(["text"], "Models here take and give text only.")(value, param)


def _stream_options(value: object, param: str) -> bool:
    options = mapping(value, param)
    known: Mapping[str, Check] = {"include_usage": flag, "include_obfuscation": flag}
    return bool(take(options, known).get("include_usage", False))


KNOBS: Final[Mapping[str, Check]] = {
    "frequency_penalty": number(-2, 2),
    "min_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "seed": seed,
    "stop": stops,
    "temperature": number(0, 2),
    "top_k": whole(-1, MAX_TOKEN_ID),
    "top_p": number(0, 1),
}
"""How a model chooses its words: the same fields in OpenAI's requests and in Ollama's options."""

SAMPLING: Final[Mapping[str, Check]] = {
    **KNOBS,
    "logit_bias": biases,
    "max_tokens": whole(1, MAX_TOKENS),
    "n": whole(1, MAX_CHOICES),
}
"""Fields that an engine gets as they are."""

COMMON: Final[Mapping[str, Check]] = {
    "model": text(MAX_NAME),
    "stream": flag,
    "stream_options": _stream_options,
}

CHAT: Final[Mapping[str, Check]] = {
    **COMMON,
    **SAMPLING,
    "logprobs": flag,
    "max_completion_tokens": whole(1, MAX_TOKENS),
    "messages": chat.messages,
    "modalities": _text_only,
    "parallel_tool_calls": flag,
    "response_format": chat.response_format,
    "tool_choice": lambda value, param: value,
    "tools": lambda value, param: value,
    "top_logprobs": whole(0, 20),
}
"""The fields of ``/v1/chat/completions``."""

COMPLETIONS: Final[Mapping[str, Check]] = {
    **COMMON,
    **SAMPLING,
    "logprobs": whole(0, 20),
    "prompt": lambda value, param: value,
}
"""The fields of ``/v1/completions``."""

EMBEDDINGS: Final[Mapping[str, Check]] = {
    "encoding_format": choice("float", "base64"),
    "input": lambda value, param: value,
    "model": text(MAX_NAME),
}
"""The fields of ``/v1/embeddings``."""


def read_chat(raw: Mapping[str, Any]) -> Asked:
    """Check a request for a chat."""
    found = take(raw, CHAT, ignored=IGNORED, refused=REFUSED)
    talk: list[dict[str, Any]] = must(found, "messages")
    tools = chat.toolbox(found.get("tools"), found.get("tool_choice"))
    fields = _sampling(found) | {"messages": talk} | tools.fields()
    needs: set[Capability] = {"chat"}
    if "tools" in fields:
        needs.add("tools")
        if "parallel_tool_calls" in found:
            fields["parallel_tool_calls"] = found["parallel_tool_calls"]
    if chat.uses_tools(talk):
        needs.add("tools")
    if found.get("response_format") is not None:
        fields["response_format"] = found["response_format"]
        needs.add("json_schema")
    if found.get("logprobs"):
        # none but the token's own: llama.cpp takes 0 for no odds at all
        fields |= {"logprobs": True, "top_logprobs": max(1, found.get("top_logprobs", 0))}
        needs.add("logprobs")
    elif found.get("top_logprobs"):
        raise wrong("top_logprobs", "left out where logprobs is not true")
    if found.get("n", 1) > 1:
        needs.add("choices")
    return Asked(
        model=must(found, "model"),
        endpoint="chat/completions",
        fields=fields,
        form=_relayed(found),
        needs=frozenset(needs),
        stream=found.get("stream", False),
        prompts=(*chat.prompts(talk), *asks_beside(fields)),
        n=found.get("n", 1),
        choices=found.get("n", 1),
    )


def asks_beside(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a model reads beside the messages: the tools, for a moderator."""
    return (json.dumps(fields["tools"], ensure_ascii=False),) if "tools" in fields else ()


def read_completion(raw: Mapping[str, Any]) -> Asked:
    """Check a request for the rest of a text."""
    found = take(raw, COMPLETIONS, ignored=IGNORED, refused=REFUSED)
    prompt = _inputs(must(found, "prompt"), "prompt")
    fields = _sampling(found) | {"prompt": prompt.value}
    needs: set[Capability] = {"completions"}
    if "logprobs" in found:
        fields["logprobs"] = max(1, found["logprobs"])
        needs.add("logprobs")
    if found.get("n", 1) * prompt.count > 1:
        needs.add("choices")
    return Asked(
        model=must(found, "model"),
        endpoint="completions",
        fields=fields,
        form=_relayed(found, legacy_logprobs if "logprobs" in found else None),
        needs=frozenset(needs),
        stream=found.get("stream", False),
        prompts=prompt.texts,
        opaque=prompt.opaque,
        n=found.get("n", 1),
        choices=found.get("n", 1) * prompt.count,
    )


def read_embeddings(raw: Mapping[str, Any]) -> Asked:
    """Check a request for embeddings."""
    found = take(raw, EMBEDDINGS, ignored=IGNORED, refused=REFUSED)
    given = _inputs(must(found, "input"), "input")
    if not all(one.strip() for one in given.texts):
        raise wrong("input", "text, or a list of texts, none of them empty")
    form = found.get("encoding_format", "float")
    fields = {"input": given.value, "encoding_format": form}
    return Asked(
        model=must(found, "model"),
        endpoint="embeddings",
        fields=fields,
        form=lambda opening: Whole(opening, packed if form == "base64" else unpacked),
        needs=frozenset({"embeddings"}),
        prompts=("\n".join(given.texts),),
        opaque=given.opaque,
    )


def _sampling(found: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: found[name] for name in SAMPLING if found.get(name, []) != []}
    if "max_completion_tokens" in found:
        fields["max_tokens"] = found["max_completion_tokens"]
    return fields


def _relayed(found: Mapping[str, Any], reshape: Reshape | None = None) -> Callable[[Opening], Form]:
    if found.get("stream", False):
        wants = found.get("stream_options", False)
        return lambda opening: Relayed(opening, wants_usage=wants, reshape=reshape)
    if "stream_options" in found:
        raise wrong("stream_options", "left out where stream is not true")
    return lambda opening: Whole(opening, reshape)


@dataclass(frozen=True, slots=True)
class _Inputs:
    value: Any
    texts: tuple[str, ...]
    count: int
    opaque: bool


def _inputs(value: object, param: str) -> _Inputs:
    """Check a text, a list of texts, the tokens of a text, or a list of those."""
    if isinstance(value, str):
        return _Inputs(value, (value,), 1, False)
    entries = items(value, param, MAX_TOKENS)
    if all(isinstance(one, str) for one in entries) and len(entries) <= MAX_INPUTS:
        return _Inputs(entries, tuple(entries), len(entries), False)
    if _are_tokens(entries):
        return _Inputs(entries, (), 1, True)
    if len(entries) <= MAX_INPUTS and all(
        isinstance(one, list) and one and _are_tokens(one) for one in entries
    ):
        return _Inputs(entries, (), len(entries), True)
    raise wrong(
        param, f"text, a list of at most {MAX_INPUTS} texts, token numbers, or a list of those"
    )


def _are_tokens(values: list[Any]) -> bool:
    return all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= MAX_TOKEN_ID
        for one in values
    )
