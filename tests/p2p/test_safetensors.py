"""safetensors headers: read as the reference reads them, and refused where it should refuse."""

import json
import time
import tracemalloc
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.errors import AllodError, UsageError, VerificationFailed
from p2p.tensors import (
    MAX_METADATA,
    MAX_SAFETENSORS_HEADER,
    MAX_TENSORS,
    ReadAt,
    Tensor,
    TensorFile,
    read_safetensors,
    slice_safetensors,
    sniff,
)

MIB = 1 << 20


def reader(data: bytes) -> ReadAt:
    """Read from bytes as from a file."""
    return lambda offset, length: data[offset : offset + length]


def read(data: bytes) -> TensorFile:
    return read_safetensors(reader(data), len(data))


def framed(header: str | bytes, data: bytes = b"") -> bytes:
    """A file of this header, well formed or not, and this data."""
    raw = header if isinstance(header, bytes) else header.encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(start: int = 0, stop: int = 1, dtype: str = "U8", shape: str = "[1]") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{stop}]}}'


MODEL: dict[str, Any] = {
    "embed": numpy.arange(12, dtype=numpy.float32).reshape(3, 4),
    "bias": numpy.zeros((0, 7), dtype=numpy.int64),
    "norm": numpy.array(1.5, dtype=numpy.float16),
    "ü 😀": numpy.arange(5, dtype=numpy.uint8),
}
MODEL_FILE = safetensors.numpy.save(MODEL, {"format": "pt", "note": 'a "b" {c} é'})


def test_reads_what_the_reference_wrote() -> None:
    """Names, types, shapes, bytes and metadata are those that the reference put in."""
    file = read(MODEL_FILE)
    assert (file.format, file.metadata) == ("safetensors", {"format": "pt", "note": 'a "b" {c} é'})
    assert [tensor.start for tensor in file.tensors] == sorted(t.start for t in file.tensors)
    assert {tensor.name: tensor.shape for tensor in file.tensors} == {
        name: array.shape for name, array in MODEL.items()
    }
    for tensor in file.tensors:
        assert MODEL_FILE[tensor.start : tensor.stop] == MODEL[tensor.name].tobytes()
    assert {tensor.name: tensor.dtype for tensor in file.tensors}["norm"] == "F16"
    assert file.header_size == 8 + int.from_bytes(MODEL_FILE[:8], "little")


@pytest.mark.parametrize(
    "names", [[], ["embed"], ["bias"], ["ü 😀", "norm"], ["norm", "embed"], list(MODEL)]
)
def test_slices_are_files(names: list[str]) -> None:
    """Some tensors, taken out, make a smaller file that the reference loads, metadata kept."""
    header, spans = slice_safetensors(read(MODEL_FILE), names)
    assert len(header) % 8 == 0
    assert all(start < stop for start, stop in spans)
    assert all(left[1] < right[0] for left, right in pairwise(spans))
    data = header + b"".join(MODEL_FILE[start:stop] for start, stop in spans)
    loaded = safetensors.numpy.load(data)
    assert {name: array.tobytes() for name, array in loaded.items()} == {
        name: MODEL[name].tobytes() for name in names
    }
    assert read(data).metadata == read(MODEL_FILE).metadata


def test_slices_without_metadata() -> None:
    """A file without metadata gives slices without, and a whole file is one span."""
    data = safetensors.numpy.save({"a": MODEL["embed"], "b": MODEL["norm"]})
    header, spans = slice_safetensors(read(data), {"a", "b"})
    assert b"__metadata__" not in header
    assert spans == [(read(data).header_size, len(data))]


def test_slice_refusals() -> None:
    """A tensor that is not there, or a file of another format, is refused by name."""
    with pytest.raises(UsageError, match="no tensor 'nose'"):
        slice_safetensors(read(MODEL_FILE), ["embed", "nose"])
    with pytest.raises(UsageError, match="not gguf"):
        slice_safetensors(TensorFile("gguf", 0, (), {}), [])


@settings(max_examples=250)
@given(st.data())
def test_mutations(data: st.DataObject) -> None:
    """A changed file is refused, or the reference reads the same tensors at the same bytes."""
    place = data.draw(st.integers(0, len(MODEL_FILE)))
    stop = data.draw(st.integers(place, min(len(MODEL_FILE), place + 6)))
    inserted = data.draw(
        st.binary(max_size=6) | st.sampled_from([b"{", b"}", b",", b'"', b"[]", b"\\u0041", b" "])
    )
    check_against_reference(MODEL_FILE[:place] + inserted + MODEL_FILE[stop:])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["U8", "F32", "F4", "X9", "x"]) | values,
        "shape": st.lists(st.integers(0, 4), max_size=3) | values,
        "data_offsets": st.lists(st.integers(0, 9), min_size=2, max_size=2) | values,
        "more": values,
    },
)


