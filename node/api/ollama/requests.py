"""What an Ollama client asks, made into what an engine takes.

Ollama's own knobs of memory and hardware are the owner's here (``serve.*``) and passed over, as
Ollama passes over options that it doesn't know. A template, an adapter or a picture is refused.
An engine is always asked for a stream; whether the client gets one is the form's business. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

from node.api.ollama.lines import Embedded, Lines, Loaded, Voice
from node.api.ollama.talk import PICTURES, read_talk
from node.api.openai import messages as chat
from node.api.openai.errors import declined
from node.api.openai.fields import (
    MAX_NAME,
    Check,
    flag,
    items,
    mapping,
    must,
    schema,
    take,
    text,
    whole,
    wrong,
)
from node.api.openai.forms import Opening, Whole
from node.api.openai.requests import KNOBS, MAX_INPUTS, MAX_TOKENS, Asked, asks_beside
from node.inference import Capability

LATEST: Final = ":latest"
"""What Ollama's clients put behind a name that has no tag."""


def _anything(value: object, param: str) -> object:
    return value


def _format(value: object, param: str) -> dict[str, Any] | None:
    if value == "":
        return None
    if value == "json":
        return {"type": "json_object"}
    if not isinstance(value, dict):
        raise wrong(param, "'json' or a JSON schema")
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema(value, param)},
    }


OPTIONS: Final[Mapping[str, Check]] = {**KNOBS, "num_predict": whole(-2, MAX_TOKENS)}
"""The ``options`` that an engine hears of."""

COMMON: Final[Mapping[str, Check]] = {
    "format": _format,
    "keep_alive": _anything,
    "model": text(MAX_NAME),
    "name": text(MAX_NAME),
    "options": mapping,
    "stream": flag,
    "think": _anything,
}

CHAT: Final[Mapping[str, Check]] = {
    **COMMON,
    "messages": _anything,
    "tools": _anything,
}
"""The fields of ``/api/chat``."""

GENERATE: Final[Mapping[str, Check]] = {
    **COMMON,
    "prompt": text(),
    "raw": flag,
    "system": text(),
}
"""The fields of ``/api/generate``."""

EMBED: Final[Mapping[str, Check]] = {
    "input": _anything,
    "keep_alive": _anything,
    "model": text(MAX_NAME),
    "options": mapping,
    "prompt": text(),
    "truncate": flag,
}
"""The fields of ``/api/embed`` and ``/api/embeddings``."""

REFUSED: Final[Mapping[str, str]] = {
    "adapters": "A model is served as it was published, without adapters.",
    "context": "This node keeps no contexts: send the talk as messages to /api/chat.",
    "dimensions": "Models here give vectors of one length.",
    "images": PICTURES,
    "logprobs": "Odds of tokens are in /v1/chat/completions only.",
    "suffix": "Engines here go on from the end of the prompt only.",
    "template": "A model is asked with the template that it was published with.",
    "top_logprobs": "Odds of tokens are in /v1/chat/completions only.",
}
"""Known fields that cannot be honoured, and why; what is empty passes."""


def _taken(raw: Mapping[str, Any], table: Mapping[str, Check]) -> dict[str, Any]:
    said = {name: value for name, value in raw.items() if name not in REFUSED or value}
    return take(said, table, refused=REFUSED)


def plain_name(found: Mapping[str, Any]) -> str:
    """Return the model's name, without the tag that Ollama's clients put behind it."""
    name: str = found["name"] if "name" in found and "model" not in found else must(found, "model")
    return name.removesuffix(LATEST)


def read_chat(raw: Mapping[str, Any]) -> Asked:
    """Check a request for a chat."""
    found = _taken(raw, CHAT)
    if found.get("messages", []) == []:
        return _load(found, Voice("message"))
    talk = read_talk(found["messages"])
    tools = chat.toolbox(found.get("tools"), None)
    fields = _options(found) | {"messages": talk} | tools.fields()
    needs: set[Capability] = {"chat"}
    if "tools" in fields or chat.uses_tools(talk):
        needs.add("tools")
    return _asked(found, fields, needs, chat.prompts(talk), Voice("message"))


