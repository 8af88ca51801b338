"""Accounts: who may ask which model, within which limits, from the first request on."""

import hashlib
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from node import accounts as module
from node.accounts import LOCAL, MAX_USED, Account, Accounts, Use, open_accounts
from node.grant import Grant
from node.inference import Served
from node.ledger import Counts, UsageKey
from p2p.cid import CID, Codec
from p2p.errors import BadToken, DiskFull, NotFound, OverLimit, UsageError

DAY = 86_400
NOON = 20_000 * DAY + DAY / 2
TODAY, TOMORROW = "2024-10-04", "2024-10-05"
MANIFEST = CID.of(b"manifest", Codec.JSON)
PUBLISHER = "bagaaierapublisher"


def served(name: str = "alice/tiny") -> Served:
    """A model that is served under this name, its version, its publisher's id and its CID."""
    return Served(
        name=name,
        aliases=(f"{name}@1", f"{PUBLISHER}/{name.partition('/')[2]}", str(MANIFEST)),
        manifest=MANIFEST,
        publisher=PUBLISHER,
        created=0,
        size=1,
        capabilities=frozenset({"chat"}),
        context=4096,
    )


TINY = served()


def used(prompt: int, completion: int, **more: Any) -> Use:
    """A request that was answered."""
    values: dict[str, Any] = {"status": 200, "seconds": 0.5, "served_by": "12D3KooW"} | more
    return Use("alice/tiny", MANIFEST, "chat/completions", prompt, completion, **values)


def all_bytes(folder: Path) -> bytes:
    """What somebody finds who takes the disk."""
    return b"".join(file.read_bytes() for file in folder.iterdir())


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(
    folder: Path, clock: Clock, auth: str = "open", control_token: str = ""
) -> AbstractAsyncContextManager[Accounts]:
    return open_accounts(folder, auth=auth, control_token=control_token, clock=clock)


@pytest.fixture
async def accounts(tmp_path: Path, clock: Clock) -> AsyncIterator[Accounts]:
    async with opened(tmp_path, clock) as found:
        yield found


# -- who it is


async def test_a_token_is_an_account(accounts: Accounts) -> None:
    """Its holder is whom it was made for, with what it is good for."""
    grant = Grant("ci", ("alice/*",), rpm=60, tpd=1000, expires=30 * DAY, via_peers=True)
    secret, token = await accounts.issue(grant)
    assert re.fullmatch("allod-[A-Za-z0-9_-]{43}", secret)
    assert (token.created, token.expires) == (NOON, NOON + 30 * DAY)
    assert await accounts.identify(secret) == Account(
        token.id, "ci", ("alice/*",), 60, 1000, via_peers=True
    )
    other, unnamed = await accounts.issue(Grant())
    assert other != secret
    assert await accounts.identify(other) == Account(
        unnamed.id, unnamed.id, (), None, None, via_peers=False
    )


@pytest.mark.parametrize("auth", ["open", "token"])
async def test_who_needs_no_token(tmp_path: Path, clock: Clock, auth: str) -> None:
    """An open door takes no word, and words that clients make up, for this machine."""
    async with opened(tmp_path, clock, auth) as accounts:
        for word in ("", "ollama", "sk-1234", "allo", "ä\udc80"):
            if auth == "open":
                assert await accounts.identify(word) == LOCAL
            else:
                with pytest.raises(BadToken, match="wants a token"):
                    await accounts.identify(word)
    assert (LOCAL.name, LOCAL.models, LOCAL.via_peers) == ("this machine", (), True)


@pytest.mark.parametrize("auth", ["open", "token"])
async def test_the_control_token_is_this_machine(tmp_path: Path, clock: Clock, auth: str) -> None:
    """Who may do everything with the node may ask its models; whatever the token looks like."""
    for control in ("c" * 43, "allod-" + "c" * 43):
        async with opened(tmp_path, clock, auth, control) as accounts:
            assert await accounts.identify(control) == LOCAL
            with pytest.raises(BadToken):
                await accounts.identify("allod-" + "d" * 43)


