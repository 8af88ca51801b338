"""Which bundles are kept: the publisher's always, then the known, and no flood takes any away."""

import pytest

from p2p.attest import Attestation
from p2p.bridge import write_model_signature
from p2p.bundles import (
    MAX_TOPICS,
    MAX_TOTAL,
    find_model_signature,
    is_model_signature,
    keep_bundles,
    read_attestations,
)
from p2p.envelope import MAX_BUNDLES, sign_bundle
from p2p.keys import SecretKey
from tests.p2p.statements import (
    ALICE,
    BOB,
    CAROL,
    MODEL_SIG,
    RELEASE,
    SIGNED,
    release,
    said,
    sums,
)

OWNERS = {ALICE.public}
PAYLOAD = RELEASE.payload
WORD = said()


def strangers(count: int, start: int = 0) -> list[bytes]:
    """Endorsements by keys that nobody knows."""
    keys = (SecretKey.from_seed(number.to_bytes(32, "big")) for number in range(start + count))
    return [said(key=key) for key in list(keys)[start:]]


def keep(held: list[bytes], came: list[bytes], **more: set[object]) -> tuple[bytes, ...]:
    return keep_bundles(PAYLOAD, held, came, OWNERS, **more)  # type: ignore[arg-type]


def test_the_publishers_come_first() -> None:
    """His signature, his model.sig, then what others say and sign."""
    by_bob = sign_bundle(PAYLOAD, BOB)
    came = [by_bob, WORD, MODEL_SIG, SIGNED]
    assert keep([], came) == (SIGNED, MODEL_SIG, by_bob, WORD)
    assert keep(came, came) == keep([], came)


def test_leaves_out_what_is_not_about_this_release() -> None:
    """Bytes that do not verify, other releases', and a model.sig by a stranger are left out."""
    other = release({"x": b""})
    came = [
        b"",
        b"{}",
        WORD[:-1],
        sign_bundle(other.payload, ALICE),
        said(about=other.cid),
        write_model_signature(RELEASE, sums(), BOB),
        write_model_signature(other, sums(), ALICE),
        MODEL_SIG.replace(b"0", b"1"),
        sign_bundle(b"{}", ALICE),
    ]
    assert keep([], came) == ()
    assert keep([], [*came, WORD]) == (WORD,)


def test_the_latest_word_on_a_topic() -> None:
    """Who changes his mind is heard once, with his latest word, whichever comes first."""
    later = said(at="2027-01-01T00:00:00Z", passed=False)
    assert keep([WORD], [later]) == keep([later], [WORD]) == (later,)
    assert set(keep([WORD], [said("review"), said(policy="urn:x")])) > {WORD}


def test_one_key_has_a_few_topics() -> None:
    """A key that says ever new things is heard with the latest ones."""
    words = [
        said(policy=f"urn:{number}", at=f"2026-01-01T00:00:{number:02}Z")
        for number in range(MAX_TOPICS + 3)
    ]
    assert keep([], words) == tuple(words[3:])
    assert keep(words[:MAX_TOPICS], words[MAX_TOPICS:]) == tuple(words[3:])


def test_a_flood_takes_nothing_away() -> None:
    """Strangers' words fill what is left, and neither what is held nor the publisher's goes."""
    flood = strangers(MAX_BUNDLES)
    held = [SIGNED, WORD]
    kept = keep(held, flood)
    assert len(kept) == MAX_BUNDLES
    assert set(held) < set(kept)
    assert keep(list(kept), strangers(9, MAX_BUNDLES)) == kept
    assert keep(list(kept), [MODEL_SIG])[:2] == (SIGNED, MODEL_SIG)


def test_the_known_come_before_strangers() -> None:
    """A word that the owner waits for finds a place, however many strangers were faster."""
    full = keep([SIGNED], strangers(MAX_BUNDLES - 1))
    by_carol = said(key=CAROL)
    assert by_carol not in keep(list(full), [by_carol])
    assert keep(list(full), [by_carol], known={CAROL.public})[1] == by_carol


def test_looks_at_so_many_only() -> None:
    """What a peer sends past the bound is not looked at."""
    assert keep([], [b"x"] * MAX_BUNDLES + [SIGNED]) == ()
    assert keep([], [b"x"] * (MAX_BUNDLES - 1) + [SIGNED]) == (SIGNED,)


def test_all_together_fit_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundles of a release are no more than one answer holds; smaller ones still find room."""
    by_bob, by_carol = sign_bundle(PAYLOAD, BOB), sign_bundle(PAYLOAD, CAROL)
    assert sum(map(len, keep([], [SIGNED, by_bob, by_carol, WORD]))) < MAX_TOTAL
    monkeypatch.setattr("p2p.bundles.MAX_TOTAL", len(SIGNED) + len(WORD) + 2)
    assert keep([], [by_bob, by_carol, SIGNED, WORD]) == (SIGNED, WORD)


def test_reads_what_others_say() -> None:
    """Of all bundles of a release those that say something about it, and the model.sig."""
    bundles = [SIGNED, MODEL_SIG, WORD, b"x", said("review")]
    found = read_attestations(bundles)
    assert [type(one) for one in found] == [Attestation, Attestation]
    assert [one.kind for one in found] == ["endorsement", "review"]
    assert [is_model_signature(one) for one in bundles] == [False, True, False, False, False]
    model = find_model_signature(RELEASE.cid, bundles, OWNERS)
    assert model is not None
    assert model.bundle == MODEL_SIG
    broken = MODEL_SIG.replace(b'"keyid":""', b'"keyid":"x"')
    assert find_model_signature(RELEASE.cid, [broken, WORD], OWNERS) is None
    assert find_model_signature(RELEASE.cid, bundles, {BOB.public}) is None
    assert find_model_signature(release({"x": b""}).cid, bundles, OWNERS) is None