@settings(max_examples=250)
@given(
    st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), entries | values, max_size=4),
    st.binary(max_size=20),
)
def test_hostile_headers(header: dict[str, object], data: bytes) -> None:
    """Whatever JSON comes, it is refused, or the reference reads it alike."""
    check_against_reference(framed(json.dumps(header), data))


def check_against_reference(data: bytes) -> None:
    """What we accept, the reference accepts (but for types that it does not know yet)."""
    try:
        file = read(data)
    except AllodError:
        return
    end = file.header_size
    for tensor in file.tensors:
        assert tensor.start == end
        end = tensor.stop
    assert end == len(data)
    if any(tensor.dtype == "X9" for tensor in file.tensors):
        return
    reference: dict[str, Any] = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    ours = {t.name: (list(t.shape), data[t.start : t.stop]) for t in file.tensors}
    assert ours == {name: (t["shape"], bytes(t["data"])) for name, t in reference.items()}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "begins with 8 bytes"),
        (bytes(8), "begins with 8 bytes"),
        (framed(" {}"), "begins with 8 bytes"),
        (framed("[]"), "begins with 8 bytes"),
        (b"\xff" * 8 + b"{}", "at most 16777216 bytes"),
        ((3).to_bytes(8, "little") + b"{}", "lies within"),
        (framed(b'{"\xff":{}}'), "not UTF-8"),
        (framed("{} x"), "goes on after"),
        (framed("{}\0"), "goes on after"),
        (framed("{a:1}"), "no string at character 1"),
        (framed('{"a'), "broken string"),
        (framed('{"a\n":1}'), "broken string"),
        (framed('{"\\ud800":' + entry() + "}", b"x"), "broken string"),
        (framed('{"a"}'), "no ':'"),
        (framed('{"a":' + entry() + ";}", b"x"), "no ',' or '}'"),
        (framed('{"a":' + entry() + ",}", b"x"), "no string"),
        (framed('{"a":' + entry() + ',"a":' + entry(1, 2) + "}", b"xy"), "key 'a' twice"),
        (framed('{"__metadata__":{},"__metadata__":{}}'), "twice"),
        (framed('{"__metadata__":{"a":"","a":""}}'), "key 'a' twice"),
        (framed('{"__metadata__":{"a":1}}'), "no string"),
        (framed('{"__metadata__":[]}'), "no object"),
        (framed('{"a":1}'), "no dtype, shape"),
        (framed('{"a":{}}'), "no dtype, shape"),
        (framed('{"a":{"dtype":"U8","shape":[1]}}', b"x"), "no dtype, shape"),
        (framed('{"a":{"dtype":"U8",,}}'), "broken JSON"),
        (framed('{"a":{"dtype":"U8","dtype":"U8"}}'), "broken JSON"),
        (framed('{"a":{"x":' + "[" * 3000 + "]" * 3000 + "}}"), "no dtype, shape"),
        (framed('{"a":{"x":' + "[" * 1900 + "]" * 1900 + "}}"), "too deeply"),
        (framed('{"a":{"x":' + "9" * 4050 + "}}"), "no dtype, shape"),
        (framed('{"a":' + entry()[:-1] + ',"x":1}}', b"x"), "described wrongly"),
        (framed('{"a":' + entry(dtype="u8") + "}", b"x"), "described wrongly"),
        (framed('{"a":' + entry(shape="[true]") + "}", b"x"), "described wrongly"),
        (framed('{"a":' + entry(shape="[1.0]") + "}", b"x"), "described wrongly"),
        (framed('{"a":' + entry(shape="[-1]") + "}", b"x"), "described wrongly"),
        (framed('{"a":' + entry(shape=str([1] * 33)) + "}", b"x"), "described wrongly"),
        (framed('{"a":' + entry(0, 2**63) + "}", b"x"), "described wrongly"),
        (framed('{"a":' + entry(1, 0, shape="[]") + "}", b"x"), "can't fill"),
        (framed('{"a":' + entry(0, 1, shape="[2]") + "}", b"x"), "can't fill"),
        (framed('{"a":' + entry(0, 0, shape=f"[{2**62}, 4]") + "}", b"x"), "can't fill"),
        (framed('{"a":' + entry(0, 1, "F4", "[1]") + "}", b"x"), "can't fill"),
        (framed('{"a":' + entry(1, 2) + "}", b"xy"), "starts at byte"),
        (framed('{"a":' + entry(0, 1) + ',"b":' + entry(2, 3) + "}", b"xyz"), "one before it"),
        (framed('{"a":' + entry(0, 1) + ',"b":' + entry(0, 1) + "}", b"xy"), "one before it"),
        (framed('{"a":' + entry(0, 1) + "}", b"xy"), "the file has"),
        (framed('{"a":' + entry(0, 1) + "}"), "the file has"),
        (framed("{}", b"x"), "the file has"),
    ],
)
def test_refusals(data: bytes, reason: str) -> None:
    """Every way to be malformed is refused, and the reason named."""
    with pytest.raises(VerificationFailed, match=reason):
        read(data)
    assert sniff("model.safetensors", reader(data), len(data)) is None


