"""Policies of real nodes: what one denies, others don't get from it; a person is asked at first."""

import os
import pty
import re
import sys
from pathlib import Path

import httpx
import pytest
import trio

from tests.network.people import Node, Person
from tests.releases import MIB, noise, write_folder

FILES = {
    "model.gguf": noise(2 * MIB + 77, 1),
    "config.json": b'{"model_type": "llama"}',
    "README.md": b"# Tiny\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a release."""
    return write_folder(tmp_path / "tiny", FILES)


async def status_of(node: Node, path: str) -> tuple[int, str]:
    """What a node's door on loopback answers: the status, and the reason if it is none of 200."""
    url = node.status["http"]

    def get() -> tuple[int, str]:
        answer = httpx.get(f"{url}{path}")
        return answer.status_code, "" if answer.is_success else answer.json()["error"]["message"]

    return await trio.to_thread.run_sync(get)


@pytest.mark.long
async def test_a_denied_file_is_not_served_while_the_others_are(
    tmp_path: Path, folder: Path
) -> None:
    """A running node notices the edit of its policy: 410 and the reason, and nobody fetches it."""
    with trio.fail_after(100):
        alice, reader = Person(tmp_path / "alice"), Person(tmp_path / "reader")
        release = await alice.publish(folder, "tiny")
        files = {one["path"]: one["cid"] for one in release["files"]}
        async with alice.node() as node:
            assert await status_of(node, f"/ipfs/{files['model.gguf']}") == (200, "")
            (alice.home / "denied.txt").write_text(f"{files['model.gguf']} it leaks\n")
            (alice.home / "policy.toml").write_text('deny = ["denied.txt"]\n')
            while (found := await status_of(node, f"/ipfs/{files['model.gguf']}"))[0] != 410:
                assert found == (200, "")
            assert "it leaks" in found[1]
            for path in (f"/ipfs/{files['README.md']}", f"/ipfs/{release['root']}/config.json"):
                assert await status_of(node, path) == (200, "")
            assert (await status_of(node, f"/ipfs/{release['root']}/model.gguf"))[0] == 410
            words = ("fetch", release["manifest"], "--peer", node.address)
            error = await reader.refused(*words, code=5)
            assert "gives it to nobody" in error["message"]
            assert "it leaks" in error["message"]
            got = await reader.run(*words, "--exclude", "*.gguf")
            assert sorted(os.listdir(got["path"])) == ["README.md", "config.json"]
            (alice.home / "policy.toml").write_text("")
            got = await reader.run(*words)
            assert sorted(os.listdir(got["path"])) == sorted(FILES)


@pytest.mark.long
async def test_a_pickle_is_refused_with_its_rule(tmp_path: Path) -> None:
    """`allod fetch` ends with 5, names rule and file, moves nothing; --exclude gets the rest."""
    with trio.fail_after(100):
        alice, reader = Person(tmp_path / "alice"), Person(tmp_path / "reader")
        folder = write_folder(tmp_path / "bad", {**FILES, "weights.pt": noise(MIB, 3)})
        release = await alice.publish(folder, "bad")
        async with alice.node() as node:
            words = ("fetch", release["manifest"], "--peer", node.address)
            error = await reader.refused(*words, code=5)
            assert error["code"] == "REFUSED"
            assert error["message"].startswith("Refused by default.formats: weights.pt of bad 1")
            assert "--exclude '*.pt'" in error["next"]
            assert (await reader.run("status"))["store"]["bytes"] == 0
            got = await reader.run(*words, "--exclude", "*.pt")
            assert sorted(os.listdir(got["path"])) == sorted(FILES)


async def typed(person: Person, answer: str, *words: str) -> tuple[int, str]:
    """Run a command at a terminal, type one line when it asks; its exit code, what it showed."""
    child, screen = pty.fork()
    if not child:
        environ = person.environ | {"TERM": "xterm"}
        os.execve(sys.executable, [sys.executable, "-m", "node.cli", *words], environ)

    def watch() -> tuple[int, str]:
        shown = b""
        while True:
            try:
                piece = os.read(screen, 65536)
            except OSError:  # Linux says so when the other end is closed
                piece = b""
            if not piece:
                break
            asked = b"[y/N]" in shown
            shown += piece
            if b"[y/N]" in shown and not asked:
                os.write(screen, answer.encode() + b"\n")
        os.close(screen)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), shown.decode()

    return await trio.to_thread.run_sync(watch)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
async def test_a_person_is_asked_about_a_new_publisher(tmp_path: Path, folder: Path) -> None:
    """At a terminal: no is 5 and fetches nothing, yes is remembered; always and never don't ask."""
    with trio.fail_after(100):
        alice, reader = Person(tmp_path / "alice"), Person(tmp_path / "reader")
        release = await alice.publish(folder, "tiny")
        publisher = release["publisher"]
        async with alice.node() as node:
            words = ("fetch", release["manifest"], "--peer", node.address)
            code, shown = await typed(reader, "n", *words)
            assert code == 5, shown
            assert publisher in shown
            assert "Trust this publisher? [y/N]" in shown
            assert (await reader.run("ls"))["releases"] == []

            (reader.home / "policy.toml").write_text('tofu = "never"\n')
            code, shown = await typed(reader, "y", *words)
            assert (code, "[y/N]" in shown) == (5, False), shown

            (reader.home / "policy.toml").write_text("")
            code, shown = await typed(reader, "y", *words)
            assert code == 0, shown
            assert "allod trust add" in re.sub(r"\s+", " ", shown)
            listed = await reader.run("trust", "list")
            assert [one["publisher"] for one in listed["seen"]] == [publisher]

            other = Person(tmp_path / "other")
            (other.home / "policy.toml").write_text('tofu = "always"\n')
            code, shown = await typed(other, "n", *words)
            assert (code, "[y/N]" in shown) == (0, False), shown


async def test_a_node_does_not_start_with_a_policy_that_it_cannot_read(tmp_path: Path) -> None:
    """A slip in policy.toml is told at the start, with the key, as for the configuration."""
    person = Person(tmp_path / "person")
    (person.home / "policy.toml").write_text('tofu = "perhaps"\n')
    error = await person.refused("up", code=2)
    assert error["code"] == "CONFIG"
    assert "tofu expects ask, never or always" in error["message"]
