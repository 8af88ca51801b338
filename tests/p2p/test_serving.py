"""What two nodes agree on when one answers in the other's place."""

import json
from typing import Any

import pytest

from p2p.cid import CID, Codec
from p2p.errors import PeerFault
from p2p.serving import Serving, serving_key

MANIFEST = CID.of(b"{}", Codec.JSON)
SAID = {
    "slots": 2,
    "busy": 1,
    "waiting": 3,
    "context": 4096,
    "capabilities": ["chat", "json_schema"],
    "state": "ready",
}


def test_the_key_of_those_who_answer() -> None:
    """The key is the manifest's own, another than the manifest's, and the same everywhere."""
    key = serving_key(MANIFEST)
    assert str(key) == "bafkr4idpidgdye6vne53alsnfkxtvgx2ha332oecbjum63l77l53r5plcu"
    assert key.codec is Codec.RAW
    assert key.digest != MANIFEST.digest
    assert serving_key(CID.of(b"[]", Codec.JSON)) != key


def test_round_trip() -> None:
    """What is written is read, and unknown fields are passed over."""
    serving = Serving(2, 1, 3, 4096, frozenset({"chat", "json_schema"}), "ready")
    assert json.loads(serving.encode()) == SAID
    assert Serving.decode(json.dumps(SAID | {"more": [1]}).encode()) == serving
    assert serving.load == 2.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slots", 0),
        ("slots", -1),
        ("slots", True),
        ("slots", 1.5),
        ("busy", "1"),
        ("busy", 1 << 21),
        ("waiting", None),
        ("context", 1 << 41),
        ("capabilities", "chat"),
        ("capabilities", ["chat"] * 33),
        ("capabilities", ["Chat\n"]),
        ("state", ""),
        ("state", ["ready"]),
        ("state", "x" * 100),
    ],
)
def test_what_makes_no_sense_is_refused(field: str, value: Any) -> None:
    """A field of the wrong kind, or past its bounds, is the peer's fault, by name."""
    with pytest.raises(PeerFault) as caught:
        Serving.decode(json.dumps(SAID | {field: value}).encode(), "12D3KooWpeer")
    assert caught.value.peer == "12D3KooWpeer"


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 4000, b"null", b"{}"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    """Anything but a JSON object of that kind is the peer's fault."""
    with pytest.raises(PeerFault):
        Serving.decode(data)
