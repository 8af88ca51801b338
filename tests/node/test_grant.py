"""Grants: what a token can be good for, and what a token looks like."""

import hashlib
import re

import pytest

from node.grant import Grant, check_grant, digest_of, is_id, new_id, new_secret
from p2p.errors import UsageError


@pytest.mark.parametrize(
    ("grant", "reason"),
    [
        (Grant("two words"), "A token's name has letters"),
        (Grant("-x"), "A token's name has letters"),
        (Grant("x" * 65), "A token's name has letters"),
        (Grant("local"), "cannot be called local"),
        (Grant("0123456789ab"), "cannot be called 0123456789ab"),
        (Grant(models=("",)), "A model is a name"),
        (Grant(models=("a b",)), "A model is a name"),
        (Grant(models=("x" * 257,)), "A model is a name"),
        (Grant(models=("x",) * 65), "at most 64 models"),
        (Grant(rpm=0), "rpm is a number from 1 to 10000, not 0"),
        (Grant(rpm=10_001), "rpm is a number"),
        (Grant(tpd=-1), "tpd is a number"),
        (Grant(tpd=10**13), "tpd is a number"),
    ],
)
def test_what_cannot_be_granted(grant: Grant, reason: str) -> None:
    """What makes no sense is refused with what was expected."""
    with pytest.raises(UsageError, match=reason):
        check_grant(grant)


def test_what_can_be_granted() -> None:
    """Names as people write them, and every limit up to its bound."""
    for name in ("", "ci", "x" * 64, "alice@example.org", "0123456789abc"):
        check_grant(Grant(name))
    check_grant(Grant(models=("*",) * 64, rpm=10_000, tpd=10**12))
    check_grant(Grant(models=("x" * 256,), rpm=1, tpd=1))


def test_tokens() -> None:
    """Each is another, and its hash is told from that of anything which is no token."""
    tokens = {new_secret() for _ in range(100)}
    assert len(tokens) == 100
    for token in tokens:
        assert re.fullmatch("allod-[A-Za-z0-9_-]{43}", token)
        assert digest_of(token) == hashlib.sha256(token.encode()).digest()
        for other in (token[:-1], token + "A", token.upper(), f"{token}\n", token[6:], ""):
            assert digest_of(other) is None


def test_ids() -> None:
    """An id is told from the names of other accounts."""
    assert is_id(new_id())
    assert new_id() != new_id()
    for other in ("local", "peers", "0123456789AB", "0123456789a", "0123456789ab0"):
        assert not is_id(other)
