"""What an engine may not do, tried by programs that do it."""

import json
import socket
import struct
import sys
from pathlib import Path

import pytest

from node.engine.confine import _AUDIT, _assembled, _program
from tests.node.engine.kept import HANG, outcome, rules, start

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


@pytest.mark.parametrize("call", ["socket", "socketpair"])
@pytest.mark.parametrize("kind", ["SOCK_DGRAM", "SOCK_RAW", "SOCK_SEQPACKET"])
def test_it_sends_no_datagrams(call: str, kind: str) -> None:
    """A Unix datagram needs no connection to reach another program: there are streams only."""
    code, said = outcome(f"import socket; socket.{call}(socket.AF_UNIX, socket.{kind})")
    assert code == 1
    assert "PermissionError" in said
    pair = "import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(9))"
    assert outcome(pair) == (0, "b'x'\n")


TRY = """
import os, socket, sys, threading
def attempt(what):
    try: what()
    except OSError as exc: return type(exc).__name__
    return "done"
thread = threading.Thread(target=int)
thread.start()
thread.join()
"""


def test_it_starts_no_process_and_leaves_no_group() -> None:
    """Each process has the limits for itself, so there is one; it has threads."""
    tries = TRY + "for call in (os.fork, os.setsid, lambda: os.setpgid(0, 0), "
    tries += "lambda: os.posix_spawn('/bin/true', ['true'], {})): print(attempt(call))"
    assert outcome(tries) == (0, "PermissionError\n" * 4)
    tries = "import os; pid = os.fork() or os._exit(0); print(os.waitpid(pid, 0)[1])"
    assert outcome(tries, rules(processes=True)) == (0, "0\n")


def test_what_it_writes_has_a_limit(tmp_path: Path) -> None:
    """Nothing at all where it has nothing to write, though its folder may be written."""
    fill = f"f = open({str(tmp_path / 'f')!r}, 'wb'); f.write(bytes(2000)); f.close()"
    allowed = {"writable": (str(tmp_path),)}
    assert outcome(fill, rules(write=2000, **allowed))[0] == 0
    for most in (0, 1000):
        code, said = outcome(fill, rules(write=most, **allowed))
        assert code == 1
        assert "File too large" in said


def test_memory_shared_with_other_programs_is_out_of_reach() -> None:
    """/dev/shm is everybody's: it is neither listed, read nor written."""
    for denied in ("os.listdir('/dev/shm')", "open('/dev/shm/allod-test', 'w')"):
        code, said = outcome(f"import os; {denied}")
        assert code == 1
        assert "PermissionError" in said


@pytest.mark.parametrize("needs_unix", [False, True])
def test_over_tcp_it_reaches_no_unix_socket_outside(tmp_path: Path, needs_unix: bool) -> None:
    """The runner's socket leads in and none leads out; streams only for what can't run without."""
    place = tmp_path / "run"
    place.mkdir()
    engine = TRY + (
        "def meet(kind):\n"
        f"    s = socket.socket(socket.AF_UNIX, kind); s.connect({str(tmp_path / 'out')!r})\n"
        "said = [attempt(lambda: meet(kind)) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]\n"
        "said += [attempt(socket.socketpair), attempt(lambda: socket.socket(40, 1))]\n"  # vsock
        "said += ['open' if os.path.exists('engine.sock') else os.getcwd()]\n"
        "listener = socket.create_server(('127.0.0.1', 8000))\n"
        "print('listens', flush=True)\n"
        "while True: listener.accept()[0].sendall(repr(said).encode())\n"
    )
    told = {"socket": str(place / "s"), "port": 8000, "needs_unix": needs_unix,
            "argv": [sys.executable, "-I", "-c", engine]}  # fmt: skip
    runner = "import json; from node.engine.tcp_runner import main; "
    runner += f"main(json.loads({json.dumps(told)!r}))"
    confined = rules(network="loopback", processes=True, writable=(str(place),))
    with socket.socket(socket.AF_UNIX) as outside, start(runner, confined) as keeper:
        outside.bind(str(tmp_path / "out"))
        outside.listen()
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "listens\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place / "s"))
            said = client.recv(4096).decode()
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait(HANG)
    first = "done" if needs_unix else "PermissionError"
    assert said == repr([first, "PermissionError", "done", "PermissionError", "/"])


@pytest.mark.parametrize("machine", sorted(_AUDIT))
@pytest.mark.parametrize("sockets", ["any", "streams", "network", "streams or network"])
def test_the_filter_is_right_on_every_machine(
    machine: str, sockets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel would run for machines that we are not on, run here."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    code, count = _assembled(_program(["setsid", "io_uring_setup"], sockets, False))
    lines = list(struct.iter_unpack("=HBBI", code))
    assert len(lines) == count

    def answer(number: int, *words: int, arch: int = _AUDIT[machine]) -> int:
        data = struct.pack("<IIQ6Q", number, arch, 0, *words, *[0] * (6 - len(words)))
        value, at = 0, 0
        while True:
            kind, then, other, word = lines[at]
            at += 1
            if kind == 0x20:
                value = int.from_bytes(data[word : word + 4], "little")
            elif kind == 0x54:
                value &= word
            elif kind == 0x06:
                return int(word)
            else:
                tests = {0x15: value == word, 0x35: value >= word, 0x45: bool(value & word)}
                at += then if tests[kind] else other

    allow, deny = 0x7FFF0000, 0x5000D
    x86 = machine == "x86_64"
    assert answer(0, arch=1) == 0x80000000
    assert answer(0) == allow
    assert answer(112 if x86 else 157) == answer(425) == deny
    assert answer(435) == 0x50026
    clone = 56 if x86 else 220
    assert (answer(clone, 0x11), answer(clone, 0x3D0F00)) == (deny, allow)
    if x86:
        assert answer(57) == answer(58) == answer(0x40000000 + 1) == deny
    make, pair = (41, 53) if x86 else (198, 199)
    nonblocking = 0x800
    free, streams = sockets == "any", "streams" in sockets
    assert (answer(make, 1, 1 | nonblocking) == allow) is (free or streams)
    assert (answer(make, 1, 2) == allow) is free
    assert (answer(make, 2, 1) == allow) is (sockets != "streams")
    assert (answer(make, 40, 1) == allow) is free
    assert answer(pair, 1, 1) == allow
    assert (answer(pair, 1, 2) == allow) is free


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