@pytest.mark.parametrize(
    ("header", "tensors"),
    [
        ("{}", []),
        ('{ \n}\t\r\n "'[:-2], []),
        ('{"__metadata__":{}}   ', []),
        ('{"a" : ' + entry() + " , \n" + '"b": ' + entry(1, 1, shape="[3, 0]") + "}", ["a", "b"]),
        ('{"../../etc/passwd":' + entry() + "}", ["../../etc/passwd"]),
        ('{"a":' + entry(0, 1, "X7_NEW", "[9]") + "}", ["a"]),
        ('{"a":' + entry(0, 1, "F4", "[2]") + "}", ["a"]),
    ],
)
def test_accepted(header: str, tensors: list[str]) -> None:
    """Space, empty tensors, odd names and types not invented yet are no reason to refuse."""
    data = framed(header, b"x" if tensors else b"")
    assert [tensor.name for tensor in read(data).tensors] == tensors


def test_file_that_shrinks() -> None:
    """A file that ends within the header that it announced is refused."""
    with pytest.raises(VerificationFailed, match="ended within its header"):
        read_safetensors(reader(framed("{}")[:9]), 10)


def test_long_names_in_messages() -> None:
    """A message shows at most 80 characters of a stranger's name, and no control character."""
    name = "\\u001b" + "x" * 10_000
    with pytest.raises(VerificationFailed, match=r"'\\x1bxxx") as caught:
        read(framed(f'{{"{name}":1}}'))
    assert len(caught.value.message) < 200


def many(count: int) -> bytes:
    return framed("{" + ",".join(f'"{i}":{entry(0, 0, "U8", "[0]")}' for i in range(count)) + "}")


def test_bounds() -> None:
    """More tensors or metadata than anyone needs are refused."""
    with pytest.raises(VerificationFailed, match="at most 100000 tensors"):
        read(many(MAX_TENSORS + 1))
    notes = ",".join(f'"{i}":""' for i in range(MAX_METADATA + 1))
    with pytest.raises(VerificationFailed, match="over 65536"):
        read(framed('{"__metadata__":{' + notes + "}}"))


FULL = MAX_SAFETENSORS_HEADER
HOSTILE: dict[str, bytes] = {
    "brackets": b'{"a":' + b"[" * (FULL - 5),
    "braces": b'{"a":' * (FULL // 5),
    "dicts": b'{"a":[' + b"{}," * (FULL // 3 - 9) + b"{}]}",
    "numbers": b'{"a":{"dtype":"U8","shape":[' + b"0," * (FULL // 2 - 99) + b"0]}}",
    "one name": b'{"' + b"a" * (FULL - 70) + b'":' + entry(0, 0, shape="[0]").encode() + b"}",
    "wide name": b'{"' + "😀".encode() * (FULL // 4 - 20) + b'":1}',
    "open string": b'{"' + b"a" * (FULL - 2),
    "space": b"{" + b" " * (FULL - 2) + b"}",
    "metadata": b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(1_300_000)) + b"}}",
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE)
def test_hostile_sizes(header: bytes) -> None:
    """A header of 16 MiB of anything costs at most seconds and a few times its own bytes."""
    assert len(header) <= FULL
    data = framed(header)
    started = time.process_time()
    tracemalloc.start()
    try:
        with suppress(VerificationFailed):
            read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * FULL
    assert time.process_time() - started < 10


def test_sniff() -> None:
    """Only files that are called safetensors are taken for them."""
    for name in ("model.safetensors", "A/MODEL.SafeTensors", "lora.sft"):
        assert sniff(name, reader(MODEL_FILE), len(MODEL_FILE)) == read(MODEL_FILE)
    assert sniff("model.bin", reader(MODEL_FILE), len(MODEL_FILE)) is None


def test_tensor_is_plain_data() -> None:
    """Tensors compare by value."""
    kwargs: dict[str, Any] = {"name": "a", "dtype": "U8", "shape": (1,), "start": 0, "stop": 1}
    assert Tensor(**kwargs) == Tensor(**kwargs)
