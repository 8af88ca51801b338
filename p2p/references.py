"""References: how people name a release, and the share link that needs nobody else's help.

    alice/tiny-llm                  a publisher, by this node's petname for it or by its id
    alice/tiny-llm@1.2.0            a version of it
    alice/tiny-llm@bagaa...         exactly that one
    bagaa...                        a manifest CID alone
    allod:bagaa.../tiny-llm@bagaa...?peer=/ip4/192.0.2.1/tcp/9770/p2p/12D3KooW...&peer=...

A share link names the publisher by id, since a petname means something else on each node, and says
where to ask first.
Each reference has one spelling, which ``str`` gives; only a link without peers loses its scheme.

Pure. Knows nothing of petnames' owners, nor of whether there is such a release.
Specification: docs/explanation/formats.md, "References".
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from p2p.address import Address
from p2p.cid import CID, Codec, Hash
from p2p.errors import UsageError
from p2p.manifest import NAME, VERSION

SCHEME: Final = "allod:"
MAX_PEERS: Final = 16
"""Peers in a link: it must fit a chat message, and the first that answers is enough."""
MAX_REFERENCE: Final = 8192
"""Characters of a reference: MAX_PEERS long addresses, and no more to look at."""

PETNAME: Final = re.compile("[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
"""What a person calls a publisher; a publisher's id has this form too, and is none."""

_FORMS: Final = (
    "Write PUBLISHER/NAME, PUBLISHER/NAME@VERSION, the CID of a manifest, or a link allod:..."
)
_CID_LENGTH: Final = 41  # characters from which on a text is meant as a CID: VERSION ends before
_ID: Final = re.compile("b[a-z0-9]{40,}")  # what is meant as a publisher's id, right or wrong
_CHECK_THE_TEXT: Final = "Copy it again from where it came."


@dataclass(frozen=True, slots=True)
class Reference:
    """A release as somebody named it; what was not said is None.

    ``publisher`` is an id or a petname; ``peers`` are multiaddrs that end in ``/p2p/...``.
    """

    publisher: str | None
    name: str | None
    version: str | None
    manifest: CID | None
    peers: tuple[str, ...] = ()

    def __str__(self) -> str:
        release = str(self.manifest)
        if self.publisher is not None:
            at = self.version if self.manifest is None else str(self.manifest)
            release = f"{self.publisher}/{self.name}" + (f"@{at}" if at else "")
        if not self.peers:
            return release
        return f"{SCHEME}{release}?" + "&".join(f"peer={peer}" for peer in self.peers)


def parse_reference(text: str) -> Reference:
    """Read a reference of any form; ``UsageError`` says what is wrong with it, and where."""
    if len(text) > MAX_REFERENCE:
        raise UsageError(
            f"A reference has at most {MAX_REFERENCE} characters, this one {len(text)}."
        )
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(
            f"A reference is written in plain letters without spaces, this is {text[:80]!r}.",
            next=_FORMS,
        )
    is_link = text.startswith(SCHEME)
    release, mark, query = text.removeprefix(SCHEME).partition("?")
    if mark and not is_link:
        raise UsageError(
            f"Only a link may name peers, and a link begins with {SCHEME}", next=_FORMS
        )
    owner, slash, rest = release.partition("/")
    name, at, chosen = rest.partition("@")
    if slash:
        publisher = _publisher(owner, is_link)
        if NAME.fullmatch(name) is None:
            raise UsageError(
                f"A release's name has letters, digits, '.', '_' and '-', this is {name[:80]!r}.",
                next=_FORMS,
            )
        version, manifest = _chosen(chosen) if at else (None, None)
        reference = Reference(publisher, name, version, manifest, _peers(query) if mark else ())
    elif len(owner) >= _CID_LENGTH:
        reference = Reference(None, None, None, _manifest(owner), _peers(query) if mark else ())
    else:
        raise UsageError(f"{release[:80]!r} does not name a release.", next=_FORMS)
    if is_link and reference.manifest is None:
        raise UsageError(
            "A link names a release by the CID of its manifest, and this one does not.",
            next="Copy the whole link, or leave 'allod:' away to go by name.",
        )
    return reference


def share_link(publisher: str, name: str, manifest: CID, peers: Iterable[str]) -> str:
    """Write the link that is all a stranger needs, with the first ``MAX_PEERS`` of these peers.

    ``UsageError`` where it could not be read back.
    """
    link = str(Reference(publisher, name, None, manifest, tuple(peers)[:MAX_PEERS]))
    link = SCHEME + link.removeprefix(SCHEME)
    parse_reference(link)
    return link


def publisher_cid(publisher: str) -> CID:
    """Return a publisher's id as a CID, under which the DHT names who holds its names.

    ``UsageError`` for a text that is no id: the address of a JSON document, under BLAKE3.
    """
    wrong = UsageError(
        f"A publisher's id is the CID of its first root, bagaa..., this is {publisher[:80]!r}.",
        next=_CHECK_THE_TEXT,
    )
    try:
        cid = CID.parse(publisher)
    except UsageError as exc:
        raise wrong from exc
    if cid.codec is not Codec.JSON or cid.hash is not Hash.BLAKE3:
        raise wrong
    return cid


def _publisher(text: str, is_link: bool) -> str:
    """Return a petname or an id; what looks like an id must be one."""
    if is_link or _ID.fullmatch(text):
        publisher_cid(text)
    elif PETNAME.fullmatch(text) is None:
        raise UsageError(
            f"A publisher is a petname or an id bagaa..., this is {text[:80]!r}.", next=_FORMS
        )
    return text


def _chosen(text: str) -> tuple[str | None, CID | None]:
    """Return the version, or the manifest, that stands behind the ``@``."""
    if len(text) >= _CID_LENGTH:
        return None, _manifest(text)
    if VERSION.fullmatch(text) is None:
        raise UsageError(
            f"Behind '@' comes a version or the CID of a manifest, this is {text[:80]!r}.",
            next=_FORMS,
        )
    return text, None


def _manifest(text: str) -> CID:
    """Return the CID of a manifest."""
    cid = CID.parse(text)
    if cid.codec is not Codec.JSON:
        raise UsageError(
            f"{cid} names a {'file' if cid.codec is Codec.RAW else 'file or a folder'}, and a "
            "release is named by its manifest's CID.",
            next="A manifest's CID begins with bagaa; look at what `allod publish` printed.",
        )
    return cid


def _peers(query: str) -> tuple[str, ...]:
    """Return the peers of a link."""
    peers = []
    for field in query.split("&"):
        key, _, value = field.partition("=")
        if key != "peer":
            raise UsageError(
                f"A link holds nothing but peer=... behind '?', this is {field[:80]!r}.",
                next=_CHECK_THE_TEXT,
            )
        address = Address.parse(value)
        if address.peer is None or str(address) != value:
            raise UsageError(
                f"A peer in a link is a full address with /p2p/ at its end, like {address.at(None)}"
                f"/p2p/12D3KooW..., this is {value!r}.",
                next=_CHECK_THE_TEXT,
            )
        peers.append(value)
    if len(peers) > MAX_PEERS:
        raise UsageError(f"A link names at most {MAX_PEERS} peers, this one {len(peers)}.")
    return tuple(peers)
