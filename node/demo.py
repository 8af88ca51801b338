"""``allod demo``: the whole story on this machine, with real nodes, and every step checked.

A bootstrap server and three nodes run as processes on loopback, each in a folder of its own.
One publishes a model; the others find it through the DHT and fetch it, the last from two holders
at once; a disk corrupts a copy and is caught; a fetch is killed and goes on.
Then a real model, small enough for any machine, is published, fetched, served, and asked something.
Everything goes through the same commands that a person types, and their ``--json`` answers are
what is checked. Nothing is left behind, and nothing leaves the machine.
"""

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from node.demo_model import make_model
from node.demo_people import Person, bootstrap_server, check

SLOW_LINE = "25MB"  # a second: slow enough that a fetch can be killed in the middle
DAMAGE_AT = 5_000_000  # the byte that the disk flips

Json = dict[str, Any]


def main(*, as_json: bool, quiet: bool, chat: bool = True) -> int:
    """Run the demo; 0 when every step did what it promises. Without ``chat``, no real model."""
    steps: list[str] = []
    started = time.monotonic()

    def say(text: str) -> None:
        steps.append(text)
        if not as_json and not quiet:
            print(text, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="allod-demo-"))
    try:
        with ExitStack() as stack:
            alice, bob = _story(folder, stack, say)
            if chat:
                from node.demo_serving import serve_and_ask

                serve_and_ask(folder, alice, bob, say, aloud=not as_json and not quiet)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - started
    if as_json:
        print(json.dumps({"ok": True, "seconds": round(seconds, 1), "steps": steps}))
    elif not quiet:
        print(f"\nAll of it held, in {seconds:.0f} seconds. Nothing is left behind.")
        print("Now your own: allod up, and in another terminal allod publish ./folder --as me/it")
    return 0


def _story(folder: Path, stack: ExitStack, say: Callable[[str], None]) -> tuple[Person, Person]:
    """Publish, find, fetch, damage, kill; Alice and Bob, whose nodes go on running."""
    say("1. A bootstrap server and three nodes start, as processes on this machine.")
    bootstrap = stack.enter_context(bootstrap_server(folder / "bootstrap"))
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
    return alice, bob


def _shares(fetched: Json) -> Counter[str]:
    """Bytes by peer; a source that changed from a stream to a lane stands there twice."""
    shares = Counter[str]()
    for source in fetched["sources"]:
        shares[source["peer"]] += source["bytes"]
    return shares


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


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
