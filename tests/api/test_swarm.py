"""Two nodes, and a program beside the one that holds nothing: it reads from the other.

The programs are processes of their own, with the tools that people use; what moved is counted
where it comes from.
"""

from pathlib import Path

import numpy
import pandas
import pytest
import trio

from tests.network.people import Json, Person, program
from tests.releases import MIB, noise, write_folder

ROWS = 80_000
WIDE = 500  # bytes of b in a row: 40 MB in all
NOISE = noise(3 * MIB + 5, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset: a table with a narrow and a wide column, and a file that is no table."""
    made = write_folder(tmp_path / "data", {"README.md": b"# Data\n", "dir/noise.bin": NOISE})
    dice = numpy.random.default_rng(3)
    wide = dice.bytes(ROWS * WIDE)
    table = pandas.DataFrame(
        {
            "a": numpy.arange(ROWS, dtype="int32"),
            "b": [wide[at : at + WIDE] for at in range(0, len(wide), WIDE)],
        }
    )
    table.to_parquet(made / "x.parquet", index=False, row_group_size=ROWS // 4)
    assert (made / "x.parquet").stat().st_size > 40_000_000
    return made


async def run(person: Person, script: str) -> Json:
    """Run a program beside a person's node; the object that it prints."""
    async with program(["-c", script], person.environ) as running:
        code = await running.ended()
        assert code == 0, running.tail()
        return await running.answer()


# It ends without the interpreter's own end: there, a thread of pyarrow's that still waits for a
# range which nobody needs any more brings the process down, now and then, on a busy machine.
PANDAS = """
import json, os, pandas
found = pandas.read_parquet("allod://{ref}/x.parquet", columns=["a"])
said = {{"rows": len(found), "sum": int(found["a"].sum()), "columns": list(found)}}
print(json.dumps(said), flush=True)
os._exit(0)
"""

AGAIN = """
import fsspec, json, pandas, pyarrow.compute as pc, pyarrow.dataset as ds
found = ds.dataset("{ref}/x.parquet", filesystem=fsspec.filesystem("allod"))
table = found.to_table(columns=["a"], filter=pc.field("a") < 10)
frame = pandas.read_parquet("allod://{ref}/x.parquet", columns=["a"])
print(json.dumps({{"rows": table.num_rows, "sum": sum(table["a"].to_pylist()),
                   "equal": frame["a"].tolist() == list(range(len(frame)))}}))
"""

FILES = """
import hashlib, json, allod, fsspec
from multiprocessing import get_context

def part(at):
    fs = fsspec.filesystem("allod")
    return hashlib.sha256(fs.cat_file("{ref}/dir/noise.bin", at, at + 1000)).hexdigest()

with allod.open_file("{ref}", "dir/noise.bin") as file:
    file.seek(-5, 2)
    end = file.read().hex()
with get_context("fork").Pool(2) as pool:
    parts = pool.map(part, [0, 1000, 2_000_000])
    pool.close()
    pool.join()
release = allod.release("{ref}")
print(json.dumps({{"end": end, "parts": parts, "files": [one.path for one in release.files]}}))
"""

TRIO = """
import json, trio, allod, allod.trio

async def main():
    async with allod.trio.open_file("{ref}", "dir/noise.bin") as file:
        head = await file.read(10)
        size = file.size
    seen = []
    got = await allod.trio.fetch("{ref}", include="dir/", progress=seen.append)
    print(json.dumps({{"head": head.hex(), "size": size, "path": str(got.path / "dir/noise.bin"),
                       "held": [one.path for one in got.files if one.held],
                       "phases": sorted({{one.phase for one in seen}})}}))

trio.run(main)
"""


async def test_a_column_moves_no_more_than_it_must(tmp_path: Path, folder: Path) -> None:
    """Of 40 MB a narrow column takes a few MiB, and again nothing."""
    alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
    table = {"rows": ROWS, "sum": ROWS * (ROWS - 1) // 2}
    with trio.fail_after(110):
        release = await alice.publish(folder, "data")
        async with alice.hostile("honest") as source, bob.node("--peer", source.address):
            ref = f"{release['publisher']}/data@{release['manifest']}"
            found = await run(bob, PANDAS.format(ref=ref))
            assert found == table | {"columns": ["a"]}
            moved = await source.sent()
            # A leaf for each of the four row groups, and the footer's, and what lies across two.
            assert 0 < moved <= 9 * MIB
            found = await run(bob, AGAIN.format(ref=release["manifest"]))
            assert found == {"rows": 10, "sum": 45, "equal": True}
            assert await source.sent() == moved


@pytest.mark.long
async def test_programs_read_files(tmp_path: Path, folder: Path) -> None:
    """open_file, workers, and trio read the same bytes; fetch brings the rest of a file."""
    from hashlib import sha256

    alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
    with trio.fail_after(110):
        release = await alice.publish(folder, "data")
        async with alice.node() as source, bob.node("--peer", source.address):
            await bob.run("trust", "add", release["publisher"], "--as", "friend")
            found = await run(bob, FILES.format(ref="friend/data"))
            assert found["end"] == NOISE[-5:].hex()
            starts = (0, 1000, 2_000_000)
            assert found["parts"] == [sha256(NOISE[at : at + 1000]).hexdigest() for at in starts]
            assert {"README.md", "x.parquet", "dir/noise.bin"} <= set(found["files"])
            found = await run(bob, TRIO.format(ref="friend/data"))
            assert found["head"] == NOISE[:10].hex()
            assert found["size"] == len(NOISE)
            assert found["held"] == ["dir/noise.bin"]
            assert "fetch" in found["phases"]
            assert await trio.Path(found["path"]).read_bytes() == NOISE
