"""Web servers as sources: plain HTTPS servers that a release names and that answer ranges.

A publisher named the server, and a stranger runs it, so it is trusted with nothing: neither with
the bytes, which are verified like everybody's, nor with where this node connects to.

- ``url``: which addresses may be asked, on the web and on the network (pure)
- ``dial``: one TLS connection, to exactly the address that was checked
- ``source``: ``WebSource``, one server with the folders that hold the files of a release

Nothing of this node or its user goes there but the request itself: no cookies, credentials or
referer, and no proxy of the environment is used.
Specification: docs/explanation/formats.md, the field webSeeds; docs/reference/policy.md.
"""

from p2p.web.source import ABSENT, WebSource
from p2p.web.url import Url, read_base

__all__ = ["ABSENT", "Url", "WebSource", "read_base"]
