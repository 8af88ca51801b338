"""References: every form is read, has one spelling, and a wrong one says what is wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.cid import CID, Codec, Hash
from p2p.errors import AllodError, UsageError
from p2p.keys import SecretKey
from p2p.references import (
    MAX_PEERS,
    MAX_REFERENCE,
    Reference,
    parse_reference,
    share_link,
)

PUBLISHER = str(CID.of(b"root", Codec.JSON))
PEER = SecretKey.from_seed(bytes(32)).public.peer_id
MANIFEST = CID.of(b"{}", Codec.JSON)
ADDRESSES = (
    f"/ip4/192.0.2.1/tcp/9770/p2p/{PEER}",
    f"/ip6/2001:db8::1/tcp/9770/p2p/{PEER}",
    f"/dns4/node.example.org/tcp/443/p2p/{PEER}",
)
LINK = f"allod:{PUBLISHER}/tiny-llm@{MANIFEST}?peer={ADDRESSES[0]}&peer={ADDRESSES[1]}"


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("alice/tiny-llm", Reference("alice", "tiny-llm", None, None)),
        ("alice/tiny-llm@1.2.0", Reference("alice", "tiny-llm", "1.2.0", None)),
        ("Alice-2/Tiny_LLM.v1@v1+cu12", Reference("Alice-2", "Tiny_LLM.v1", "v1+cu12", None)),
        (f"alice/tiny-llm@{MANIFEST}", Reference("alice", "tiny-llm", None, MANIFEST)),
        (f"{PUBLISHER}/tiny-llm", Reference(PUBLISHER, "tiny-llm", None, None)),
        (str(MANIFEST), Reference(None, None, None, MANIFEST)),
        (LINK, Reference(PUBLISHER, "tiny-llm", None, MANIFEST, ADDRESSES[:2])),
        (
            f"allod:{MANIFEST}?peer={ADDRESSES[2]}",
            Reference(None, None, None, MANIFEST, ADDRESSES[2:]),
        ),
    ],
)
def test_reads(text: str, reference: Reference) -> None:
    """Each form says what it says, and is written again as it was."""
    assert parse_reference(text) == reference
    assert str(reference) == text


def test_a_link_without_peers() -> None:
    """A link may name no peer: then the network is asked."""
    link = share_link(PUBLISHER, "tiny-llm", MANIFEST, [])
    assert link == f"allod:{PUBLISHER}/tiny-llm@{MANIFEST}"
    assert parse_reference(link) == Reference(PUBLISHER, "tiny-llm", None, MANIFEST)


def test_share_link() -> None:
    """A link is read back as what it was made of, with as many peers as a link takes."""
    assert share_link(PUBLISHER, "tiny-llm", MANIFEST, iter(ADDRESSES[:2])) == LINK
    many = [f"/ip4/192.0.2.1/tcp/{port}/p2p/{PEER}" for port in range(1, 100)]
    assert parse_reference(share_link(PUBLISHER, "x", MANIFEST, many)).peers == tuple(
        many[:MAX_PEERS]
    )


@pytest.mark.parametrize(
    ("publisher", "name", "manifest", "peer"),
    [
        ("alice", "tiny", MANIFEST, ADDRESSES[0]),
        (PUBLISHER, "ti ny", MANIFEST, ADDRESSES[0]),
        (PUBLISHER, "tiny?", MANIFEST, ADDRESSES[0]),
        (PUBLISHER, "tiny", CID.of(b"", Codec.RAW), ADDRESSES[0]),
        (PUBLISHER, "tiny", MANIFEST, "/ip4/192.0.2.1/tcp/9770"),
        (PUBLISHER, "tiny", MANIFEST, ADDRESSES[0] + "&peer=x"),
    ],
)
def test_no_link_that_could_not_be_read(
    publisher: str, name: str, manifest: CID, peer: str
) -> None:
    """A link is made only if it can be read back."""
    with pytest.raises(UsageError):
        share_link(publisher, name, manifest, [peer])


TEXT = str(MANIFEST)
FILE = str(CID.of(b"", Codec.RAW))
FOLDER = str(CID.of(b"", Codec.DAG_PB, Hash.SHA2_256))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' does not name a release"),
        ("tiny-llm", "'tiny-llm' does not name a release"),
        ("@1.2.0", "'@1.2.0' does not name a release"),
        ("alice/", "name has letters, digits, .* this is ''"),
        ("/tiny", "A publisher is a petname or an id .* this is ''"),
        ("./tiny", "A publisher is a petname .* this is '.'"),
        ("alice/tiny/x", "this is 'tiny/x'"),
        ("alice/tiny llm", "without spaces"),
        ("alice/tiny\n", "without spaces"),
        ("alicе/tiny", "plain letters"),  # the e is Cyrillic
        ("alice/tiny@", "Behind '@' comes a version or the CID of a manifest, this is ''"),
        ("alice/tiny@1/2", "this is 'tiny@1/2'|this is '1/2'"),
        ("alice/tiny@1@2", "Behind '@'"),
        ("hf:org/repo", "this is 'hf:org'"),
        ("https://example.org/x", "this is 'https:'"),
        (f"ipfs://{TEXT}", "this is 'ipfs:'"),
        (f"alice/tiny?peer={ADDRESSES[0]}", "Only a link may name peers"),
        (f"{TEXT}?peer={ADDRESSES[0]}", "Only a link may name peers"),
        (TEXT[:-1], "59 characters or 61, this text has 60"),
        (TEXT + "a", "59 characters or 61, this text has 62"),
        (TEXT[:20] + "1" + TEXT[21:], "letters a-z and digits 2-7"),  # a flipped letter
        (TEXT[:20] + TEXT[20].upper() + TEXT[21:], "letters a-z and digits 2-7"),
        (TEXT[:-1] + "b", "spare bits"),
        (TEXT[:3] + "b" + TEXT[4:], "A CID here is version 1"),
        (f"alice/tiny@{TEXT[:20]}0{TEXT[21:]}", "letters a-z and digits 2-7"),
        (FILE, "names a file, and a release is named by its manifest's CID"),
        (f"alice/tiny@{FOLDER}", "names a file or a folder"),
        (f"{PUBLISHER[:-1]}/tiny", "A publisher's id is"),
        (f"{PUBLISHER[:9]}0{PUBLISHER[10:]}/tiny", "A publisher's id is"),
        (f"{PUBLISHER[:-1]}w/tiny", "A publisher's id is"),
        (f"allod:{FILE}/tiny@{TEXT}", "A publisher's id is"),
        (f"allod:alice/tiny@{TEXT}", "A publisher's id is"),
        (f"allod:{PUBLISHER}/tiny", "A link names a release by the CID"),
        (f"allod:{PUBLISHER}/tiny@1.0", "A link names a release by the CID"),
        (f"ALLOD:{PUBLISHER}/tiny@{TEXT}", "this is 'ALLOD:"),
        (f"allod:{TEXT}?", "nothing but peer=... behind '\\?', this is ''"),
        (f"allod:{TEXT}?x=1", "this is 'x=1'"),
        (f"allod:{TEXT}?peer=", "TCP multiaddr"),
        (f"allod:{TEXT}?peer=/ip4/192.0.2.1/tcp/9770", "with /p2p/ at its end"),
        (f"allod:{TEXT}?peer=/dns4/Example.org/tcp/1/p2p/{PEER}", "/dns4/example.org"),
        (f"allod:{TEXT}?peer=/ip4/999.0.2.1/tcp/9770/p2p/{PEER}", "IP address"),
        (f"allod:{TEXT}?peer={ADDRESSES[0][:-1]}", "peer id|multihash"),
        (f"allod:{TEXT}?peer={ADDRESSES[0]}&", "this is ''"),
        (f"allod:{TEXT}?" + "&".join([f"peer={ADDRESSES[0]}"] * 17), "at most 16 peers"),
        ("x" * (MAX_REFERENCE + 1), "at most 8192 characters"),
        ("b" + "a" * 8000, "59 characters or 61"),
    ],
)
def test_refuses(text: str, reason: str) -> None:
    """A text that is no reference is refused in a sentence that says what is wrong with it."""
    with pytest.raises(UsageError, match=reason) as caught:
        parse_reference(text)
    assert caught.value.exit_code == 2
    assert len(caught.value.message) < 400


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_mutated_references(data: st.DataObject) -> None:
    """A changed reference is refused or means something else, and raises only our errors."""
    text = data.draw(st.sampled_from([LINK, TEXT, "alice/tiny-llm@1.2.0", f"{PUBLISHER}/tiny"]))
    place = data.draw(st.integers(0, len(text)))
    piece = data.draw(
        st.text(max_size=2)
        | st.sampled_from(["/", "@", "?", "&", "=", "peer=", "%2F", "allod:", "A", "a", "1", "%"])
    )
    changed = text[:place] + piece + text[place + data.draw(st.integers(0, 2)) :]
    if changed == text:
        return
    try:
        reference = parse_reference(changed)
    except AllodError:
        return
    # The one text that has a second spelling is a link without peers.
    assert reference != parse_reference(text) or changed.removeprefix("allod:") == text
    assert str(reference) in (changed, changed.removeprefix("allod:"))


@settings(deadline=None)
@given(st.text(max_size=100))
def test_any_text(text: str) -> None:
    """Whatever a person types, the answer is a reference or one of our errors."""
    try:
        reference = parse_reference(text)
    except AllodError:
        return
    assert str(reference) in (text, text.removeprefix("allod:"))
