"""A chain of four releases by three publishers is carried on a disk into a room without a network.

A dataset by words, a base model by alice, a fine-tune and its quantised form by bob: each got the
others' work as a file, nobody ever met anybody over a network. Everything is a real command in a
process of its own; eve's run in a network namespace in which there is nothing, where the machine
can make one.
"""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import trio

from tests.network.people import Json, Person, same_files
from tests.p2p.test_gguf import gguf, row
from tests.releases import MIB, noise, safetensors_bytes, write_folder

KEPT, WEIGHTS = noise(2 * MIB, 2), noise(MIB, 5)
DATA = {"train.txt": noise(2 * MIB + 5, 1), "README.md": b"---\nlicense: cc-by-4.0\n---\nWords\n"}
BASE = {"model.safetensors": safetensors_bytes({"kept": KEPT, "tuned": noise(MIB, 3)}, {})}
TUNED = {"model.safetensors": safetensors_bytes({"kept": KEPT, "tuned": noise(MIB, 4)}, {})}
QUANTISED = {
    "model-q8.gguf": gguf(
        rows=(row("kept", (MIB // 4,), 0, 0),), data=WEIGHTS, metadata=()
    ),
    "README.md": b"# Small\n",
}  # fmt: skip


@functools.cache
def no_network() -> list[str]:
    """The words before a command that shut it into an empty network namespace, if there are any."""
    words = ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which(words[0]) is None:
        return []
    look = "import socket; print([name for _, name in socket.if_nameindex()])"
    ran = subprocess.run(
        [*words, sys.executable, "-c", look], capture_output=True, text=True, check=False
    )
    return words if ran.stdout.strip() == "['lo']" else []


async def shut_in(person: Person, *words: str, code: int = 0) -> Json:
    """Run a command where there is no network; what it answers."""
    ran = await trio.run_process(
        [*no_network(), sys.executable, "-m", "node.cli", *words, "--json"],
        env=person.environ,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert ran.returncode == code, ran.stderr.decode()[-2000:] + ran.stdout.decode()[-2000:]
    assert b"Traceback" not in ran.stderr
    found: Json = json.loads(ran.stdout)
    return found


async def hand_over(giver: Person, ref: str, taker: Person, file: Path) -> None:
    """Give somebody a release with all that it descends from, as a file."""
    await giver.run("bundle", "export", ref, str(file))
    await taker.run("bundle", "import", str(file), "--yes")


async def make_chain(tmp_path: Path) -> Path:
    """Return the file that bob hands out: the quantised model and its whole lineage."""
    words, alice, bob = (Person(tmp_path / name) for name in ("words", "alice", "bob"))
    folder = write_folder(tmp_path / "data", DATA)
    data = await words.publish(folder, "words", "--kind", "dataset", "--offline")
    await hand_over(words, data["manifest"], alice, tmp_path / "words.car")

    folder = write_folder(tmp_path / "base", BASE)
    more = ("--license", "Apache-2.0", "--data", data["manifest"], "--offline")
    base = await alice.publish(folder, "base", *more)
    await hand_over(alice, base["manifest"], bob, tmp_path / "base.car")

    folder = write_folder(tmp_path / "tuned", TUNED)
    more = ("--license", "Apache-2.0", "--base", base["manifest"], "--offline")
    tuned = await bob.publish(folder, "tuned", *more)
    folder = write_folder(tmp_path / "small", QUANTISED)
    more = ("--license", "Apache-2.0", "--base", tuned["manifest"], "--offline")
    small = await bob.publish(folder, "small", *more)
    file = tmp_path / "small.car"
    await bob.run("bundle", "export", small["manifest"], str(file))
    return file


async def test_a_lineage_is_checked_where_there_is_no_network(tmp_path: Path) -> None:
    """No byte of the file can be changed; eve sees who signed what, and serves what she was given.

    A changed byte is exit code 4, and in a file the file's name and the leaf's number.
    """
    chain, eve, bent = await make_chain(tmp_path), Person(tmp_path / "eve"), tmp_path / "bent.car"
    data = chain.read_bytes()
    leaf = data.index(WEIGHTS[:64]) + 5
    for at in (200, leaf, len(data) - 1):
        bent.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        error = (await shut_in(eve, "bundle", "import", str(bent), "--yes", code=4))["error"]
        assert error["code"] == "VERIFICATION_FAILED"
        assert at != leaf or "leaf 1 of model-q8.gguf of small" in error["message"]
    assert (await shut_in(eve, "ls"))["releases"] == []

    got = await shut_in(eve, "bundle", "import", str(chain), "--yes")
    same_files(Path(got["path"]), tmp_path / "small")
    found = await shut_in(eve, "provenance", got["manifest"])
    assert [one["name"] for one in found["chain"]] == ["small", "tuned", "base", "words"]
    assert all(one["complete"] and one["signatures"]["ok"] for one in found["chain"])
    assert len({one["publisher"] for one in found["chain"]}) == 3

    frank = Person(tmp_path / "frank")
    async with eve.node() as node:
        fetched = await frank.run("fetch", got["ref"], "--peer", node.address, "--yes")
    same_files(Path(fetched["path"]), tmp_path / "small")
