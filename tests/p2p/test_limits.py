"""Budgets of peers: pure, with time passed in."""

import pytest

from p2p.limits import LOG_INTERVAL, Account, Book, PeerLimits, TokenBucket


def test_bucket_gives_burst_then_rate() -> None:
    """A bucket gives its burst at once, then says how long to wait."""
    bucket = TokenBucket(rate=2.0, burst=3.0, now=100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(100.0) == pytest.approx(0.5)
    assert bucket.take(100.4) == pytest.approx(0.1)
    assert bucket.take(100.5) == 0.0


def test_bucket_never_overflows_and_time_never_runs_back() -> None:
    """A long pause refills to the burst, and a clock that steps back takes nothing."""
    bucket = TokenBucket(rate=1.0, burst=2.0, now=0.0)
    assert [bucket.take(1e9) > 0 for _ in range(3)] == [False, False, True]
    assert bucket.take(0.0) == pytest.approx(1.0)


def test_streams_are_counted() -> None:
    """A peer's streams are admitted up to the limit, and a closed one makes room."""
    account = Account(PeerLimits(streams=2), 0.0)
    assert [account.open_stream() for _ in range(3)] == [True, True, False]
    account.close_stream()
    assert account.open_stream()


def test_requests_in_flight_and_rate() -> None:
    """Requests are refused past the number in flight, and past the rate, with a time to wait."""
    account = Account(PeerLimits(requests=2, request_rate=1.0, request_burst=3.0), 0.0)
    assert account.open_request(0.0) == 0.0
    assert account.open_request(0.0) == 0.0
    assert account.open_request(0.0) > 0
    account.close_request()
    assert account.open_request(0.0) == 0.0
    account.close_request()
    assert account.open_request(0.0) == pytest.approx(1.0)
    assert account.in_flight == 1
    assert account.open_request(1.0) == 0.0


def test_bodies_held_and_their_rate() -> None:
    """Bodies are refused past what a peer may hold, and past the rate, with a time to wait."""
    limits = PeerLimits(bodies_per_peer=10, body_rate=1.0, body_burst=15.0)
    account = Account(limits, 0.0)
    assert account.open_body(0.0, 10) == 0.0
    assert account.open_body(0.0, 1) > 0
    account.close_body(10)
    assert account.held == 0
    assert account.open_body(0.0, 6) == pytest.approx(1.0)
    assert account.held == 0
    assert account.open_body(1.0, 6) == 0.0


def test_bodies_of_all_peers() -> None:
    """There is one bound for all peers together; what one is refused costs it nothing."""
    book = Book(PeerLimits(bodies=10, bodies_per_peer=8, body_burst=100.0))
    a, b = book.account("a", 0.0), book.account("b", 0.0)
    assert book.open_body(a, 0.0, 8) == 0.0
    assert book.open_body(b, 0.0, 3) > 0
    assert (book.held, b.held) == (8, 0)
    assert book.open_body(a, 0.0, 1) > 0
    assert book.held == 8
    book.close_body(a, 8)
    assert book.open_body(b, 0.0, 3) == 0.0
    assert book.held == 3


def test_dht_messages() -> None:
    """DHT messages have their own budget."""
    account = Account(PeerLimits(dht_rate=1.0, dht_burst=1.0), 0.0)
    assert account.dht_message(0.0)
    assert not account.dht_message(0.0)
    assert account.dht_message(1.0)


def test_faults_end_in_a_ban() -> None:
    """A few faults are forgiven, a stream of them bans the peer for the ban time."""
    account = Account(PeerLimits(fault_rate=0.1, fault_burst=2.0, ban_time=60.0), 0.0)
    assert [account.fault(0.0) for _ in range(3)] == [False, False, True]
    assert account.banned(59.0)
    assert not account.banned(60.0)


def test_a_longer_ban_stands() -> None:
    """A short ban doesn't shorten a long one."""
    account = Account(PeerLimits(), 0.0)
    account.ban(0.0, 100.0)
    account.ban(0.0, 10.0)
    assert account.banned(99.0)


def test_book_is_bounded() -> None:
    """Accounts of idle peers go first; those of busy and banned peers stay while they can."""
    book = Book(PeerLimits(), size=3)
    book.account("busy", 0.0).open_stream()
    book.account("banned", 0.0).ban(0.0, 10.0)
    book.account("idle", 0.0)
    book.account("new", 0.0)
    assert len(book) == 3
    assert book.account("busy", 0.0).streams == 1
    assert book.banned("banned", 1.0)
    assert not book.banned("idle", 1.0)
    assert not book.banned("stranger", 1.0)
    assert len(book) == 3
    book.account("new", 1.0).open_stream()
    book.account("newer", 1.0)  # all are busy or banned: the longest unused goes
    assert len(book) == 3


def test_one_log_line_a_minute() -> None:
    """A peer's faults are logged once a minute, with the number that was left out."""
    book = Book(PeerLimits())
    assert book.log_line("p", 0.0) == 0
    assert [book.log_line("p", 1.0) for _ in range(5)] == [None] * 5
    assert book.log_line("q", 1.0) == 0
    assert book.log_line("p", LOG_INTERVAL) == 5
    assert book.log_line("p", LOG_INTERVAL * 2) == 0
