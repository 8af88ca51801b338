"""The list of served models outlives the node, and bad ones are told apart."""

from pathlib import Path

import pytest

from node.serving.roster import MAX_FILE, Entry, read_roster, write_roster
from p2p.cid import CID, Codec
from p2p.errors import StoreError

MANIFEST = CID.of(b"{}", Codec.JSON)
ENTRIES = [
    Entry("alice/tiny", MANIFEST, ("tiny",), context=2048, share=True),
    Entry("über/groß", MANIFEST, upstream="https://a.example/v1", upstream_key_file="/k"),
]


async def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Every field comes back; a list that was never written is empty."""
    file = tmp_path / "deep" / "served.json"
    assert read_roster(file) == []
    await write_roster(file, ENTRIES)
    assert read_roster(file) == ENTRIES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"served": 1}',
        '{"served": [{"name": "a"}]}',
        '{"served": [{"name": "a", "manifest": "x"}]}',
        f'{{"served": [{{"name": 1, "manifest": "{MANIFEST}"}}]}}',
        f'{{"served": [{{"name": "a", "manifest": "{MANIFEST}", "context": "many"}}]}}',
        "[" * 100_000,
        " " * (MAX_FILE + 1),
    ],
)
def test_a_damaged_list_says_what_to_do(tmp_path: Path, text: str) -> None:
    """No traceback, and nothing is served by guessing."""
    file = tmp_path / "served.json"
    file.write_text(text)
    with pytest.raises(StoreError, match="cannot be read") as caught:
        read_roster(file)
    assert "serve" in caught.value.next


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path) -> None:
    """A field that is not known here is no error."""
    file = tmp_path / "served.json"
    file.write_text(f'{{"served": [{{"name": "a", "manifest": "{MANIFEST}", "new": 1}}]}}')
    assert read_roster(file) == [Entry("a", MANIFEST)]