@pytest.mark.parametrize("auth", ["open", "token"])
async def test_a_word_that_looks_like_a_token_must_be_good(
    tmp_path: Path, clock: Clock, auth: str
) -> None:
    """Also where none is needed: unknown, cut, longer, in another case, with a space."""
    async with opened(tmp_path, clock, auth) as accounts:
        secret, _ = await accounts.issue(Grant())
        words = ["allod-", secret[:-1], secret + "A", secret.swapcase(), f"{secret} ", secret * 99]
        for word in [*words, "allod-" + "ä" * 43]:
            if word.startswith("allod-"):
                with pytest.raises(BadToken, match="not known here"):
                    await accounts.identify(word)
        assert (await accounts.identify(secret)).id != LOCAL.id


async def test_a_token_ends(accounts: Accounts, clock: Clock) -> None:
    """From its last second on it is refused, also for a request that was identified before."""
    secret, _ = await accounts.issue(Grant("ci", expires=60))
    clock.now += 59.9
    account = await accounts.identify(secret)
    accounts.admit(account, TINY)
    clock.now += 0.1
    with pytest.raises(BadToken, match="was good until 2024-10-04T12:01:00Z"):
        await accounts.identify(secret)
    with pytest.raises(BadToken, match="was good until"):
        accounts.admit(account, TINY)


async def test_revoking_holds_at_once(accounts: Accounts) -> None:
    """By name or id; a request that was identified before is not let in, one that runs goes on."""
    for by in ("name", "id"):
        secret, token = await accounts.issue(Grant("ci"))
        account = await accounts.identify(secret)
        assert await accounts.revoke(token.name if by == "name" else token.id) == token
        with pytest.raises(BadToken, match="not known here, or was revoked"):
            await accounts.identify(secret)
        with pytest.raises(BadToken, match="was revoked"):
            accounts.admit(account, TINY)
        await accounts.record(account, used(1, 1))
        with pytest.raises(NotFound, match="no token 'ci'"):
            await accounts.revoke("ci")


