"""The OpenAI-compatible door: existing clients ask the models that are served here.

fields, messages, requests    what a client may send, checked; pure
responses, items              the Responses API, made of chats; pure
errors                        what a client is told when it gets no answer; pure
events, tally, reshape        an engine's answer, read; pure
forms                         an engine's answer turned into the client's; pure
desk                          what the doors need of the node
entrance, exchange, relay     one request, from the token to the last byte
routes                        which path is which
"""

from node.api.openai.desk import Desk
from node.api.openai.routes import openai_routes

__all__ = ["Desk", "openai_routes"]
