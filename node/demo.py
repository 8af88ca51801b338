"""``allod demo``: the whole story on this machine, with real nodes, and every step checked.

A bootstrap server and three nodes run as processes on loopback, each in a folder of its own.
One publishes a model; the others find it through the DHT and fetch it, the last from two holders
at once; a disk corrupts a copy and is caught; a fetch is killed and goes on.
Everything goes through the same commands that a person types, and their ``--json`` answers are
what is checked. Nothing is left behind, and nothing leaves the machine.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from node.config import child_environ
from node.demo_model import make_model
from p2p.errors import AllodError

START_WITHIN = 60.0  # seconds for a node to say that it serves; usually three
FIND_WITHIN = 60.0  # seconds for the DHT to tell of a release
KILL_AT = 0.4  # of the bytes: where the fetch is killed
SLOW_LINE = "25MB"  # a second: slow enough that a fetch can be killed in the middle
DAMAGE_AT = 5_000_000  # the byte that the disk flips

Json = dict[str, Any]


class DemoFailed(AllodError):
    """A step of the demo did not do what it promises."""


def main(*, as_json: bool, quiet: bool) -> int:
    """Run the demo; 0 when every step did what it promises."""
    steps: list[str] = []
    started = time.monotonic()

    def say(text: str) -> None:
        steps.append(text)
        if not as_json and not quiet:
            print(text, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="allod-demo-"))
    try:
        with ExitStack() as stack:
            _story(folder, stack, say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - started
    if as_json:
        print(json.dumps({"ok": True, "seconds": round(seconds, 1), "steps": steps}))
    elif not quiet:
        print(f"\nAll of it held, in {seconds:.0f} seconds. Nothing is left behind.")
        print("Now your own: allod up, and in another terminal allod publish ./folder --as me/it")
    return 0


def _story(folder: Path, stack: ExitStack, say: Callable[[str], None]) -> None:
    say("1. A bootstrap server and three nodes start, as processes on this machine.")
    bootstrap = stack.enter_context(_bootstrap(folder / "bootstrap"))
    alice, bob, carol = (Person(folder / name, bootstrap) for name in ("alice", "bob", "carol"))
    ready = [stack.enter_context(person.node()) for person in (alice, bob, carol)]
    for person, status in zip((alice, bob, carol), ready, strict=True):
        say(f"   {person.name} is {status['peer']}")

    say("2. Alice makes a small model, in safetensors, and publishes it, signed with her key.")
    size = make_model(folder / "tiny")
    alice.run("key", "new", "alice")
    published = alice.run("publish", str(folder / "tiny"), "--as", "alice/tiny")
    manifest = published["manifest"]
    check(published["bytes"]["total"] == size, "the release has the folder's bytes")
    say(f"   {len(published['files'])} files, {_mb(size)}; its name is the hash of its manifest:")
    say(f"   {manifest}")

    say("3. Bob knows that name and nothing else. The DHT tells him who has it.")
    got = bob.fetch(manifest)
    check(got["bytes"]["fetched"] == size, "Bob fetched every byte")
    check(set(_shares(got)) == {ready[0]["peer"]}, "all came from Alice")
    _same(Path(got["path"]), folder / "tiny")
    rate = size / max(got["seconds"], 0.001)
    say(f"   {_mb(size)} in {got['seconds']:.1f} s ({_mb(rate)}/s), every leaf of it verified.")

    say("4. Carol knows who Alice is, and the model's name. She fetches from both at once.")
    got = carol.fetch(f"{published['publisher']}/tiny")
    check(got["manifest"] == manifest, "the name means the release that Alice listed")
    shares = _shares(got)
    check(sum(shares.values()) >= size, "Carol has every byte")
    check(set(shares) == {ready[0]["peer"], ready[1]["peer"]}, "both nodes gave their part")
    for person, status in ((alice, ready[0]), (bob, ready[1])):
        say(f"   {_mb(shares[status['peer']])} from {person.name}")

    say("5. Bob's disk flips one byte of his copy. It is caught, and one leaf repairs it.")
    damaged = Path(bob.fetch(manifest)["path"]) / "model.safetensors"
    flip(damaged, DAMAGE_AT)
    found = bob.run("verify", fails=4)
    check(found["leaves"]["bad"] == 1, "one leaf is bad, and only one")
    place = found["damaged"][0]
    say(f"   verify: {place['path']} is damaged in the leaf at byte {place['offset']:,}.")
    got = bob.fetch(manifest)
    check(0 < got["bytes"]["fetched"] <= 1 << 20, "the repair moves one leaf")
    check(bob.run("verify")["leaves"]["bad"] == 0, "Bob's copy is whole again")
    say(f"   fetch: {_mb(got['bytes']['fetched'])} came again, from a node that has it right.")

    say("6. Dave, on a slower line, fetches with no node of his own, and is killed in the middle.")
    dave = Person(folder / "dave", bootstrap, line=SLOW_LINE)
    reached = dave.fetch_and_die(manifest)
    say(f"   killed at {_mb(reached)}; the same command again:")
    got = dave.fetch(manifest)
    moved = got["bytes"]
    check(moved["local"] > 0, "what he had was kept")
    check(moved["local"] + moved["fetched"] == size, "the rest was fetched")
    _same(Path(got["path"]), folder / "tiny")
    say(f"   {_mb(moved['local'])} were there and verified, {_mb(moved['fetched'])} came.")


class Person:
    """Somebody with a node's home of their own, who types commands."""

    def __init__(self, home: Path, bootstrap: str, *, line: str = "none") -> None:
        self.name = home.name
        self._environ = child_environ(home)
        self._home = home
        home.mkdir(parents=True)
        (home / "config.toml").write_text(
            "[p2p]\nport = 0\nmdns = false\nlisten = ['127.0.0.1']\n"
            f"bootstrap = ['{bootstrap}']\n[http]\nport = 0\n[limits]\ndown = '{line}'\n"
        )

    @contextmanager
    def node(self) -> Iterator[Json]:
        """Run ``allod up``; yields its status."""
        with _process(["-m", "node.cli", "up", "--json"], self._home, self._environ) as process:
            yield _ready_line(process, f"{self.name}'s node", self._home)

    def run(self, *words: str, fails: int = 0) -> Json:
        """Run one command to its end and return what ``--json`` printed."""
        done = subprocess.run(
            [sys.executable, "-m", "node.cli", *words, "--json"],
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != fails:
            raise DemoFailed(
                f"allod {words[0]} of {self.name} ended with {done.returncode}: "
                f"{(done.stdout + done.stderr).strip()[-600:]}"
            )
        answer: Json = json.loads(done.stdout)
        return answer

    def fetch(self, manifest: str) -> Json:
        """Fetch, trying again while the news of the release is still on its way."""
        begin = time.monotonic()
        while True:
            start = time.monotonic()
            try:
                got = self.run("fetch", manifest)
            except DemoFailed:
                if time.monotonic() > begin + FIND_WITHIN:
                    raise
                continue
            return got | {"seconds": time.monotonic() - start}

    def fetch_and_die(self, manifest: str) -> int:
        """Start a fetch, kill it with SIGKILL in the middle; how many bytes it said it had."""
        command = [sys.executable, "-m", "node.cli", "fetch", manifest, "--json"]
        process = subprocess.Popen(
            command, env=self._environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        try:
            for line in process.stderr:
                progress = _progress(line)
                if progress and KILL_AT < progress["done"] / progress["total"] < 1:
                    return int(progress["done"])
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
        raise DemoFailed("The fetch ended before it could be killed.")


def _shares(fetched: Json) -> Counter[str]:
    """Bytes by peer; a source that changed from a stream to a lane stands there twice."""
    shares = Counter[str]()
    for source in fetched["sources"]:
        shares[source["peer"]] += source["bytes"]
    return shares


def _progress(line: str) -> Json | None:
    try:
        event = json.loads(line).get("progress")
    except ValueError:
        return None
    return event if event and event["phase"] == "fetch" and event["total"] else None


@contextmanager
def _bootstrap(home: Path) -> Iterator[str]:
    """Run a bootstrap server; yields the address at which it is reached."""
    home.mkdir()
    words = ["-m", "bootstrap", "--json", "--port", "0", "--http-port", "0", "--home", str(home)]
    words += ["--listen", "127.0.0.1"]
    with _process(words, home, child_environ(home)) as process:
        yield _ready_line(process, "the bootstrap server", home)["addresses"][0]


@contextmanager
def _process(words: list[str], home: Path, environ: dict[str, str]) -> Iterator[Any]:
    with (home / "stderr.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *words], env=environ, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def _ready_line(process: Any, who: str, home: Path) -> Json:
    """Return the JSON object that a server prints when it serves."""
    stream: IO[str] = process.stdout
    line = stream.readline()
    if not line:
        log = (home / "stderr.txt").read_text().strip()[-600:]
        raise DemoFailed(f"{who.capitalize()} did not start: {log}")
    answer: Json = json.loads(line)
    return answer


def flip(file: Path, offset: int) -> None:
    """Change one byte where it lies, as a failing disk would."""
    mode = file.stat().st_mode
    file.chmod(0o644)
    with file.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 1]))
    file.chmod(mode)


def _same(left: Path, right: Path) -> None:
    for file in right.rglob("*"):
        if file.is_file():
            other = left / file.relative_to(right)
            check(other.read_bytes() == file.read_bytes(), f"{other.name} arrived as it was")


def check(holds: bool, promise: str) -> None:
    """Raise DemoFailed unless a step did what it promises."""
    if not holds:
        raise DemoFailed(f"The demo expected that {promise}, and that is not so.")


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
