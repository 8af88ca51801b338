"""The pure decisions: quota and garbage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.store.retention import Claim, Ledger, Sweep, sweep
from p2p.cid import CID, Codec
from p2p.errors import QuotaExceeded

A, B, C, D = (CID.of(bytes([n]), Codec.RAW) for n in range(4))
M1, M2 = (CID.of(bytes([n]), Codec.JSON) for n in range(2))


def test_reservations_count_before_a_byte_is_written() -> None:
    """Two reservations that fit alone don't fit together."""
    ledger = Ledger(100, 40, {})
    ledger.reserve(40)
    with pytest.raises(QuotaExceeded) as caught:
        ledger.reserve(40)
    assert ledger.used == 80
    assert "quota of 100" in caught.value.message
    ledger.keep(40)
    assert (ledger.held, ledger.reserved) == (80, 0)
    ledger.reserve(0)  # what takes nothing is never refused
    ledger.drop(80)
    ledger.enter(100)
    ledger.reserve(0)
    assert ledger.used == 100


def test_a_partial_file_is_counted_once() -> None:
    """What lies there already is part of the reservation for the whole."""
    ledger = Ledger(100, 0, {A: 60})
    ledger.resume(A, 100)
    assert ledger.used == 100
    ledger.rest(A, 100, 70)
    assert ledger.used == 70
    with pytest.raises(QuotaExceeded):
        ledger.resume(A, 101)
    with pytest.raises(QuotaExceeded):
        ledger.resume(B, 31)
    assert ledger.used == 70
    ledger.resume(A, 100)
    ledger.rest(A, 100, 0)
    ledger.forget(A)
    assert ledger.used == 0


def test_no_quota_is_no_limit() -> None:
    """None means all of the disk."""
    ledger = Ledger(None, 1 << 60, {})
    ledger.reserve(1 << 60)
    ledger.cancel(1 << 60)
    assert ledger.used == 1 << 60


def test_what_a_pinned_release_names_is_kept() -> None:
    """An unpinned release goes, and only what nobody else names goes with it."""
    plan = sweep(
        [Claim(M1, True, [A, B]), Claim(M2, False, [B, C])],
        files=[A, B, C],
        partials=[B, D],
        outlines=[A, C, D],
        busy=[],
    )
    assert plan.releases == (M2,)
    assert plan.files == (C,)
    assert plan.partials == (D,)
    assert set(plan.outlines) == {C, D}


def test_what_is_in_use_is_kept() -> None:
    """A release in use keeps all its files; a file in use keeps itself."""
    plan = sweep(
        [Claim(M1, False, [A]), Claim(M2, False, [B])],
        files=[A, B, C, D],
        partials=[],
        outlines=[],
        busy=[M1, C],
    )
    assert plan.releases == (M2,)
    assert set(plan.files) == {B, D}


def test_a_kept_release_whose_files_are_unknown_keeps_all() -> None:
    """Its listing was lost: until it is here again, no file is garbage."""
    claims = [Claim(M1, True, [], known=False), Claim(M2, False, [A])]
    plan = sweep(claims, files=[A], partials=[B], outlines=[C], busy=[])
    assert plan == Sweep((M2,), (), (), ())
    plan = sweep([Claim(M1, False, [], known=False)], files=[A], partials=[], outlines=[], busy=[])
    assert plan.files == (A,)


cids = st.sampled_from([A, B, C, D])


@given(
    st.lists(st.tuples(st.booleans(), st.frozensets(cids)), max_size=4),
    st.frozensets(cids),
    st.frozensets(cids),
)
def test_a_sweep_never_takes_what_is_claimed(
    releases: list[tuple[bool, frozenset[CID]]], files: frozenset[CID], busy: frozenset[CID]
) -> None:
    """Whatever the releases: pinned or busy means kept, everything else goes."""
    claims = [
        Claim(CID.of(bytes([n]), Codec.JSON), pinned, named)
        for n, (pinned, named) in enumerate(releases)
    ]
    plan = sweep(claims, files=files, partials=files, outlines=files, busy=busy)
    kept = busy.union(*(claim.files for claim in claims if claim.pinned))
    assert set(plan.files) == set(plan.partials) == set(plan.outlines) == files - kept
