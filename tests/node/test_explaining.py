"""What a fetch wrote down comes to the right sentences."""

import pytest

from node.cli.explained import explained
from node.explaining import PHASES, Record, Seen, Span, Trace, explain


def record(
    joined: float = 0.0, left: float = 10.0, busy: float = 9.0, *, paused: float = 0.0
) -> Record:
    """The record of a source that was read from for so many seconds."""
    made = Record()
    made.hire(joined)
    made.busy.enter(joined)
    made.busy.leave(joined + busy)
    made.paused.enter(joined)
    made.paused.leave(joined + paused)
    made.let_go(left)
    return made


def seen(
    peer: str, size: int, made: Record, kind: str = "lane", gone: str = "", failed: str = ""
) -> Seen:
    """A source with bytes of one kind."""
    return Seen(peer, "stream", {kind: size} if size else {}, gone, failed, made)


def trace(found: float = 0.1) -> Trace:
    """A fetch of ten seconds, nine of them the transfer."""
    made = Trace()
    made.begin("statement", 0.0)
    made.met(found)
    made.begin("transfer", 0.5)
    made.begin("record", 9.5)
    return made


def why(*sources: Seen, of: Trace | None = None) -> str:
    """The sentences about these sources, in one text."""
    return "\n".join(explain(of or trace(), sources, 10.0)["why"])


def test_a_span_counts_the_time_in_which_anybody_is_at_it() -> None:
    """Two who overlap are not counted twice, and what goes on is counted until now."""
    span = Span()
    span.enter(1.0)
    span.enter(2.0)
    span.leave(3.0)
    span.leave(5.0)
    assert span.seconds(9.0) == 4.0
    span.enter(9.0)
    assert span.seconds(10.0) == 5.0


def test_phases_are_added_up() -> None:
    """A phase that comes twice is one with both times; all have a meaning in words."""
    made = Trace()
    for at, phase in ((0.0, "survey"), (1.0, "transfer"), (3.0, "survey"), (4.0, "record")):
        made.begin(phase, at)
    found = explain(made, [], 6.0)
    assert {one["name"]: one["seconds"] for one in found["phases"]} == {
        "survey": 2.0, "transfer": 2.0, "record": 2.0,
    }  # fmt: skip
    assert [one["name"] for one in found["phases"]] == [
        name for name in PHASES if name in ("survey", "transfer", "record")
    ]
    assert found["seconds"] == 6.0
    assert found["found"] is None


SLOW_FAR = record()
SLOW_FAR.answered(0.5)
SLOW_FAULTY = record()
SLOW_FAULTY.faults = 3
SLOW_ROBBED = record()
SLOW_ROBBED.stolen, SLOW_ROBBED.twice = 4, 1


@pytest.mark.parametrize(
    ("slow", "reason"),
    [
        (seen("b", 9_000_000, SLOW_FAR), "it is far or busy, for it took 0.5 s"),
        (seen("b", 9_000_000, SLOW_FAULTY, failed="It lied."), "it failed 3 times"),
        (seen("b", 9_000_000, SLOW_ROBBED), "5 of its leaves were read elsewhere"),
        (seen("b", 9_000_000, record(), "stream"), "no lane could be opened to it"),
        (seen("b", 9_000_000, record()), "its owner limits what it sends"),
        (
            seen("b", 0, record()),
            "b was slow: in 9.0 s nothing of it came in time, where a gave 10.0 MB/s",
        ),
    ],
)
def test_who_was_slow_is_named_with_the_reason(slow: Seen, reason: str) -> None:
    """The likeliest reason that is known is told, beside what the fastest gave."""
    said = why(seen("a", 90_000_000, record()), slow)
    assert "b was slow: " in said
    assert reason in said
    assert "a was slow" not in said


def test_who_waits_is_not_slow() -> None:
    """A source that had little to give, at full rate, waited."""
    said = why(seen("a", 90_000_000, record()), seen("b", 10_000_000, record(busy=1.0)))
    assert "slow" not in said
    assert "b waited for 90 % of its time" in said


def test_who_left_is_named_with_the_reason() -> None:
    """So is who failed and came back, with what it failed of."""
    faulty = record(paused=0.5)
    faulty.faults = 1
    said = why(
        seen("a", 50_000_000, record(left=3.0), gone="The lane broke."),
        seen("b", 50_000_000, faulty, failed="It fell silent."),
    )
    assert "a was left alone after 3.0 s: The lane broke." in said
    assert "b failed once, the last time so: It fell silent." in said


def test_where_the_time_went() -> None:
    """The longest phase, or the wait for anybody at all; one source is told as such."""
    assert why().startswith("9.0 of 10.0 s went into moving the files.")
    late = trace(found=8.0)
    assert why(of=late).startswith("8.0 of 10.0 s went by until the first source was found.")
    assert "All of it came from one source, a, by lane." in why(seen("a", 5, record()))


def test_it_is_shown_in_a_table() -> None:
    """The command line shows the time line, a row for each source, and the sentences."""
    found = explain(trace(), [seen("a", 90_000_000, record(left=9.5))], 10.0)
    lines = explained(found)
    assert lines[0].startswith("took 10.00 s: statement 0.50 s, transfer 9.00 s")
    assert lines[1] == "first source found: after 0.10 s"
    assert lines[2].split() == [
        "SOURCE", "BY", "BYTES", "MB/S", "BUSY", "WAITING", "JOINED", "LEFT", "FAULTS", "TAKEN",
    ]  # fmt: skip
    assert lines[3].split() == [
        "a", "lane", "85.8", "MiB", "10.0", "95%", "5%", "0.00", "s", "-", "0", "0",
    ]  # fmt: skip
    assert lines[4:] == found["why"]
    assert explained(explain(Trace(), [], 1.0))[1] == "first source found: nobody"
