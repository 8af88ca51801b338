"""What the ledger's tables hold, and the steps that bring them to their present shape.

A step never changes once it is released, and loses nothing: this cannot be made anew.
Times are seconds since 1970; days are those of UTC, like 2026-11-22.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

STEPS: Final[tuple[str, ...]] = (
    """
    -- models: patterns with spaces between them; none: every model. Times: seconds since 1970.
    CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE,
        name TEXT NOT NULL,
        models TEXT NOT NULL,
        rpm INTEGER,
        tpd INTEGER,
        via_peers INTEGER NOT NULL,
        created REAL NOT NULL,
        expires REAL,
        revoked REAL
    ) WITHOUT ROWID;

    -- day: in UTC, like 2026-11-22. token: the id of one, or another account's.
    CREATE TABLE usage (
        day TEXT NOT NULL,
        token TEXT NOT NULL,
        model TEXT NOT NULL,
        manifest TEXT NOT NULL,
        requests INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        seconds REAL NOT NULL,
        PRIMARY KEY (day, token, model, manifest)
    ) WITHOUT ROWID;
    """,
)


@dataclass(frozen=True, slots=True)
class Token:
    """What a token is good for; times in seconds since 1970.

    ``models``: names or patterns of models, none for all. ``rpm``: requests a minute, ``tpd``:
    tokens of models a day, None for no limit. ``via_peers``: peers may see its prompts.
    """

    id: str
    name: str
    models: tuple[str, ...]
    rpm: int | None
    tpd: int | None
    via_peers: bool
    created: float
    expires: float | None = None
    revoked: float | None = None


class UsageKey(NamedTuple):
    """What is added up together; ``day`` in UTC, like 2026-11-22."""

    day: str
    token: str
    model: str
    manifest: str


@dataclass(slots=True)
class Counts:
    """What was used; ``errors`` are those of the requests that failed, ``seconds`` the time."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    errors: int = 0
    seconds: float = 0.0

    def add(self, more: "Counts") -> None:
        """Add what else was used."""
        self.requests += more.requests
        self.prompt_tokens += more.prompt_tokens
        self.completion_tokens += more.completion_tokens
        self.errors += more.errors
        self.seconds += more.seconds
