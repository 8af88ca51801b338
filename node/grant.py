"""What a token is to be good for, and what a token looks like.

Pure but for the randomness of a new token. Knows no ledger and no clock.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

from p2p.errors import UsageError

PREFIX: Final = "allod-"
"""What a token begins with: it is told from other keys, and found by scanners of secrets."""
MAX_MODELS: Final = 64
"""Patterns of one token, all of which are tried for each request."""
MAX_RPM: Final = 10_000
"""Requests a minute: far more than one machine answers, and each is remembered for a minute."""
MAX_TPD: Final = 10**12
"""Tokens a day: more than any machine makes, and JSON's numbers are exact."""
RESERVED: Final = "local"
"""What use without a token goes under; no token is called so."""

_TOKEN: Final = re.compile(f"{PREFIX}[A-Za-z0-9_-]{{43}}")
_NAME: Final = re.compile("[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,62}[A-Za-z0-9_])?")
_ID: Final = re.compile("[0-9a-f]{12}")  # of 48 random bits, so that none comes twice
_PATTERN: Final = re.compile("[!-~]{1,256}")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a new token is to be good for; ``expires`` in seconds from now, None: for ever."""

    name: str = ""
    models: tuple[str, ...] = ()
    rpm: int | None = None
    tpd: int | None = None
    expires: float | None = None
    via_peers: bool = False


def new_id() -> str:
    """Return an id for a token that no other has."""
    return secrets.token_hex(6)


def is_id(text: str) -> bool:
    """Say whether this is the id of a token, and not another account's."""
    return _ID.fullmatch(text) is not None


def new_secret() -> str:
    """Return a token: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> bytes | None:
    """Return what is kept of a token, its SHA-256; None for what cannot be one."""
    if _TOKEN.fullmatch(secret) is None:
        return None
    return hashlib.sha256(secret.encode()).digest()


def check_grant(grant: Grant) -> None:
    """Refuse a grant that cannot be; ``UsageError`` says why."""
    if grant.name:
        _check_name(grant.name)
    if len(grant.models) > MAX_MODELS:
        raise UsageError(
            f"A token has at most {MAX_MODELS} models, but {len(grant.models)} came.",
            next="Use patterns: alice/* is every model of alice.",
        )
    for pattern in grant.models:
        if _PATTERN.fullmatch(pattern) is None:
            raise UsageError(
                f"A model is a name such as alice/tiny, or a pattern, not {pattern[:80]!r}."
            )
    for what, value, most in (("rpm", grant.rpm, MAX_RPM), ("tpd", grant.tpd, MAX_TPD)):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{what} is a number from 1 to {most}, not {value}.")


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            "A token's name has letters, digits, '.', '_', '@' and '-', at most 64, not "
            f"{name[:80]!r}."
        )
    if is_id(name) or name == RESERVED:
        raise UsageError(
            f"A token cannot be called {name}: this machine, and ids of tokens, are called so."
        )