async def test_revoked_twice_at_once(accounts: Accounts) -> None:
    """Two who revoke the same token at the same time both have it revoked."""
    _, token = await accounts.issue(Grant("ci"))
    revoked: list[object] = []

    async def revoke() -> None:
        revoked.append(await accounts.revoke("ci"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(revoke)
        nursery.start_soon(revoke)
    assert revoked == [token, token]


async def test_what_is_kept_lasts(tmp_path: Path, clock: Clock) -> None:
    """After a restart tokens are good or revoked as before, and the day's tokens are counted."""
    async with opened(tmp_path, clock) as accounts:
        good, _ = await accounts.issue(Grant("good", tpd=20))
        bad, _ = await accounts.issue(Grant("bad"))
        await accounts.revoke("bad")
        await accounts.record(await accounts.identify(good), used(10, 5))
    async with opened(tmp_path, clock) as accounts:
        account = await accounts.identify(good)
        assert accounts.used_today(account.id) == 15
        accounts.admit(account, TINY)
        await accounts.record(account, used(3, 2))
        with pytest.raises(OverLimit):
            accounts.admit(account, TINY)
        with pytest.raises(BadToken):
            await accounts.identify(bad)


async def test_no_secret_is_kept_or_told(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The token is in no file, no log, no error; its SHA-256 is in the ledger."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="node.accounts")  # another test may have set it
    async with opened(tmp_path, clock) as accounts:
        secret, token = await accounts.issue(Grant("ci"))
        await accounts.record(await accounts.identify(secret), used(1, 2))
        await accounts.revoke("ci")
        with pytest.raises(BadToken) as caught:
            await accounts.identify(secret)
        [(_, digest)] = await accounts.ledger.tokens()
    assert digest == hashlib.sha256(secret.encode()).digest()
    files = all_bytes(tmp_path)
    assert digest in files
    for text in (repr(token), caplog.text, str(caught.value), files.decode("latin-1")):
        assert secret[6:] not in text
    assert "ci: chat/completions of alice/tiny, status 200, 1 and 2 tokens" in caplog.text


# -- what he may


@pytest.mark.parametrize(
    ("patterns", "good"),
    [
        ((), True),
        (("alice/tiny",), True),
        (("bob/tiny", "alice/*"), True),
        (("*",), True),
        (("alice/tiny@1",), True),
        ((str(MANIFEST),), True),
        ((f"{PUBLISHER}/*",), True),
        (("alice/t?ny",), True),
        (("alice/[st]iny",), True),
        (("alice",), False),
        (("alice/",), False),
        (("Alice/*",), False),
        (("alice/tin",), False),
        (("bob/*",), False),
    ],
)
async def test_models_of_a_token(accounts: Accounts, patterns: tuple[str, ...], good: bool) -> None:
    """Names and patterns are of any name of the model, wholly and in its case."""
    secret, _ = await accounts.issue(Grant("ci", patterns))
    account = await accounts.identify(secret)
    assert accounts.allows(account, TINY) == good
    if good:
        accounts.admit(account, TINY)
        return
    with pytest.raises(BadToken, match="token ci is not for the model alice/tiny") as caught:
        accounts.admit(account, TINY)
    assert caught.value.next == f"It is for {patterns[0]}."


async def test_fifty_at_once(accounts: Accounts) -> None:
    """Of fifty parallel requests with 20 a minute exactly 20 are let in, and the rest told when."""
    secret, _ = await accounts.issue(Grant("ci", rpm=20))
    waits: list[float] = []

    async def ask() -> None:
        account = await accounts.identify(secret)
        await trio.lowlevel.checkpoint()
        try:
            accounts.admit(account, TINY)
        except OverLimit as exc:
            waits.append(exc.retry_after)
            return
        await trio.lowlevel.checkpoint()
        await accounts.record(account, used(1, 1))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert waits == [60.0] * 30
    [(_, counts)] = await accounts.ledger.usage(TODAY)
    assert counts.requests == 20


async def test_the_minute_slides(accounts: Accounts, clock: Clock) -> None:
    """Who waits as long as he was told is let in."""
    secret, _ = await accounts.issue(Grant("ci", rpm=2))
    account = await accounts.identify(secret)
    accounts.admit(account, TINY)
    clock.now += 15
    accounts.admit(account, TINY)
    with pytest.raises(OverLimit, match="has used up its 2 requests a minute") as caught:
        accounts.admit(account, TINY)
    assert caught.value.retry_after == 45.0
    assert caught.value.next == "Try again in 45 seconds."
    clock.now += 45
    accounts.admit(account, TINY)


async def test_tokens_a_day_under_parallel_streams(accounts: Accounts, clock: Clock) -> None:
    """Streams that run when the day's tokens end go on; nothing new is let in till midnight."""
    secret, _ = await accounts.issue(Grant("ci", tpd=100))
    account = await accounts.identify(secret)
    for _ in range(50):
        accounts.admit(account, TINY)
    for number in range(50):
        await accounts.record(account, used(6, 4))
        if number == 8:
            accounts.admit(account, TINY)
        elif number > 8:
            with pytest.raises(OverLimit, match="100 tokens a day") as caught:
                accounts.admit(account, TINY)
            assert caught.value.retry_after == DAY / 2
    assert accounts.used_today(account.id) == 500
    clock.now += DAY / 2
    accounts.admit(account, TINY)
    assert accounts.used_today(account.id) == 0


async def test_limits_are_each_tokens_own(accounts: Accounts) -> None:
    """One token's limit is not another's, and this machine and peers have none."""
    tokens = [await accounts.issue(Grant(name, rpm=1)) for name in ("a", "b")]
    for secret, _ in tokens:
        account = await accounts.identify(secret)
        accounts.admit(account, TINY)
        with pytest.raises(OverLimit):
            accounts.admit(account, TINY)
    peers = Account("peers", "peers", (), None, None, via_peers=False)
    for account in (LOCAL, peers):
        for _ in range(100):
            accounts.admit(account, TINY)


# -- what he used


async def test_use_is_written_down(accounts: Accounts, clock: Clock) -> None:
    """By day, account, model and manifest, with errors and seconds; a new day is a new row."""
    secret, token = await accounts.issue(Grant("ci"))
    account = await accounts.identify(secret)
    await accounts.record(account, used(10, 5))
    await accounts.record(account, used(3, 0, status=503, seconds=2.0))
    await accounts.record(LOCAL, used(1, 1, status=399))
    clock.now += DAY
    await accounts.record(account, used(2, 2))
    key = UsageKey(TOMORROW, "ci", "alice/tiny", str(MANIFEST))
    assert await accounts.ledger.usage(TODAY) == [
        (key, Counts(1, 2, 2, 0, 0.5)),
        (key._replace(day=TODAY), Counts(2, 13, 5, 1, 2.5)),
        (key._replace(day=TODAY, token="local"), Counts(1, 1, 1, 0, 0.5)),
    ]
    assert await accounts.ledger.used(TOMORROW) == {token.id: 4}


async def test_numbers_of_strangers_are_bounded(accounts: Accounts) -> None:
    """A peer that says it used 2**200 tokens, or less than none, breaks nothing."""
    secret, _ = await accounts.issue(Grant("ci"))
    account = await accounts.identify(secret)
    await accounts.record(account, used(2**200, -5, seconds=-1.0))
    [(_, counts)] = await accounts.ledger.usage(TODAY)
    assert counts == Counts(1, MAX_USED, 0, 0, 0.0)
    assert accounts.used_today(account.id) == MAX_USED


# -- which tokens there can be


async def test_what_cannot_be_granted(accounts: Accounts) -> None:
    """What makes no sense, and a name that is taken, are refused before a token is made."""
    await accounts.issue(Grant("taken"))
    for grant, reason in ((Grant("taken"), "a token taken already"), (Grant(rpm=0), "rpm is")):
        with pytest.raises(UsageError, match=reason):
            await accounts.issue(grant)
    assert len(await accounts.ledger.tokens()) == 1


async def test_a_name_is_free_again(accounts: Accounts) -> None:
    """A revoked token's name can be given again; their use is one row then."""
    for _ in range(2):
        secret, _ = await accounts.issue(Grant("ci"))
        await accounts.record(await accounts.identify(secret), used(1, 1))
        await accounts.revoke("ci")
    [(key, counts)] = await accounts.ledger.usage(TODAY, "ci")
    assert (key.token, counts.requests) == ("ci", 2)


async def test_two_of_one_name_at_once(accounts: Accounts) -> None:
    """Of two tokens of one name that are made at the same time one is refused."""
    refused: list[UsageError] = []

    async def make() -> None:
        try:
            await accounts.issue(Grant("ci"))
        except UsageError as exc:
            refused.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        nursery.start_soon(make)
    assert len(refused) == 1
    assert len(await accounts.ledger.tokens()) == 1


async def test_tokens_are_bounded(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are so many and no more; revoking makes room."""
    monkeypatch.setattr(module, "MAX_TOKENS", 2)
    for name in ("a", "b"):
        await accounts.issue(Grant(name))
    with pytest.raises(UsageError, match="2 tokens already"):
        await accounts.issue(Grant("c"))
    await accounts.revoke("a")
    await accounts.issue(Grant("c"))


async def test_a_token_that_could_not_be_kept_is_none(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk is full nothing is made, and the name stays free; the same for revoking."""
    secret, _ = await accounts.issue(Grant("old"))

    async def write(*words: object) -> None:
        raise DiskFull("full")

    with monkeypatch.context() as patch:
        patch.setattr("node.store.index.Index.write", write)
        with pytest.raises(DiskFull):
            await accounts.issue(Grant("ci"))
        with pytest.raises(DiskFull):
            await accounts.revoke("old")
    assert (await accounts.identify(secret)).name == "old"
    await accounts.issue(Grant("ci"))
