"""``python -m bootstrap`` as a process of its own, and the files that come with it."""

import configparser
import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from bootstrap.__main__ import main, parser
from bootstrap.peers import addresses_but, parse_servers, read_servers
from p2p.address import Address
from p2p.cid import CID, Codec
from p2p.errors import ConfigError
from p2p.http import HttpClient
from tests.network.hosts import crew

FOLDER = Path(__file__).parents[2] / "bootstrap"
PEER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
LOCAL = ("--port", "0", "--http-port", "0", "--listen", "127.0.0.1", "--json")


@asynccontextmanager
async def server(home: Path, *words: str) -> AsyncIterator[dict[str, Any]]:
    """A running server; what its ready line says. It must end well when it is told to."""
    command = [sys.executable, "-m", "bootstrap", "--home", str(home), *LOCAL, *words]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with process.stdout:
            line = b""
            with trio.fail_after(60):
                while not line.endswith(b"\n"):
                    piece = await process.stdout.receive_some()
                    assert piece, "the server ended before it was ready"
                    line += piece
            yield json.loads(line)
            process.terminate()
            with trio.fail_after(60):
                assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def ask(url: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """One request to the health page."""
    host, port = url.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with HttpClient(stream, peer=host) as client:
        return await client.get(path, limit=100_000)


async def knows_somebody(url: str) -> None:
    """Wait until a server has a peer in its table."""
    with trio.fail_after(60):
        while json.loads((await ask(url, "/health"))[2])["table"] == 0:  # noqa: ASYNC110
            await trio.sleep(0.05)  # it is another process: there is no event to wait for


async def test_a_network_by_a_server(tmp_path: Path) -> None:
    """Two nodes that know only the server find each other's keys; the page counts them."""
    async with server(tmp_path / "home") as ready, crew() as hosts:
        a = await hosts.host(dht=True, bootstrap=tuple(ready["addresses"]))
        b = await hosts.host(dht=True, bootstrap=tuple(ready["addresses"]))
        await a.dht.wait_ready()
        await b.dht.wait_ready()
        cid = CID.of(b"x", Codec.RAW)
        await a.dht.announce([cid])
        assert await a.dht.wait_announced([cid], timeout=10)
        assert [info.peer for info in await b.dht.providers(cid)] == [a.host.peer_id]

        status, headers, body = await ask(ready["http"], "/health")
        health = json.loads(body)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert health["ok"] is True
        assert (health["peer"], health["addresses"]) == (ready["peer"], ready["addresses"])
        assert (health["peers"], health["table"], health["records"]) == (2, 2, 1)

        status, headers, body = await ask(ready["http"], "/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert ready["peer"].encode() in body
        assert a.host.peer_id.encode() not in body
        assert (await ask(ready["http"], "/else"))[0] == 404


async def test_identity_and_peers_outlive_a_restart(tmp_path: Path) -> None:
    """A server comes back with its identity, and to the peers that it knew."""
    home, file = tmp_path / "home", tmp_path / "address"
    async with crew(60) as hosts:
        async with server(home, "--address-file", str(file)) as first:
            assert file.read_text().strip() == first["addresses"][0]
            a = await hosts.host(dht=True, bootstrap=tuple(first["addresses"]))
            await a.dht.wait_ready()
            await knows_somebody(first["http"])
        assert (home / "node.key").stat().st_mode & 0o777 == 0o600
        async with server(home) as second:
            assert second["peer"] == first["peer"]
            await knows_somebody(second["http"])


async def test_other_servers_are_joined_by_the_peers_file(tmp_path: Path) -> None:
    """A server joins those that the peers file names, itself left out."""
    async with server(tmp_path / "one") as one:
        file = tmp_path / "peers.toml"
        file.write_text(f"[[server]]\naddresses = {json.dumps(one['addresses'])}\n")
        async with server(tmp_path / "two", "--peers", str(file)) as two:
            await knows_somebody(two["http"])


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The program with these words, to its end."""
    command = [sys.executable, "-m", "bootstrap", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_one_sentence_for_a_port_in_use(tmp_path: Path) -> None:
    """A port that another program has is one sentence and exit code 6."""
    async with server(tmp_path / "one") as ready:
        port = str(Address.parse(ready["addresses"][0]).port)
        words = ["--home", str(tmp_path / "two"), "--listen", "127.0.0.1", "--port", port]
        ended = await trio.to_thread.run_sync(lambda: run(*words))
        assert ended.returncode == 6
        (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
        assert f"port {port}" in line
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--peers", "/nonexistent.toml"], 2),
        (["--announce", "nonsense"], 2),
        (["--http-listen", "192.0.2.1"], 6),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, words: list[str], code: int) -> None:
    """What cannot be is said in a sentence, with the exit code of its kind."""
    ended = run("--home", str(tmp_path / "home"), *LOCAL, *words)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("error:") == 1


def test_options_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """The README lists each option, and --help shows them without importing libp2p."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    readme = (FOLDER / "README.md").read_text()
    for action in parser()._actions:
        for option in action.option_strings:
            if option not in ("-h", "--help"):
                assert option in shown
                assert f"| `{option}" in readme


def commands() -> list[list[str]]:
    """Every command line of this program in the files beside it and in the how-to."""
    how_to = FOLDER.parent / "docs" / "how-to" / "run-a-bootstrap.md"
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    found = [compose["services"]["bootstrap"]["command"]]
    image = (FOLDER / "Containerfile").read_text().splitlines()
    found += [json.loads(line.removeprefix("CMD ")) for line in image if line.startswith("CMD ")]
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(FOLDER / "allod-bootstrap.service")
    found.append(shlex.split(unit["Service"]["ExecStart"]))
    for text in (how_to.read_text(), (FOLDER / "README.md").read_text()):
        lines = text.replace("\\\n", " ").splitlines()
        found += [shlex.split(line) for line in lines if "python -m bootstrap -" in line]
    return found


def test_command_lines_are_understood() -> None:
    """The lines in the unit, the image, the compose file and the documents are valid."""
    lines = commands()
    assert len(lines) >= 5
    for line in lines:
        words = line[line.index("bootstrap") + 1 :] if "bootstrap" in line else line
        options = parser().parse_args(words)
        for address in options.announce:
            Address.parse(address)


def test_the_shipped_peers_file_names_nobody() -> None:
    """The file that ships is valid and empty: no node talks to whom its owner didn't name."""
    assert read_servers(FOLDER / "peers.toml") == ()
    example = "\n".join(
        line.removeprefix("# ")
        for line in (FOLDER / "peers.toml").read_text().splitlines()
        if line.startswith(("# [[", "# operator", "# contact", "# addresses"))
    )
    assert tomllib.loads(example)["server"]
    (found,) = parse_servers(example.replace("12D3KooW...", PEER))
    assert found.operator == "Example University"
    assert addresses_but([found], "somebody") == found.addresses
    assert addresses_but([found], PEER) == ()


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "server = 1",
        "other = 1",
        "server = [1]",
        "[[server]]",
        "[[server]]\naddresses = []",
        "[[server]]\naddresses = ['/ip4/1.2.3.4/tcp/1']",
        "[[server]]\naddresses = ['x']",
        f"[[server]]\naddresses = ['/ip4/1.2.3.4/tcp/1/p2p/{PEER}']\noperator = 1",
        f"[[server]]\naddresses = ['/ip4/1.2.3.4/tcp/1/p2p/{PEER}']\nwhat = 1",
    ],
)
def test_malformed_peers_files(text: str) -> None:
    """A mistake in a peers file is named."""
    with pytest.raises(ConfigError):
        parse_servers(text)


def test_peers_files_are_bounded(tmp_path: Path) -> None:
    """A peers file that is too long or no text is refused."""
    for data in (b"#" * 2_000_000, b"\xff\xfe"):
        (tmp_path / "peers.toml").write_bytes(data)
        with pytest.raises(ConfigError):
            read_servers(tmp_path / "peers.toml")
