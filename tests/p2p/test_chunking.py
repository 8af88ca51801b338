"""Where leaves end: sums that fit, cuts at tensors, and fine-tunes that share what they kept."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.chunking import LEAF_SIZE, LeafSizes, Profile, leaf_sizes, max_leaves
from p2p.cid import Hash
from p2p.dag import Outline
from p2p.tensors import ReadAt
from tests.vectors import content, unixfs


def reader(data: bytes) -> ReadAt:
    """Read from bytes as from a file."""
    return lambda offset, length: data[offset : offset + length]


def never(offset: int, length: int) -> bytes:
    raise AssertionError("this profile must not read the file")


def safetensors(tensors: dict[str, bytes], note: str = "") -> bytes:
    """A safetensors file of byte tensors."""
    header: dict[str, object] = {"__metadata__": {"note": note}} if note else {}
    at = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + b"".join(tensors.values())


@pytest.mark.parametrize("case", unixfs()["files"], ids=lambda case: str(case["size"]))
def test_golden(case: dict[str, Any]) -> None:
    """Files under unixfs-v1-2025 have the CIDs that the JavaScript ipfs-unixfs-importer gave."""
    sizes = leaf_sizes(Profile.UNIXFS_V1_2025, "x", never, case["size"])
    blocks = list(content(case["size"])) or [b""]
    assert list(sizes) == list(map(len, blocks))
    digests = b"".join(hashlib.sha256(block).digest() for block in blocks)
    outline = Outline.build(sizes, digests, Profile.UNIXFS_V1_2025.hash)
    assert (str(outline.root), outline.dag_size) == (case["cid"], case["dagSize"])


def test_hashes() -> None:
    """Only the profile for readers without BLAKE3 uses SHA-256."""
    assert {profile: profile.hash for profile in Profile} == {
        Profile.TENSOR_1M: Hash.BLAKE3,
        Profile.FIXED_1M: Hash.BLAKE3,
        Profile.UNIXFS_V1_2025: Hash.SHA2_256,
    }


@given(st.lists(st.integers(0, 3 * LEAF_SIZE + 1), max_size=20))
def test_leaf_sizes(sections: list[int]) -> None:
    """Sizes sum up, none passes 1 MiB, none is empty but that of an empty file; they repeat."""
    sizes = LeafSizes(sections)
    once = list(sizes)
    assert sum(once) == sizes.size == sum(sections)
    assert len(once) == len(sizes)
    assert once == list(sizes)
    assert max(once) <= LEAF_SIZE
    assert min(once) > 0 or once == [0]
    assert f"leaves={len(once)}" in repr(sizes)


def test_a_terabyte_is_cheap() -> None:
    """The cuts of a huge file cost no memory until somebody walks them, and no reading at all."""
    sizes = leaf_sizes(Profile.FIXED_1M, "x", never, 1 << 40)
    assert (len(sizes), sizes.size) == (1 << 20, 1 << 40)
    assert next(iter(sizes)) == LEAF_SIZE


def test_cuts_at_tensors() -> None:
    """The header is cut off, every tensor starts a leaf, long ones are cut every 1 MiB."""
    data = safetensors({"a": bytes(LEAF_SIZE + 5), "b": b"", "c": bytes(7), "d": bytes(LEAF_SIZE)})
    header = len(data) - (2 * LEAF_SIZE + 12)
    for name in ("model.safetensors", "MODEL.SAFETENSORS", "lora.sft"):
        sizes = leaf_sizes(Profile.TENSOR_1M, name, reader(data), len(data))
        assert list(sizes) == [header, LEAF_SIZE, 5, 7, LEAF_SIZE]


@pytest.mark.parametrize("profile", [Profile.FIXED_1M, Profile.UNIXFS_V1_2025])
def test_fixed_ignores_tensors(profile: Profile) -> None:
    """The fixed profiles cut every 1 MiB whatever the file is, and do not look at it."""
    size = 2 * LEAF_SIZE + 1
    assert list(leaf_sizes(profile, "model.safetensors", never, size)) == [LEAF_SIZE, LEAF_SIZE, 1]


def test_other_files_are_cut_evenly() -> None:
    """Under tensor-1m, files that hold no tensors, or hold them wrongly, are cut evenly."""
    text = bytes(LEAF_SIZE + 1)
    broken = safetensors({"a": bytes(LEAF_SIZE)})[:-1]
    for name, data in (
        ("a.txt", text),
        ("a.safetensors", text),
        ("a.safetensors", broken),
        ("a.gguf", b"GGUF" + text),
        ("empty.safetensors", b""),
        ("tiny.safetensors", b"GGUF"),
    ):
        sizes = leaf_sizes(Profile.TENSOR_1M, name, reader(data), len(data))
        assert list(sizes) == list(LeafSizes([len(data)]))


def test_too_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of more tensors than anyone needs is cut evenly, and no file passes max_leaves."""
    monkeypatch.setattr("p2p.tensors.safetensors.MAX_TENSORS", 500)
    monkeypatch.setattr("p2p.chunking.MAX_TENSORS", 500)
    for count, leaves in ((500, 501), (501, 1)):
        data = safetensors({str(index): b"x" for index in range(count)})
        sizes = leaf_sizes(Profile.TENSOR_1M, "x.safetensors", reader(data), len(data))
        assert len(sizes) == leaves <= max_leaves(len(data))


def test_fine_tunes_share_tensors() -> None:
    """A fine-tune whose header has another length shares the leaves of every unchanged tensor."""
    base = {f"layer.{i}": bytes([i]) * (LEAF_SIZE + 1000 * i) for i in range(1, 6)}
    tuned = {**base, "layer.3": b"new" * 1000}
    leaves = []
    for data in (safetensors(base), safetensors(tuned, note="fine-tuned " * 9)):
        at, found = 0, set()
        for size in leaf_sizes(Profile.TENSOR_1M, "m.safetensors", reader(data), len(data)):
            found.add(Hash.BLAKE3.digest(data[at : at + size]))
            at += size
        leaves.append(found)
    assert len(leaves[1] - leaves[0]) == 2  # the header, and the tensor that changed