def read_generate(raw: Mapping[str, Any]) -> Asked:
    """Check a request for the answer to one prompt."""
    found = _taken(raw, GENERATE)
    prompt = found.get("prompt", "")
    if not prompt:
        return _load(found, Voice("response"))
    if found.get("raw", False):
        if "system" in found or found.get("format") is not None:
            raise wrong("raw", "false where there is a system message or a format")
        fields = _options(found) | {"prompt": prompt}
        return _asked(found, fields, {"completions"}, (prompt,), Voice("response"))
    talk = [{"role": "user", "content": prompt}]
    if found.get("system"):
        talk.insert(0, {"role": "system", "content": found["system"]})
    fields = _options(found) | {"messages": talk}
    return _asked(found, fields, {"chat"}, chat.prompts(talk), Voice("response"))


def read_embed(raw: Mapping[str, Any]) -> Asked:
    """Check a request for embeddings of one text or several."""
    found = _taken(raw, EMBED)
    given = must(found, "input")
    texts = [given] if isinstance(given, str) else items(given, "input", MAX_INPUTS)
    return _embed(found, texts, one=False)


def read_embeddings(raw: Mapping[str, Any]) -> Asked:
    """Check a request for the embedding of one text, as older clients ask it."""
    found = _taken(raw, EMBED)
    return _embed(found, [must(found, "prompt")], one=True)


def _embed(found: Mapping[str, Any], texts: list[Any], *, one: bool) -> Asked:
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise wrong("input", "text, or a list of texts, none of them empty")
    name = must(found, "model")
    return Asked(
        model=plain_name(found),
        endpoint="embeddings",
        fields={"input": texts, "encoding_format": "float"},
        form=lambda opening: Whole(opening, Embedded(name, one)),
        needs=frozenset({"embeddings"}),
        prompts=("\n".join(texts),),
    )


def _asked(
    found: Mapping[str, Any],
    fields: dict[str, Any],
    needs: set[Capability],
    prompts: tuple[str, ...],
    voice: Voice,
) -> Asked:
    if found.get("format") is not None:
        fields["response_format"] = found["format"]
        needs.add("json_schema")
    name, stream = plain_name(found), found.get("stream", True)
    shown = found.get("model", name)

    def form(opening: Opening) -> Lines:
        return Lines(opening, voice, shown, stream=stream)

    return Asked(
        model=name,
        endpoint="completions" if "prompt" in fields else "chat/completions",
        fields=fields,
        form=form,
        needs=frozenset(needs),
        stream=True,
        prompts=(*prompts, *asks_beside(fields)),
    )


def _load(found: Mapping[str, Any], voice: Voice) -> Asked:
    """Nothing is asked: the client wants the model to be loaded, so one token is made."""
    if found.get("keep_alive") in (0, "0", "0s", "0m"):
        raise declined(
            "unsupported_parameter",
            "A client does not unload models here: they go when they are idle, or by `allod stop`.",
            "keep_alive",
        )
    name = plain_name(found)
    shown = found.get("model", name)
    return Asked(
        model=name,
        endpoint="chat/completions",
        fields={"messages": [{"role": "user", "content": "."}], "max_tokens": 1},
        form=lambda opening: Loaded(opening, voice, shown),
        needs=frozenset({"chat"}),
        stream=True,
    )


def _options(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that an engine hears of, by the names that it knows."""
    given = found.get("options", {})
    fields = {
        name: OPTIONS[name](value, f"options.{name}")
        for name, value in given.items()
        if name in OPTIONS and value is not None
    }
    if fields.get("stop") == []:
        del fields["stop"]
    most = fields.pop("num_predict", -1)
    if most > 0:
        fields["max_tokens"] = most
    return fields
