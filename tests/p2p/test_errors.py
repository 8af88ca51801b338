"""The error tree: what each class says of itself, and which error of a group is heard."""

import pytest

from p2p.errors import (
    AllodError,
    BadBytes,
    NoSources,
    PeerGone,
    PeerRefused,
    QuotaExceeded,
    culprit,
    each_error,
)


def kinds(root: type[AllodError] = AllodError) -> list[type[AllodError]]:
    return [root, *(kind for below in root.__subclasses__() for kind in kinds(below))]


def test_codes_are_one_a_class_and_exit_codes_come_from_above() -> None:
    """No two kinds share a word; the exit code is that of the branch."""
    tree = [kind for kind in kinds() if kind.__module__ == "p2p.errors"]
    assert len({kind.code for kind in tree}) == len(tree)
    for kind in tree[1:]:
        parent = kind.__mro__[1]
        assert issubclass(parent, AllodError)
        assert parent.exit_code in (1, kind.exit_code)


@pytest.mark.parametrize(
    ("errors", "heard"),
    [
        ([PeerGone("a"), KeyError("bug"), QuotaExceeded("b")], KeyError),
        ([PeerGone("a"), QuotaExceeded("b"), NoSources("c")], QuotaExceeded),
        ([PeerGone("a"), NoSources("c")], NoSources),
        ([BadBytes("a")], BadBytes),
    ],
)
def test_the_error_that_matters_is_heard(errors: list[Exception], heard: type) -> None:
    """A bug before our own errors, the store and the caller before the network, one peer last."""
    group = ExceptionGroup("", [ExceptionGroup("", errors), errors[0]])
    assert type(culprit(group)) is heard
    assert set(map(id, each_error(group))) == set(map(id, errors))


def test_errors_carry_what_to_do_and_whose_fault_it_was() -> None:
    """The message, the next step, the peer, the status and when to come back."""
    error = PeerRefused("No.", status=429, retry_after=2.5, peer="p", next="Wait.")
    assert (str(error), error.message, error.next) == ("No.", "No.", "Wait.")
    assert (error.peer, error.status, error.retry_after) == ("p", 429, 2.5)
