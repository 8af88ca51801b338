"""The door for Ollama's clients: the same models by Ollama's own requests.

requests    chat and generate, made into what an engine takes; pure
talk        the messages of a chat, and the tools that they call; pure
lines       an engine's answer as Ollama's lines of JSON; pure
models      what is served, as Ollama lists it; pure
routes      which path is which
"""

from node.api.ollama.routes import ollama_routes

__all__ = ["ollama_routes"]
