"""What is served, as Ollama's clients list it. Pure."""

from typing import Any, Final

from node.api.ollama.lines import moment
from node.api.ollama.requests import LATEST
from node.inference import Served

FOR_EVER: Final = 9_999_999_999.0
"""When a model that stays loaded is unloaded: the year 2286."""


def tagged(name: str) -> str:
    """Return a name with a tag, as Ollama's clients expect each to have."""
    return name if ":" in name else name + LATEST


def listed(model: Served) -> dict[str, Any]:
    """Return a model as ``/api/tags`` shows it."""
    name = tagged(model.name)
    return {
        "name": name,
        "model": name,
        "modified_at": moment(model.created),
        "size": model.size,
        "digest": str(model.manifest),
        "details": details(model),
    }


def running(model: Served) -> dict[str, Any]:
    """Return a loaded model as ``/api/ps`` shows it."""
    name = tagged(model.name)
    return {
        "name": name,
        "model": name,
        "size": model.memory or model.size,
        "digest": str(model.manifest),
        "details": details(model),
        "expires_at": moment(model.until or FOR_EVER),
        "size_vram": 0,
        "context_length": model.context,
    }


def shown(model: Served) -> dict[str, Any]:
    """Return a model as ``/api/show`` shows it."""
    able = [("completion", {"chat", "completions"}), ("tools", {"tools"})]
    able.append(("embedding", {"embeddings"}))
    architecture = model.architecture or "unknown"
    return {
        "license": model.license,
        "modelfile": f"# Served by Allod under the name {model.name}.\nFROM {model.manifest}\n",
        "parameters": "",
        "template": model.template,
        "details": details(model),
        "model_info": {
            "general.architecture": architecture,
            "general.parameter_count": model.parameters,
            f"{architecture}.context_length": model.context,
        },
        "capabilities": [name for name, needed in able if needed & model.capabilities],
        "modified_at": moment(model.created),
    }


def details(model: Served) -> dict[str, Any]:
    """Return what a model is made of."""
    return {
        "parent_model": "",
        "format": model.format,
        "family": model.architecture,
        "families": [model.architecture] if model.architecture else [],
        "parameter_size": short_count(model.parameters),
        "quantization_level": model.quantization,
    }


def short_count(parameters: int) -> str:
    """Write a number of parameters as people say it: 134.52M, 8.03B; nothing if nobody knows."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= size:
            return f"{parameters / size:.2f}{letter}"
    return str(parameters) if parameters else ""
