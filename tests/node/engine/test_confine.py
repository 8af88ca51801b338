"""What an engine may not do, tried by programs that do it."""

import sys
from pathlib import Path

import pytest

from tests.node.engine.kept import outcome, rules

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux confines")

LISTEN = "import socket; s = socket.socket(socket.AF_UNIX); s.bind({0!r}); s.listen(); "


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"])
def test_it_makes_no_socket_but_unix_ones(family: str) -> None:
    """Without a network there is no socket of TCP, UDP or the kernel's."""
    code, said = outcome(f"import socket; socket.socket(socket.{family}, socket.SOCK_RAW)")
    assert code == 1
    assert "PermissionError" in said


def test_it_listens_and_connects_to_nobody(tmp_path: Path) -> None:
    """It may be spoken to over a Unix socket, and speak to none."""
    path = str(tmp_path / "s")
    allowed = rules(writable=(str(tmp_path),))
    code, said = outcome(LISTEN.format(path) + "print('listens')", allowed)
    assert (code, said) == (0, "listens\n")
    path = str(tmp_path / "t")
    connect = f"socket.socket(socket.AF_UNIX).connect({path!r})"
    code, said = outcome(LISTEN.format(path) + connect, allowed)
    assert code == 1
    assert "PermissionError" in said


def test_a_network_of_its_own_has_loopback_only() -> None:
    """Engines that talk to themselves over TCP can, and reach nobody else."""
    own = "import socket; s = socket.create_server(('127.0.0.1', 0)); "
    own += "socket.create_connection(s.getsockname()); print('itself'); "
    own += "socket.create_connection(('192.0.2.1', 9), 5)"
    code, said = outcome(own, rules(network="loopback"))
    assert code == 1
    assert said.startswith("itself\n")
    assert "unreachable" in said


def test_it_reads_what_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    """A file beside the model's folder is out of reach, and so is writing to the model."""
    (tmp_path / "secret").write_text("s")
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("w")
    given = rules(readable=(*rules().readable, str(model)))
    assert outcome(f"print(open({str(model / 'weights')!r}).read())", given) == (0, "w\n")
    for denied in (f"open({str(tmp_path / 'secret')!r})", f"open({str(model / 'x')!r}, 'w')"):
        code, said = outcome(denied, given)
        assert code == 1
        assert "PermissionError" in said


def test_memory_has_a_limit() -> None:
    """What asks for more address space than it was given does not get it."""
    code, said = outcome("bytearray(2 << 30)", rules(memory=1 << 30))
    assert code == 1
    assert "MemoryError" in said


def test_data_has_a_limit_where_space_has_none() -> None:
    """For engines that reserve much, what they really use is limited."""
    limited = rules(memory=1 << 30, measure="data")
    reserve = "import mmap; mmap.mmap(-1, 1 << 40, mmap.MAP_PRIVATE, prot=1)"
    assert outcome(reserve, limited)[0] == 0
    code, said = outcome("bytearray(2 << 30)", limited)
    assert code == 1
    assert "MemoryError" in said


def test_it_leaves_others_alone() -> None:
    """It sends no signal to the node, leaves no core dump, and gets no environment."""
    code, said = outcome("import os; os.kill(os.getppid(), 9)")
    assert code == 1
    assert "PermissionError" in said
    core = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    assert outcome(core) == (0, "(0, 0)\n")
    code, said = outcome("import os; print(sorted(os.environ), os.getcwd())")
    assert (code, said.replace("'LC_CTYPE', ", "")) == (0, "['PATH'] /\n")
