"""Deny lists are read in both notations, and deny what they name and nothing else."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.cid import CID, Codec, Hash
from p2p.errors import ConfigError
from p2p.keys import SecretKey
from p2p.policy import deny
from p2p.policy.deny import read_deny_list, write_entry

RAW = CID.of(b"one", Codec.RAW)
FOLDER = CID.of(b"two", Codec.DAG_PB, Hash.SHA2_256)
OTHER = CID.of(b"three", Codec.RAW)


def base58(raw: bytes) -> str:
    return deny._base58(raw)


def multihash(cid: CID) -> bytes:
    return bytes([cid.hash, 32]) + cid.digest


def test_our_own_notation() -> None:
    """A CID or a key, then the reason in free words; comments and blank lines say nothing."""
    key = SecretKey.from_seed(bytes(32)).public
    text = f"# a list\n\n{RAW} harmful: see the report\n  {FOLDER}\n{key.did}\tstolen\n"
    found = read_deny_list(text, "mine")
    assert (len(found), found.wrong, found.foreign) == (3, 0, 0)
    assert str(found.denies(RAW)) == (
        f"{RAW} is on the deny list mine, line 3: harmful: see the report"
    )
    assert str(found.denies(FOLDER)) == f"{FOLDER} is on the deny list mine, line 4"
    assert found.denies(OTHER) is None
    denied = found.denies_key(key)
    assert denied is not None
    assert (denied.line, denied.reason) == (5, "stolen")
    assert found.denies_key(SecretKey.from_seed(bytes([1]) * 32).public) is None


def test_what_is_written_is_read() -> None:
    """An entry that `trust deny` writes is one line, whatever the reason is."""
    found = read_deny_list(write_entry(str(RAW), "first\nsecond\t third"), "mine")
    assert len(found) == 1
    denied = found.denies(RAW)
    assert denied is not None
    assert denied.reason == "first second third"


@pytest.mark.parametrize(
    "text",
    [
        str(FOLDER),
        str(CID(Codec.RAW, FOLDER.hash, FOLDER.digest)),
        base58(multihash(FOLDER)),  # CIDv0
        "f0170" + multihash(FOLDER).hex(),
        "z" + base58(b"\x01\x70" + multihash(FOLDER)),
        "f017112" + "20" + FOLDER.digest.hex(),  # dag-cbor, a codec that is none of ours
    ],
)
def test_a_cid_denies_by_its_hash(text: str) -> None:
    """The version, base and codec of a CID in Kubo's format make no difference."""
    found = read_deny_list(f"/ipfs/{text} reason=bad_%26_known", "kubo")
    assert found.wrong == 0
    denied = found.denies(FOLDER)
    assert denied is not None
    assert denied.reason == "bad & known"
    assert found.denies(RAW) is None


def test_the_header_is_passed_over() -> None:
    """A YAML header ends with its dashes; lines are counted from the beginning of the file."""
    text = f"version: 1\nname: x\nhints:\n  a: b\n---\n/ipfs/{RAW}\n"
    denied = read_deny_list(text, "kubo").denies(RAW)
    assert denied is not None
    assert denied.line == 6
    with pytest.raises(ConfigError, match="version 2"):
        read_deny_list("version: 2\n---\n", "kubo")


def test_paths_below_a_folder() -> None:
    """One path, all with a beginning, and exceptions: the last line that matches counts."""
    text = f"""
/ipfs/{FOLDER}/exact/
/ipfs/{FOLDER}/pre%20fix*
!/ipfs/{FOLDER}/pre%20fix/not
+/ipfs/{FOLDER}/pre%20fix/fine*
"""
    found = read_deny_list(text, "kubo")
    assert found.has_paths
    expected = {
        "": False, "exact": True, "exact/below": False, "pre fix": True, "pre fix/a": True,
        "pre fix/not": False, "pre fix/fine/x": False, "other": False,
    }  # fmt: skip
    for path, denied in expected.items():
        assert (found.denies(FOLDER, path) is not None) is denied, path
    whole = read_deny_list(f"/ipfs/{FOLDER}/*", "kubo")
    assert whole.denies(FOLDER) is not None
    assert whole.denies(FOLDER, "any/path") is not None


