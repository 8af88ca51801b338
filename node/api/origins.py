"""Which web pages of other sites may use the doors for models, and how a browser is told (CORS).

The owner names origins (``serve.origins``); a page of one of them may ask what is under ``/v1/``
and ``/api/``, and nothing else: no page ever reaches the control API or the store. A browser's
preflight is answered here, and only to such a page. Pure but for making a response.
"""

from collections.abc import Iterable
from typing import Final

from starlette.responses import Response

PATHS: Final = ("/v1/", "/api/")
"""Where the doors for models are."""

NOT_PATHS: Final = ("/api/models", "/api/datasets")
"""What clients of the Hub ask: it tells what is held, and is for programs of this machine."""

METHODS: Final = "GET, HEAD, POST, OPTIONS"

EXPOSED: Final = (
    "x-model-digest, x-model-publisher, x-served-by, x-request-id, x-receipt-id, retry-after"
)
"""Headers of an answer that a page may read."""

PREFLIGHT_AGE: Final = 600
"""Seconds for which a browser need not ask again."""

MAX_ASKED: Final = 1024
"""Characters of the list of headers that a page wants to send; SDKs send some ten."""


class Origins:
    """The pages that the owner lets in."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        named = {one.strip().rstrip("/").lower() for one in origins}
        # "null" is what every sandboxed page calls itself, and a star would be all of the web.
        self._origins = frozenset(named - {"", "*", "null"})

    def allows(self, origin: str, path: str) -> bool:
        """Say whether a page of that origin may ask that path."""
        known = origin.lower() in self._origins
        return known and path.startswith(PATHS) and not path.startswith(NOT_PATHS)

    @staticmethod
    def preflight(origin: str, asked: str, private: bool) -> Response:
        """Answer a browser that asks whether the page may; ``asked``: headers it wants to send.

        ``private``: it asks, too, whether a page from the internet may reach this machine.
        """
        headers = {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": METHODS,
            "access-control-max-age": str(PREFLIGHT_AGE),
            "vary": "Origin",
        }
        if asked and len(asked) <= MAX_ASKED:
            headers["access-control-allow-headers"] = asked
        if private:
            headers["access-control-allow-private-network"] = "true"
        return Response(status_code=204, headers=headers)

    @staticmethod
    def headers(origin: str) -> list[tuple[bytes, bytes]]:
        """Return what an answer to such a page carries."""
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", EXPOSED.encode()),
            (b"vary", b"Origin"),
        ]
