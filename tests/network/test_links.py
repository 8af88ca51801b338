"""Sources on links of different speeds: each gives its part, the fast ones more."""

from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.network.people import MIB, Person, same_files
from tests.releases import noise, write_folder

RATES = {"slow": 4, "middle": 8, "fast": 16}  # MB/s upwards: a machine under load keeps up


@pytest.mark.long
async def test_the_sum_of_unequal_links_is_used(tmp_path: Path) -> None:
    """Three holders with links of 4, 8 and 16 MB/s all deliver, in the order of their links."""
    folder = write_folder(tmp_path / "files", {"weights.bin": noise(96 * MIB)})
    with trio.fail_after(110):
        people = {name: Person(tmp_path / name) for name in RATES}
        release = await people["fast"].publish(folder, "tiny")
        for name, person in people.items():
            if name != "fast":
                person.take_store_of(people["fast"])
            with (person.home / "config.toml").open("a") as config:
                config.write(f"[limits]\nup = '{RATES[name]}MB'\n")
        async with AsyncExitStack() as stack:
            nodes = {}
            for name, person in people.items():
                nodes[name] = await stack.enter_async_context(person.node())
            reader = Person(tmp_path / "reader")
            peers = [word for node in nodes.values() for word in ("--peer", node.address)]
            got = await reader.run("fetch", release["manifest"], *peers)
    same_files(Path(got["path"]), folder)
    gave = Counter[str]()
    for one in got["sources"]:  # a line for each kind: by lane, by stream
        gave[one["peer"]] += one["bytes"]
    shares = [gave[nodes[name].peer] for name in ("slow", "middle", "fast")]
    assert shares == sorted(shares), got["sources"]
    assert shares[2] > 2 * shares[0], "the fast link idled"
    assert sum(shares) < 1.1 * 96 * MIB, "much was read twice"
