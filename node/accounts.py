"""Who asks a model, what he may, and what he has used.

A token is a word that the owner makes for a person or a program: ``allod-`` and 256 random bits.
It may be good for some models only, until some day, for so many requests a minute and so many
tokens of models a day. It is shown when it is made and never again: kept is its SHA-256, by which
it is looked up, so how long a look takes says nothing of it.

Programs of this machine need none unless the owner says so (``serve.auth``). Many insist on sending
some key: a word that does not look like a token counts as none. One that does must be good, so that
nobody believes to be held to the limits of a token that is not looked at.

What a token may do is decided in memory, at once, also for many requests at the same time, and a
token that was revoked is good for nothing from then on; the ledger keeps it all (ledger.py).
Knows no HTTP. Never logs a token.
"""

import hmac
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import trio

from node.allowance import Allowance
from node.grant import PREFIX, RESERVED, Grant, check_grant, digest_of, is_id, new_id, new_secret
from node.inference import Served
from node.ledger import Counts, Ledger, Token, UsageKey, open_ledger
from p2p.cid import CID
from p2p.errors import BadToken, NotFound, OverLimit, UsageError

_log = logging.getLogger(__name__)

MAX_TOKENS: Final = 10_000
"""Tokens that are not revoked: each is held in memory, with what it asked in the last minute."""
MAX_USED: Final = 1 << 24
"""Tokens of one prompt or answer that are believed: what a peer says that it used is its word."""

_ANOTHER: Final = "`allod token list` shows what there is, `allod token new` makes another."


@dataclass(frozen=True, slots=True)
class Account:
    """Who asks: this machine, or a token; ``models``, ``rpm``, ``tpd`` as in ``ledger.Token``.

    Other accounts, such as one for peers, have no limits here; their use is written down all the
    same.
    """

    id: str
    name: str
    models: tuple[str, ...]
    rpm: int | None
    tpd: int | None
    via_peers: bool


LOCAL: Final = Account(RESERVED, "this machine", (), None, None, via_peers=True)
"""A program of this machine that brought no token; which models leave it is the owner's choice."""


@dataclass(frozen=True, slots=True)
class Use:
    """One request that was answered, well or badly: tokens used, HTTP status, seconds, and by whom.

    ``model``: its name as it is served; ``served_by``: a peer id.
    """

    model: str
    manifest: CID
    endpoint: str
    prompt: int
    completion: int
    status: int
    seconds: float
    served_by: str


@dataclass(frozen=True, slots=True)
class _Held:
    """A token that is not revoked, and what it may still take."""

    token: Token
    digest: bytes
    allowance: Allowance


