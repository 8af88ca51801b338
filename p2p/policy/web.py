"""Which web servers may be asked for the files of a release that names them.

The names of hosts are compared as they are written in URLs: lower case, no dot at the end, names
with other letters in their ASCII form. A pattern ``*.example.org`` matches every name below
``example.org``, however deep, and not ``example.org`` itself.

Pure. Specification: docs/reference/policy.md, "Web seeds".
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

HUB_HOSTS: Final = ("huggingface.co", "*.huggingface.co", "*.hf.co")
"""The Hugging Face Hub, and the servers of large files to which it redirects.

They are those of https://huggingface.co/.well-known/meta.json; the Hub asks not to fix single
names of them, which change.
"""
HTTPS: Final = 443

_LABEL: Final = "[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NAME: Final = rf"{_LABEL}(?:\.{_LABEL}){{0,30}}"
_PATTERN: Final = re.compile(rf"(?:\*\.)?{_NAME}")
_LOCAL: Final = re.compile(rf"({_NAME}|\[[0-9a-f:.]{{2,45}}\])(?::([0-9]{{1,5}}))?")


@dataclass(frozen=True, slots=True)
class Web:
    """What a policy says of web seeds.

    ``hosts``: patterns of servers with public addresses. ``local_hosts``: servers, as host:port,
    that may have any address, by the owner's own word.
    """

    seeds: Literal["allow", "never"] = "allow"
    hosts: tuple[str, ...] = HUB_HOSTS
    local_hosts: tuple[str, ...] = ()

    def allows(self, host: str) -> bool:
        """Say whether a server may be asked, if its addresses are public."""
        return any(
            host.endswith(one[1:]) if one.startswith("*.") else host == one for one in self.hosts
        )

    def is_local(self, host: str, port: int) -> bool:
        """Say whether the owner named this very server, wherever it is."""
        return f"{host}:{port}" in self.local_hosts


def check_host(text: str) -> str:
    """Return a name or pattern of ``hosts``; ``ValueError`` for what is none."""
    if len(text) > 253 or _PATTERN.fullmatch(text.lower()) is None:
        raise ValueError
    return text.lower()


def check_local_host(text: str) -> str:
    """Return a server of ``local_hosts`` as host:port; ``ValueError`` for what is none."""
    found = _LOCAL.fullmatch(text.lower())
    if found is None or len(text) > 253 or not 0 < (port := int(found[2] or HTTPS)) < 1 << 16:
        raise ValueError
    return f"{found[1]}:{port}"
