"""Messages survive the wire, and what is malformed is refused before it is used."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.messages import (
    MAX_ITEMS,
    MAX_REQUEST,
    MAX_WORD,
    Failure,
    FetchParams,
    Message,
    NoParams,
    Note,
    Progress,
    PublishParams,
    Result,
    decode,
    decode_request,
    encode,
    from_json,
    to_json,
)
from node.pace import Pace
from p2p.errors import (
    AllodError,
    BadBytes,
    NotFound,
    PeerRefused,
    QuotaExceeded,
    UsageError,
)

counts = st.integers(0, 1 << 60)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Progress, st.text(), counts, st.none() | counts, st.floats(0, 1e12), counts),
    st.builds(Note, st.text(), st.sampled_from(["info", "warning"])),
    st.builds(Failure, st.text(), st.text(), st.text(), st.integers(0, 255), st.text()),
    st.builds(Result, st.dictionaries(st.text(), st.integers() | st.text() | st.none())),
)  # fmt: skip


@given(messages)
def test_a_message_survives_the_wire(message: Message) -> None:
    """Every message is one line and reads back as itself."""
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize("line", [b"", b"\n", b"  \r\n", b'{"later":{"x":1}}\n', b"{}"])
def test_heartbeats_and_unknown_messages_are_passed_over(line: bytes) -> None:
    """A blank line and a kind of message from a newer node are no error."""
    assert decode(line) is None


def test_unknown_fields_are_ignored() -> None:
    """A newer node may say more about a message than this reader knows."""
    assert decode(b'{"note":{"text":"x","colour":"red"},"extra":1}') == Note("x")


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        b'{"note":1}',
        b'{"note":{}}',
        b'{"note":{"text":1}}',
        b'{"progress":{"phase":"x","done":"1"}}',
        b'{"progress":{"phase":"x","done":true}}',
        b'{"progress":{"phase":"x","rate":' + b"9" * 400 + b"}}",
        b'{"result":[]}',
    ],
)
def test_malformed_lines_are_refused(line: bytes) -> None:
    """What is no message raises UsageError, whatever it is."""
    with pytest.raises(UsageError) as caught:
        decode(line)
    assert len(caught.value.message) < 300


def test_an_integer_is_a_rate_too() -> None:
    """JSON has one kind of number: 3 is a rate of 3.0."""
    assert decode(b'{"progress":{"phase":"x","rate":3}}') == Progress("x", rate=3.0)


def test_requests_are_bounded_and_checked() -> None:
    """Params read back; too long, missing, or wrong ones are named."""
    params = FetchParams("r", peers=("/ip4/1.2.3.4/tcp/1",), dry_run=True)
    assert decode_request(FetchParams, json.dumps(to_json(params)).encode()) == params
    assert decode_request(NoParams, b"") == NoParams()
    for body, words in [
        (b" " * (MAX_REQUEST + 1), "at most"),
        (b"{}", "'ref'"),
        (b'{"ref": 5}', "FetchParams.ref expects a text"),
        (b'{"ref": "x", "yes": 1}', "FetchParams.yes expects true or false"),
        (b'{"ref": "x", "peers": "y"}', "FetchParams.peers expects a list of texts"),
        (b'{"ref": "x", "peers": [1]}', "a list of texts"),
        (json.dumps({"ref": "x", "peers": ["y"] * (MAX_ITEMS + 1)}).encode(), "at most"),
        (json.dumps({"ref": "x" * (MAX_WORD + 1)}).encode(), "characters"),
    ]:
        with pytest.raises(UsageError, match=words):
            decode_request(FetchParams, body)


def test_yes_no_and_nothing_said_are_three_values() -> None:
    """`redistribution` tells no from not said, and refuses anything else."""
    for value in (None, True, False):
        assert from_json(PublishParams, {"folder": "/x", "name": "n", "redistribution": value}) == (
            PublishParams("/x", "n", redistribution=value)
        )
    with pytest.raises(UsageError, match="true or false or null"):
        from_json(PublishParams, {"folder": "/x", "name": "n", "redistribution": "no"})


def test_a_failure_carries_an_error_across() -> None:
    """An error becomes a failure and the failure the same error again, peer and all."""
    for error in (
        NotFound("no", next="look"),
        QuotaExceeded("full"),
        BadBytes("bad", peer="12D3"),
        PeerRefused("busy", status=429, peer="12D3"),
    ):
        again = Failure.of(error).error()
        assert type(again) is type(error)
        assert (again.message, again.next) == (error.message, error.next)
        assert Failure.of(again) == Failure.of(error)
    assert Failure.of(BadBytes("bad", peer="12D3")).json()["error"]["peer"] == "12D3"
    assert type(Failure("FROM_THE_FUTURE", "x").error()) is AllodError


def test_a_nursery_of_errors_is_one_failure() -> None:
    """Of a group our own error is told; a bug among them is told before it."""
    ours = BaseExceptionGroup("g", [ExceptionGroup("h", [NotFound("no")]), NotFound("nor")])
    assert Failure.of_any(ours) == Failure.of(NotFound("no"))
    bug = Failure.of_any(ExceptionGroup("g", [NotFound("no"), KeyError("k")]))
    assert (bug.code, bug.exit_code) == ("OTHER", 1)
    assert "KeyError" in bug.message
    assert "ALLOD_LOG=debug" in bug.next


@dataclass(frozen=True)
class Step:
    now: float
    done: int
    passes: bool
    rate: float = 0.0


def test_pace_passes_first_and_last_and_few_between() -> None:
    """Of many steps only those an interval apart pass, the last one always."""
    pace = Pace(interval=1.0)
    for step in [
        Step(0.0, 0, True),
        Step(0.5, 40, False),
        Step(1.0, 100, True, 100.0),
        Step(1.9, 190, False),
        Step(2.0, 200, True, 100.0),
        Step(2.1, 1000, True, 100.0 + 0.1 / 3 * 7900),
        Step(2.1, 1000, False),
    ]:
        passed = pace.take(Progress("fetch", step.done, 1000), step.now)
        assert (passed is not None) == step.passes, step
        if isinstance(passed, Progress) and step.rate:
            assert passed.rate == pytest.approx(step.rate)


def test_pace_keeps_phases_apart() -> None:
    """Two phases that alternate are each held to the interval; notes and restarts pass."""
    pace = Pace(interval=1.0)
    assert pace.take(Progress("a", 1), 0.0)
    assert pace.take(Progress("b", 1), 0.0)
    assert pace.take(Progress("a", 2), 0.1) is None
    assert pace.take(Progress("b", 2), 0.1) is None
    assert pace.take(Note("x"), 0.1) == Note("x")
    assert pace.take(Progress("a", 0), 0.2)
    assert pace.take(Progress("c", 5, rate=7.0), 0.2) == Progress("c", 5, rate=7.0)
    assert pace.take(Progress("c", 9, 9), 0.2) == Progress("c", 9, 9, rate=7.0)