class Accounts:
    """All accounts of this machine; see ``open_accounts``."""

    def __init__(
        self, ledger: Ledger, *, auth: str, control_token: str, clock: Callable[[], float]
    ) -> None:
        self.ledger = ledger
        self._auth = auth
        self._control = control_token.encode()
        self._clock = clock
        self.used: dict[tuple[str, int], Counts] = {}
        """What was used since the start, by model and HTTP status: the owner's models, so few."""
        self._held: dict[str, _Held] = {}  # by id
        self._digests: dict[bytes, _Held] = {}

    # --- requests --------------------------------------------------------------------------------

    async def identify(self, bearer: str) -> Account:
        """Return whose the word after ``Authorization: Bearer`` is; empty where there was none.

        ``BadToken`` where a token is needed and none came, or it is unknown, revoked or expired.
        """
        given = bearer.encode(errors="surrogatepass")
        if self._control and hmac.compare_digest(given, self._control):
            return LOCAL
        if not bearer.startswith(PREFIX):
            if self._auth != "token":
                return LOCAL
            came = "another word" if bearer else "none"
            raise BadToken(
                f"This door wants a token that `allod token new` made, but {came} came.",
                next="Send it as a bearer token, or as the API key of your client.",
            )
        digest = digest_of(bearer)
        held = self._digests.get(digest) if digest is not None else None
        if held is None:
            raise BadToken("This token is not known here, or was revoked.", next=_ANOTHER)
        self._check_time(held.token)
        one = held.token
        return Account(one.id, one.name, one.models, one.rpm, one.tpd, one.via_peers)

    def allows(self, account: Account, model: Served) -> bool:
        """Say whether the account may ask this model."""
        names = (model.name, *model.aliases)
        return not account.models or any(
            fnmatchcase(name, pattern) for pattern in account.models for name in names
        )

    def admit(self, account: Account, model: Served) -> None:
        """Count a request that is about to be answered.

        ``BadToken`` where the account may not ask this model, or its token ended meanwhile;
        ``OverLimit`` where it has used up what it was given.
        """
        if not self.allows(account, model):
            raise BadToken(
                f"The token {account.name} is not for the model {model.name}.",
                next=f"It is for {' '.join(account.models)}.",
            )
        held = self._held.get(account.id)
        if held is None:
            if is_id(account.id):
                raise BadToken(f"The token {account.name} was revoked.", next=_ANOTHER)
            return
        self._check_time(held.token)
        over = held.allowance.take(self._clock())
        if over is not None:
            per = "a minute" if over.what == "requests" else "a day"
            raise OverLimit(
                f"The token {account.name} has used up its {over.limit} {over.what} {per}.",
                retry_after=over.seconds,
                next=f"Try again in {math.ceil(over.seconds)} seconds.",
            )

    async def record(self, account: Account, use: Use) -> None:
        """Count what a request used; the disk hears of it within a second. Never fails."""
        prompt, completion = (min(max(one, 0), MAX_USED) for one in (use.prompt, use.completion))
        now = self._clock()
        held = self._held.get(account.id)
        if held is not None:
            held.allowance.spend(prompt + completion, now)
        _log.debug(
            "%s: %s of %s, status %d, %d and %d tokens in %.2f s, served by %s",
            *(account.name, use.endpoint, use.model, use.status, prompt, completion),
            *(use.seconds, use.served_by),
        )
        key = UsageKey(day_text(now), account.id, use.model, str(use.manifest))
        errors = int(use.status >= 400)
        counts = Counts(1, prompt, completion, errors, max(0.0, use.seconds))
        self.used.setdefault((use.model, use.status), Counts()).add(counts)
        await self.ledger.count(key, counts)

    # --- tokens ----------------------------------------------------------------------------------

    async def issue(self, grant: Grant) -> tuple[str, Token]:
        """Make a token; return the word itself, which is not kept, and what it is good for.

        ``UsageError`` where the grant asks for what cannot be.
        """
        check_grant(grant)
        self._check_room(grant.name)
        now, id, secret = self._clock(), new_id(), new_secret()
        digest = digest_of(secret)
        assert digest is not None
        token = Token(
            id=id,
            name=grant.name or id,
            models=grant.models,
            rpm=grant.rpm,
            tpd=grant.tpd,
            via_peers=grant.via_peers,
            created=now,
            expires=None if grant.expires is None else now + grant.expires,
        )
        # Held from here on, so that of two tokens of one name made at once the second is refused.
        self._hold(token, digest, 0)
        try:
            await self.ledger.add_token(token, digest)
        except BaseException:
            self._drop(id)
            raise
        return secret, token

    async def revoke(self, name: str) -> Token:
        """Make a token, named by name or id, good for nothing from now on; ``NotFound``."""
        for held in self._held.values():
            if name in (held.token.name, held.token.id):
                break
        else:
            raise NotFound(f"There is no token {name[:80]!r} that is not revoked.", next=_ANOTHER)
        await self.ledger.revoke(held.token.id, self._clock())
        self._drop(held.token.id)
        return held.token

    def used_today(self, id: str) -> int:
        """Return the tokens of models that a token, which is not revoked, has used today."""
        held = self._held.get(id)
        return held.allowance.used(self._clock()) if held is not None else 0

    def now(self) -> float:
        """Return the time by which tokens end and days begin, in seconds since 1970."""
        return self._clock()

    async def load(self) -> None:
        """Read the tokens, and what was used today."""
        used = await self.ledger.used(day_text(self._clock()))
        for token, digest in await self.ledger.tokens():
            if token.revoked is None:
                self._hold(token, digest, used.get(token.id, 0))

    def _hold(self, token: Token, digest: bytes, used: int) -> None:
        allowance = Allowance(token.rpm, token.tpd, self._clock(), used)
        held = _Held(token, digest, allowance)
        self._held[token.id] = self._digests[digest] = held

    def _drop(self, id: str) -> None:
        held = self._held.pop(id, None)
        if held is not None:
            del self._digests[held.digest]

    def _check_time(self, token: Token) -> None:
        if token.expires is not None and self._clock() >= token.expires:
            raise BadToken(
                f"The token {token.name} was good until {time_text(token.expires)}.", next=_ANOTHER
            )

    def _check_room(self, name: str) -> None:
        """Refuse one token more than there may be, or a name that is taken."""
        if len(self._held) >= MAX_TOKENS:
            raise UsageError(
                f"There are {MAX_TOKENS} tokens already.",
                next="`allod token revoke` makes room; expired ones take it too.",
            )
        if any(held.token.name == name for held in self._held.values()):
            raise UsageError(
                f"There is a token {name} already.",
                next="Choose another name, or revoke that one first.",
            )


def day_text(now: float) -> str:
    """Return the day in UTC, like 2026-11-22; the order of the texts is that of the days."""
    return time.strftime("%Y-%m-%d", time.gmtime(now))


def time_text(at: float) -> str:
    """Return a time in UTC, like 2026-11-22T00:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


@asynccontextmanager
async def open_accounts(
    folder: Path,
    *,
    auth: str = "open",
    control_token: str = "",
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Accounts]:
    """Open the accounts that the ledger in ``folder`` keeps; what was used is written meanwhile.

    ``auth``: token, or open, as in ``serve.auth``. ``control_token`` counts as this machine.
    ``clock`` gives seconds since 1970. ``StoreError`` where the ledger cannot be used.
    """
    async with open_ledger(folder) as ledger:
        accounts = Accounts(ledger, auth=auth, control_token=control_token, clock=clock)
        await accounts.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.keep_written)
            try:
                yield accounts
            finally:
                nursery.cancel_scope.cancel()
