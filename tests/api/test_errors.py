"""Errors of the package: a class for each kind of fault, Python's own beside it, the same codes."""

import pickle
from collections.abc import Iterator

import pytest

import allod
from allod.errors import make_error, of_node
from p2p.errors import AllodError, NoSources, Untrusted


@pytest.mark.parametrize(
    ("code", "kind", "builtin"),
    [
        ("USAGE", allod.InvalidRequest, ValueError),
        ("NOT_FOUND", allod.Missing, FileNotFoundError),
        ("BAD_BYTES", allod.NotVerified, OSError),
        ("REFUSED", allod.Denied, PermissionError),
        ("UNTRUSTED", allod.UntrustedPublisher, PermissionError),
        ("NO_SOURCES", allod.Unreachable, ConnectionError),
        ("NO_NODE", allod.NodeUnavailable, ConnectionError),
        ("DISK_FULL", allod.StorageFull, OSError),
        ("SOMETHING_NEW", allod.Error, Exception),
    ],
)
def test_a_code_has_its_class(code: str, kind: type, builtin: type) -> None:
    """Each is caught by its own class, by Error, and by Python's class for such a fault."""
    error = make_error(code, "It went wrong.", "Do that.")
    assert type(error) is kind
    assert isinstance(error, builtin)
    assert isinstance(error, allod.Error)
    assert (error.code, error.message, error.next) == (code, "It went wrong.", "Do that.")
    assert str(error) == "It went wrong. Do that."


def test_an_error_crosses_processes() -> None:
    """A worker's error keeps its words and its number."""
    error = make_error("NOT_FOUND", "It is gone.", "Look.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is allod.Missing
    assert (again.code, again.message, again.next) == ("NOT_FOUND", "It is gone.", "Look.")
    assert isinstance(error, OSError)
    assert again.errno == error.errno == 2


def kinds(kind: type[AllodError] = AllodError) -> Iterator[type[AllodError]]:
    """Every error of p2p.errors."""
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == "p2p.errors":
            yield from kinds(below)


def test_every_code_of_a_node_fits() -> None:
    """Whatever a node raises keeps its code; the faults of names, networks, disks are OSErrors."""
    for kind in kinds():
        error = make_error(kind.code, "x")
        assert error.code == kind.code
        if kind.code != "NO_MEMORY":
            assert isinstance(error, OSError) == (3 <= kind.exit_code <= 8)
    assert isinstance(of_node(NoSources("x", next="y")), allod.Unreachable)
    assert isinstance(of_node(Untrusted("x")), allod.UntrustedPublisher)
    assert of_node(AllodError("x")).code == "OTHER"
