"""How a release stands, as tables: who counts, whose turn it is, who may let go."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.pledges.standing import FORGOTTEN, MAX_COPIES, Act, Mine, Standing, Step, Times, order
from p2p.cid import CID, Codec

MANIFEST = CID.of(b"a manifest", Codec.JSON)
TIMES = Times(check=100.0, again=10.0, spread=20.0, settle=50.0, patience=400.0)
PEERS = sorted((f"peer-{number}" for number in range(12)), key=lambda one: order(one, MANIFEST))


def standing(me: str = "me", keep: int = 2) -> Standing:
    return Standing(me, MANIFEST, keep, TIMES)


def good(one: Standing, *peers: str, now: float = 0.0) -> None:
    """These have given a leaf."""
    for peer in peers:
        one.answered(peer, now, whole=True)
        one.proved(peer, now)


def names(one: Standing, now: float) -> list[str]:
    return [copy.peer for copy in one.healthy(now)]


# -- who counts


def test_what_is_said_alone_counts_for_nothing() -> None:
    """A copy counts only once a leaf was right."""
    one = standing()
    one.answered("a", 0.0, whole=True)
    assert names(one, 0.0) == []
    one.proved("a", 0.0)
    assert names(one, 0.0) == ["a"]


@pytest.mark.parametrize(
    ("answered", "proved", "now", "counts"),
    [(0, 0, 250, True), (0, 0, 251, False), (200, 0, 251, False), (0, 200, 251, False)],
)
def test_answers_go_stale(answered: float, proved: float, now: float, counts: bool) -> None:
    """Both the last word and the last leaf have to be young."""
    one = standing()
    one.answered("a", answered, whole=True)
    one.proved("a", proved)
    assert (names(one, now) == ["a"]) is counts


def test_leaves_may_be_asked_for_more_rarely() -> None:
    """Where much is pledged a leaf stands for longer, but a word does not."""
    one = standing()
    good(one, "a")
    one.prove_every = 1000.0
    one.answered("a", 2400.0, whole=True)
    assert names(one, 2400.0) == ["a"]
    assert names(one, 2651.0) == []


def test_a_few_faults_in_a_row_are_enough() -> None:
    """One may be bad luck; after the second it does not count until a leaf is right again."""
    one = standing()
    good(one, "a")
    one.failed("a", "it was silent")
    assert names(one, 1.0) == ["a"]
    one.answered("a", 1.0, whole=True)  # to say that it has all mends nothing
    one.failed("a", "it was silent")
    assert names(one, 1.0) == []
    one.proved("a", 2.0)
    assert names(one, 2.0) == ["a"]


def test_wrong_bytes_leave_no_doubt() -> None:
    """One such answer is enough."""
    one = standing()
    good(one, "a")
    one.failed("a", "wrong bytes", final=True)
    assert names(one, 1.0) == []


def test_who_is_gone_is_forgotten() -> None:
    """Nobody is asked for ever in vain."""
    one = standing()
    good(one, "a")
    for _ in range(FORGOTTEN):
        assert "a" in one.copies
        one.failed("a", "it was silent")
    assert one.copies == {}


def test_who_has_a_part_does_not_count() -> None:
    """Nor does who had all and has it no more."""
    one = standing()
    good(one, "a", "b")
    one.answered("a", 1.0, whole=False, have=5)
    one.lacks("b")
    assert names(one, 1.0) == []


def test_a_crowd_is_not_remembered() -> None:
    """Peer ids are free: there is an end, and those that are good stay."""
    one = standing()
    good(one, "good")
    for number in range(2 * MAX_COPIES):
        one.answered(f"liar-{number}", 0.0, whole=True)
        one.failed(f"liar-{number}", "no leaf")
    assert len(one.copies) <= MAX_COPIES
    assert names(one, 0.0) == ["good"]


def test_who_is_asked_for_a_leaf() -> None:
    """Those whose last one is old, who failed, and all before a copy is let go."""
    one = standing()
    good(one, "a")
    copy = one.copies["a"]
    assert [one.due(copy, now) for now in (0.0, 89.0, 90.0)] == [False, False, True]
    one.failed("a", "it was silent")
    assert one.due(copy, 1.0)
    one.proved("a", 1.0)
    one.many_since = 1.0
    assert one.due(copy, 2.0)


# -- too few


def test_the_first_in_order_fetches_first() -> None:
    """Each waits for its turn; after that, and another look, it fetches."""
    first, last = standing(PEERS[0]), standing(PEERS[-1])
    for one in (first, last):
        good(one, PEERS[5])
    turns = []
    for one in (first, last):
        step = one.step(0.0, Mine())
        assert step.act is Act.REST
        assert step.at == pytest.approx(order(one.me, MANIFEST) * TIMES.spread)
        assert one.step(step.at, Mine()).act is Act.FETCH
        turns.append(step.at)
    assert turns[0] < turns[1]


def test_who_sees_enough_again_stops() -> None:
    """Somebody else was faster: nothing is fetched."""
    one = standing()
    good(one, "a")
    step = one.step(0.0, Mine())
    good(one, "b", now=step.at)
    assert one.step(step.at, Mine()) == Step(Act.REST, step.at + TIMES.check)
    assert one.short_since is None


def test_who_has_begun_is_waited_for_but_not_for_ever() -> None:
    """What grows elsewhere counts as coming, as long as patience lasts."""
    one = standing()
    good(one, "a")
    one.step(0.0, Mine())
    for now in (50.0, 150.0, 250.0, 350.0):
        good(one, "a", now=now)
        one.answered("b", now, whole=False, have=int(now))
        assert one.step(now, Mine()) == Step(Act.REST, now + TIMES.again)
    good(one, "a", now=401.0)
    one.answered("b", 401.0, whole=False, have=401)
    assert one.step(401.0, Mine()).act is Act.FETCH


def test_who_has_stopped_is_not_waited_for() -> None:
    """A part that does not grow is no copy that comes."""
    one = standing()
    good(one, "a")
    one.answered("b", 0.0, whole=False, have=5)
    one.step(0.0, Mine())
    good(one, "a", now=260.0)
    one.answered("b", 260.0, whole=False, have=5)
    assert one.step(260.0, Mine()).act is Act.FETCH


@pytest.mark.parametrize("mine", [Mine(fetching=True), Mine(may_fetch=False)])
def test_what_may_not_be_is_not_done(mine: Mine) -> None:
    """No second fetch of the same, and none against policy or budget."""
    one = standing()
    assert one.step(0.0, mine).act is Act.REST
    assert one.step(99.0, mine).act is Act.REST


def test_after_a_failure_the_next_fetch_waits_longer_each_time() -> None:
    """Until the usual time between two looks."""
    one = standing()
    one.step(0.0, Mine())
    now, waits = 50.0, []
    for _ in range(6):
        assert one.step(now, Mine()).act is Act.FETCH
        one.fetch_failed(now)
        step = one.step(now, Mine())
        assert step.act is Act.REST
        waits.append(step.at - now)
        now = step.at
    assert waits == [10.0, 20.0, 40.0, 80.0, 100.0, 100.0]


def test_a_doubtful_copy_is_looked_at_soon() -> None:
    """One fault of a copy that counts brings the next look forward."""
    one = standing()
    good(one, "a", "b")
    one.failed("a", "it was silent")
    assert one.step(0.0, Mine()) == Step(Act.REST, TIMES.again)


# -- too many

TAKEN = Mine(whole=True, taken=True)


def holder(me: str, keep: int, others: list[str], now: float = 0.0) -> Standing:
    one = standing(me, keep)
    good(one, *[peer for peer in others if peer != me], now=now)
    return one


def lets_go(me: str, keep: int, others: list[str], mine: Mine = TAKEN) -> bool:
    """Whether this holder lets go, the second look fresh."""
    one = holder(me, keep, others)
    step = one.step(0.0, mine)
    if step.act is Act.LET_GO or one.many_since is None:
        return step.act is Act.LET_GO
    good(one, *one.copies, now=step.at)
    return one.step(step.at, mine).act is Act.LET_GO


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("count", range(1, 9))
def test_however_many_let_go_at_once_enough_stay(keep: int, count: int) -> None:
    """All holders decide alike in the same moment: exactly keep + 1 stay, or all there were."""
    holders = PEERS[:count]
    stay = [peer for peer in holders if not lets_go(peer, keep, holders)]
    assert len(stay) == min(count, keep + 1)


@given(st.data())
def test_whatever_each_sees_enough_stay(data: st.DataObject) -> None:
    """Views that miss some of the holders make fewer let go, never more."""
    keep = data.draw(st.integers(1, 3))
    holders = PEERS[: data.draw(st.integers(1, 9))]
    stay = 0
    for me in holders:
        seen = data.draw(st.lists(st.sampled_from(holders), unique=True))
        stay += not lets_go(me, keep, seen)
    assert stay >= min(len(holders), keep + 1)


@pytest.mark.parametrize("mine", [replace(TAKEN, pinned=True), replace(TAKEN, taken=False)])
def test_what_the_owner_wants_is_never_let_go(mine: Mine) -> None:
    """Only what was taken under a pledge, and is not pinned."""
    assert lets_go(PEERS[-1], 1, PEERS)
    assert not lets_go(PEERS[-1], 1, PEERS, mine)


def test_old_answers_are_not_enough_to_let_go() -> None:
    """Each of those who stay must have given a leaf just now."""
    one = holder(PEERS[-1], 1, PEERS[:4])
    step = one.step(0.0, TAKEN)
    assert step == Step(Act.REST, TIMES.settle)
    good(one, PEERS[0], now=step.at)
    assert one.step(step.at, TAKEN).act is Act.REST  # of the others nothing came
    good(one, PEERS[1], now=step.at)
    assert one.step(step.at, TAKEN).act is Act.LET_GO


def test_too_many_for_a_moment_is_no_reason() -> None:
    """Somebody may only be back from a restart."""
    one = holder(PEERS[-1], 1, PEERS[:2])
    one.step(0.0, TAKEN)
    one.lacks(PEERS[0])
    one.step(20.0, TAKEN)
    assert one.many_since is None


def test_a_part_that_nobody_needs_goes() -> None:
    """A fetch that failed left something, and there are enough copies elsewhere."""
    one = standing()
    good(one, "a", "b")
    mine = Mine(taken=True)
    step = one.step(0.0, mine)
    assert step == Step(Act.REST, TIMES.settle)
    assert one.step(step.at, mine).act is Act.LET_GO


# -- the order, and the times


def test_the_order_is_spread_evenly_and_differs_by_release() -> None:
    """So that not the same nodes do all the work."""
    other = CID.of(b"another", Codec.JSON)
    places = [order(f"peer-{number}", MANIFEST) for number in range(1000)]
    assert 0.45 < sum(places) / 1000 < 0.55
    assert all(0 <= place < 1 for place in places)
    assert order("peer-1", MANIFEST) != order("peer-1", other)


def test_the_order_is_the_one_of_the_format() -> None:
    """The example of formats.md; another node's must be the same."""
    manifest = CID.parse("bagaaihrar6uzch4cgnyvzbqc5kiczfn7brevtclynuktqja7izxoos6tgsma")
    peer = "12D3KooWJDKhg6LUYeSoC5xW9i1EXy1fAo9ZfoHwjgmyo2tjfeLr"
    assert round(order(peer, manifest), 6) == 0.824013


@pytest.mark.parametrize("check", [1.0, 2.0, 300.0, 3600.0])
def test_times_go_together(check: float) -> None:
    """Whatever the owner chooses."""
    times = Times.of(check)
    assert 0.5 <= times.again <= 15.0
    assert 2.0 <= times.spread <= 30.0
    assert times.patience > times.settle == check
    assert math.isfinite(times.patience)
