"""The small verbs on tokens and usage: each function is one operation's body.

They work on the accounts of the node that runs, so that what they change holds at once; where none
runs they open the ledger for as long as they need it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from node.accounts import Accounts, day_text, open_accounts, time_text
from node.config import Config
from node.grant import Grant
from node.kinds import TIME
from node.ledger import MAX_ROWS, Token
from node.messages import TokenNewParams, UsageParams
from p2p.errors import UsageError

MAX_DAYS: Final = 36_500
"""Days that a question about usage goes back: a hundred years, and no date before the year 1."""

_DAY: Final = 86_400

Json = dict[str, Any]


class TokenNode(Protocol):
    """What the operations need of a node; no ``accounts`` where none runs."""

    @property
    def config(self) -> Config: ...
    @property
    def accounts(self) -> Accounts | None: ...


async def new_token(node: TokenNode, params: TokenNewParams) -> Json:
    """Make a token; the result is the only place where it is ever shown."""
    grant = Grant(
        name=params.name,
        models=params.models,
        rpm=params.rpm,
        tpd=params.tpd,
        expires=_seconds(params.expires),
        via_peers=params.via_peers,
    )
    async with _accounts(node) as accounts:
        secret, token = await accounts.issue(grant)
        return {"ok": True, "token": secret} | _shown(token, accounts)


async def list_tokens(node: TokenNode) -> Json:
    """List all tokens, those that were revoked too, the oldest first."""
    async with _accounts(node) as accounts:
        found = await accounts.ledger.tokens()
        return {"ok": True, "tokens": [_shown(token, accounts) for token, _ in found]}


async def revoke_token(node: TokenNode, name: str) -> Json:
    """Make a token good for nothing."""
    async with _accounts(node) as accounts:
        token = await accounts.revoke(name)
        return {"ok": True, "id": token.id, "name": token.name}


async def show_usage(node: TokenNode, params: UsageParams) -> Json:
    """Say what was used in the last days, the newest first; ``cut``: there is more than is told."""
    if not 1 <= params.days <= MAX_DAYS:
        raise UsageError(f"days is a number from 1 to {MAX_DAYS}, not {params.days}.")
    async with _accounts(node) as accounts:
        since = day_text(accounts.now() - (params.days - 1) * _DAY)
        found = await accounts.ledger.usage(since, params.token, params.model or "*")
    rows = [
        {
            "date": key.day,
            "token": key.token,
            "model": key.model,
            "manifest": key.manifest,
            "requests": counts.requests,
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "errors": counts.errors,
            "seconds": round(counts.seconds, 3),
        }
        for key, counts in found
    ]
    return {"ok": True, "since": since, "usage": rows, "cut": len(rows) == MAX_ROWS}


def _shown(token: Token, accounts: Accounts) -> Json:
    """Return what every verb says of a token."""
    state = "good"
    if token.expires is not None and accounts.now() >= token.expires:
        state = "expired"
    if token.revoked is not None:
        state = "revoked"
    return {
        "id": token.id,
        "name": token.name,
        "models": list(token.models),
        "rpm": token.rpm,
        "tpd": token.tpd,
        "via_peers": token.via_peers,
        "created": time_text(token.created),
        "expires": None if token.expires is None else time_text(token.expires),
        "state": state,
        "used_today": accounts.used_today(token.id),
    }


def _seconds(text: str) -> float | None:
    """Read how long a token is to be good; None for ever."""
    try:
        seconds: float | None = TIME.parse(text or "none")
    except ValueError as exc:
        raise UsageError(
            f"expires is a time from now such as 12h or 30d, or none, not {text[:80]!r}."
        ) from exc
    return seconds


@asynccontextmanager
async def _accounts(node: TokenNode) -> AsyncIterator[Accounts]:
    """Yield the running node's accounts, or open them here."""
    if node.accounts is not None:
        yield node.accounts
        return
    async with open_accounts(node.config.folders.data) as accounts:
        yield accounts
