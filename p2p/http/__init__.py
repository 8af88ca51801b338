"""HTTP/1.1 over any trio byte stream: the one protocol that nodes speak to each other.

Knows requests, responses, bounds and time-outs; must not know libp2p, CIDs or the store.
The same server and client run over a libp2p stream, a TLS connection and loopback.

- ``messages``: Request, Response, FileBody, LiveBody, ByteStream, every limit with its reason
- ``byterange``: the Range and Content-Range headers (pure)
- ``server``: ``serve_http``: one stream, one handler, keep-alive, bodies where they are wanted
- ``outlet``: what a server sends
- ``client``: ``HttpClient``: one request at a time over one stream, bodies uncopied

h11 parses every head and every chunked body.
A body whose length is known never passes through a parser: it is counted, not copied.
"""

from p2p.http.byterange import (
    content_range,
    parse_content_range,
    parse_range,
)
from p2p.http.client import ClientResponse, HttpClient
from p2p.http.messages import (
    MAX_BODY,
    Bodies,
    ByteStream,
    FileBody,
    Handler,
    HttpLimits,
    LiveBody,
    Request,
    Response,
    Send,
    Start,
)
from p2p.http.outlet import error_response
from p2p.http.server import serve_http

__all__ = [
    "MAX_BODY",
    "Bodies",
    "ByteStream",
    "ClientResponse",
    "FileBody",
    "Handler",
    "HttpClient",
    "HttpLimits",
    "LiveBody",
    "Request",
    "Response",
    "Send",
    "Start",
    "content_range",
    "error_response",
    "parse_content_range",
    "parse_range",
    "serve_http",
]
