"""Rates hold, are shared fairly, change while bytes move, and cost nothing when there are none."""

import pytest

from p2p.rates import BURST, MAX_PEERS, MAX_PIECE, MIN_PIECE, Bucket, Limits, Rates


class Clock:
    """A clock that whoever waits moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("p2p.rates.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that stands still until a test moves it."""
    return Clock(monkeypatch)


def run(clock: Clock, rates: Rates, peers: list[str], seconds: float) -> dict[str, int]:
    """Let greedy senders to these peers, one each, send for so long; what each got."""
    sent = [0] * len(peers)
    ready = [clock.now] * len(peers)
    sizes = [0] * len(peers)
    end = clock.now + seconds
    while True:
        index = min(range(len(peers)), key=ready.__getitem__)
        if ready[index] >= end:
            break
        clock.now = ready[index]
        sent[index] += sizes[index]
        meter = rates.of(peers[index]).up
        sizes[index] = meter.piece
        ready[index] = clock.now + meter.reserve(sizes[index])
        if ready[index] == clock.now:
            ready[index] += 1e-6  # bytes take some time
    total: dict[str, int] = {}
    for peer, size in zip(peers, sent, strict=True):
        total[peer] = total.get(peer, 0) + size
    return total


@pytest.mark.parametrize("rate", [5_000, 100_000, 3_000_000, 500_000_000])
def test_a_rate_is_kept(clock: Clock, rate: int) -> None:
    """Over twenty seconds a greedy sender gets its rate, give or take a tenth."""
    rates = Rates(Limits(up=rate))
    assert run(clock, rates, ["a"], 20)["a"] == pytest.approx(20 * rate, rel=0.1)


def test_ten_receivers_share_alike(clock: Clock) -> None:
    """Ten receivers get a tenth each, and all together the rate."""
    rates = Rates(Limits(up=5_000_000))
    got = run(clock, rates, [f"p{number}" for number in range(10)], 20)
    assert sum(got.values()) == pytest.approx(100_000_000, rel=0.1)
    assert min(got.values()) > 0.9 * max(got.values())


def test_a_peer_has_a_rate_of_its_own(clock: Clock) -> None:
    """The limit for one peer holds over all its connections, and leaves the rest to others."""
    rates = Rates(Limits(up=10_000_000, up_per_peer=1_000_000))
    got = run(clock, rates, ["a", "a", "a", "b"], 20)
    assert got["a"] == pytest.approx(20_000_000, rel=0.1)
    assert got["b"] == pytest.approx(20_000_000, rel=0.1)


def test_a_limit_changes_at_once(clock: Clock) -> None:
    """A higher limit is felt by whoever asks next, however long the old one made others wait."""
    rates = Rates(Limits(up=1000))
    meter = rates.of("a").up
    waits = [meter.reserve(MIN_PIECE) for _ in range(5)]
    assert waits[-1] > 10
    rates.change(up=1_000_000)
    assert meter.reserve(MIN_PIECE) == 0
    rates.change(up=None)
    assert not meter.limited
    assert [meter.reserve(1 << 30) for _ in range(3)] == [0, 0, 0]
    rates.change(up_per_peer=1000)
    assert meter.limited


def test_pieces_fit_the_rate() -> None:
    """What is reserved at once is a tenth of a second, within bounds."""
    rates = Rates()
    up, down = rates.of("a").up, rates.of("a").down
    assert up.piece == MAX_PIECE
    rates.change(up=1, down=2_000_000)
    assert up.piece == MIN_PIECE
    assert down.piece == 200_000
    assert rates.of("a").up is up


def test_a_bucket_saves_little_up() -> None:
    """After a pause a quarter of a second's bytes go at once, no more."""
    bucket = Bucket(1000)
    bucket.reserve(1, 0.0)
    now = 1000.0
    at_once = 0
    while not bucket.reserve(10, now):
        at_once += 10
    assert at_once == pytest.approx(1000 * BURST, abs=10)


def test_peers_are_forgotten() -> None:
    """Peer ids are free, so the book of rates is bounded."""
    rates = Rates()
    first = rates.of("first")
    for number in range(MAX_PEERS):
        rates.of(str(number))
    assert rates.of("first") is not first


def test_uploads_are_counted_by_peer() -> None:
    """So many peers are served at once, each with as many files as it likes."""
    rates = Rates(Limits(uploads=1))
    assert rates.begin_upload("a")
    assert rates.begin_upload("a")
    assert not rates.begin_upload("b")
    rates.end_upload("a")
    assert not rates.begin_upload("b")
    rates.end_upload("a")
    assert rates.begin_upload("b")
    rates.change(uploads=None)
    assert rates.begin_upload("c")