def test_hashed_entries() -> None:
    """A list may hide what it denies behind a hash, of the modern form or the legacy one."""
    name = base58(multihash(RAW))
    modern = base58(b"\x12\x20" + hashlib.sha256(name.encode()).digest())
    below = base58(multihash(CID.of(f"{base58(multihash(FOLDER))}/a/b".encode(), Codec.RAW)))
    legacy = hashlib.sha256(f"{OTHER}/".encode()).hexdigest()
    found = read_deny_list(f"//{modern}\n//{below}\n//{legacy}\n", "kubo")
    assert (len(found), found.wrong) == (3, 0)
    assert found.denies(RAW) is not None
    assert found.denies(CID(Codec.DAG_PB, RAW.hash, RAW.digest)) is not None
    assert found.denies(OTHER) is not None
    assert found.denies(FOLDER) is None
    assert found.denies(FOLDER, "a/b") is not None


def test_the_examples_of_the_specification() -> None:
    """Entries that the specification gives deny the CIDs that it says."""
    text = """
/ipfs/bafybeihvvulpp4evxj7x7armbqcyg6uezzuig6jp3lktpbovlqfkuqeuoq
//QmX9dhRcQcKUw3Ws8485T5a9dtjrSCQaUAHnG4iK9i4ceM
//d9d295bde21f422d471a90f2a37ec53049fdf3e5fa3ee2e8f20e10003da429e7
//3f8b9febd851873b3774b937cce126910699ceac56e72e64b866f8e258d09572
/ipns/domain.example
"""
    found = read_deny_list(text, "kubo")
    assert (found.wrong, found.foreign) == (0, 1)
    cases = [
        ("bafybeihvvulpp4evxj7x7armbqcyg6uezzuig6jp3lktpbovlqfkuqeuoq", "", True),
        ("bafkreihvvulpp4evxj7x7armbqcyg6uezzuig6jp3lktpbovlqfkuqeuoq", "", True),
        ("bafybeidjwik6im54nrpfg7osdvmx7zojl5oaxqel5cmsz46iuelwf5acja", "", True),
        ("bafybeiefwqslmf6zyyrxodaxx4vwqircuxpza5ri45ws3y5a62ypxti42e", "", True),
        ("bafybeiefwqslmf6zyyrxodaxx4vwqircuxpza5ri45ws3y5a62ypxti42e", "path", True),
        ("bafybeiefwqslmf6zyyrxodaxx4vwqircuxpza5ri45ws3y5a62ypxti42e", "path2", False),
    ]
    for cid, path, denied in cases:
        assert (found.denies(CID.parse(cid), path) is not None) is denied, (cid, path)


def test_wrong_lines_are_counted_and_the_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody can read is left out; hashes that nothing here has are counted apart."""
    lines = [
        "gibberish", "/ipfs/", "/ipfs/b!!!", "/other/x", "//zz!", "//", "did:key:z6Mkwrong",
        "f0170" + "1220" + "00" * 31, "f0070" + "1220" + "00" * 32, "f01", "b" + "a" * 500,
        "z", "//" + "1" * 500, "f0155" + "1220" + "0" * 63,
    ]  # fmt: skip
    odd = ["/ipfs/f0155" + "1340" + "00" * 64, "//" + base58(b"\x13\x40" + bytes(range(64)))]
    found = read_deny_list("\n".join([*lines, *odd, str(RAW)]), "list")
    assert (found.wrong, found.foreign, len(found)) == (len(lines), len(odd), 1)
    assert found.denies(RAW) is not None
    monkeypatch.setattr(deny, "MAX_LINES", 3)
    with pytest.raises(ConfigError, match="more than 3 lines"):
        read_deny_list("\n".join(lines), "list")
    monkeypatch.setattr(deny, "MAX_DENY_LIST", 10)
    with pytest.raises(ConfigError, match="the limit is 10"):
        read_deny_list("\n" * 11, "list")


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from("\n/#!+-*% bfkzQm:did1ipfs\t-") | st.characters()))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever a list holds, it is read, or refused with a word."""
    found = read_deny_list(text, "list")
    assert found.denies(RAW, "a") is None
