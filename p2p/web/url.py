"""Where a web seed may lead: https only, allowed hosts only, public addresses only.

A release names the first URL and a stranger's server every further one, so each is read strictly
and checked before anybody is asked its address, and each address before it is connected to.
What is refused raises NoSources: nothing at that server will be better a moment later.

Pure.
"""

import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import quote, urljoin

from p2p.errors import NoSources
from p2p.policy.web import HTTPS, Web

MAX_URL: Final = 8192
"""Characters of a URL: signed ones of the Hub's servers have some 1,500."""

_URL: Final = re.compile(
    r"https://([a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?"
    r"(?=[/?]|$)([!-~]*)",
    re.IGNORECASE,
)
_GLOBAL: Final = IPv6Network("2000::/3")  # of IPv6 nothing else is given out yet
_NAT64: Final = IPv6Network("64:ff9b::/96")  # IPv4 through a translator: RFC 6052


@dataclass(frozen=True, slots=True)
class Url:
    """An https URL; ``target`` is what stands in the request: path and query."""

    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """Scheme and server, by which a person knows it."""
        return f"https://{self.authority}"

    @property
    def authority(self) -> str:
        """The Host header: the port stands there when it is not the usual one."""
        return self.host if self.port == HTTPS else f"{self.host}:{self.port}"

    def file(self, path: str) -> "Url":
        """Return the URL of a file in this folder."""
        return replace(self, target=self.target + quote(path, safe="/"))

    def __str__(self) -> str:
        return self.origin + self.target


def read_url(text: str) -> Url:
    """Read an https URL without a user in it; NoSources for anything else."""
    bare = text.partition("#")[0]
    found = _URL.fullmatch(bare) if len(bare) <= MAX_URL else None
    port = int(found[2] or HTTPS) if found else 0
    if found is None or not 0 < port < 1 << 16:
        scheme = text.partition(":")[0][:20]
        if re.fullmatch(r"[a-z]{1,20}", scheme, re.IGNORECASE) and scheme.lower() != "https":
            raise NoSources(f"Expected an https address, came one of {scheme}.")
        raise NoSources(f"Expected an https address, came {_shown(text)!r}.")
    target = found[3] if found[3].startswith("/") else f"/{found[3]}"
    return Url(found[1].lower(), port, target)


def read_base(text: str) -> Url:
    """Read the URL of a folder: no query, a slash at the end; NoSources for anything else."""
    url = read_url(text)
    if "?" in url.target or "#" in text:
        raise NoSources(f"Expected the address of a folder, came {_shown(text)!r}.")
    return url if url.target.endswith("/") else replace(url, target=f"{url.target}/")


def read_redirect(current: Url, location: str | None) -> Url:
    """Return where a redirect leads; NoSources for what no node goes to."""
    if not location or len(location) > MAX_URL:
        raise NoSources("Expected where to go, came a redirect to nowhere.")
    try:
        return read_url(urljoin(str(current), location.strip()))
    except ValueError as exc:
        raise NoSources(f"Expected an https address, came {_shown(location)!r}.") from exc


def check_hop(url: Url, web: Web, base: Url | None = None) -> bool:
    """Say whether a URL's server may have a private address; NoSources if it may not be asked.

    ``base``: what the release named, where ``url`` is what that redirected to: no redirect leads
    from the public network into the private one, or to another port than the usual one.
    """
    if web.seeds == "never":
        raise NoSources("The policy has no web server asked (web.seeds).")
    local = web.is_local(url.host, url.port)
    if local and (base is None or web.is_local(base.host, base.port)):
        return True
    if not web.allows(url.host):
        raise NoSources(f"{url.authority} is not one of the web.hosts of the policy.")
    if base is not None and url.port not in (HTTPS, base.port if url.host == base.host else HTTPS):
        raise NoSources(f"A redirect leads to {url.authority}, which is not the usual port.")
    return False


def check_address(address: str, host: str) -> None:
    """Raise NoSources for an address that is not on the public internet."""
    try:
        public = _public(ip_address(address))
    except ValueError:
        public = False
    if not public:
        raise NoSources(
            f"{host} has the address {address}, which is not a public one.",
            next="If you know that server, name it in web.local_hosts of policy.toml.",
        )


def _public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _public(inner)
        if address not in _GLOBAL:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _shown(text: str) -> str:
    """A stranger's text, short and printable."""
    return "".join(one if one.isprintable() else "?" for one in text[:100])
