"""Files that run code when they are opened are told by their bytes; others are left alone."""

import bz2
import collections
import gzip
import io
import json
import lzma
import pickle
import random
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.policy import contents
from p2p.policy.contents import look_into
from p2p.policy.formats import format_of
from p2p.policy.pickles import is_pickle
from tests.releases import noise, safetensors_bytes


@dataclass
class Bytes:
    """Bytes in memory as a Content."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, size: int) -> bytes:
        return self.data[start : start + size]


class Evil:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("unpickled",)


def found(data: bytes, path: str = "model.safetensors") -> str:
    finding = look_into(path, Bytes(data))
    return finding.format if finding else ""


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return out.getvalue()


def tarred(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def saved(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


OBJECTS: list[Any] = [
    Evil(), [Evil()], {"a": Evil()}, {"a": [1, 2.5, "x", None, True, b"y"], "b": (1, 2, 3, 4)},
    collections.OrderedDict(a=1), 10**100, "text", list(range(3000)), {"state_dict": {"w": 1}},
    (1,), {"a"}, bytearray(b"x"), b"z" * 100_000, "long" * 50_000, -1.5, [], {}, (),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: repr(value)[:20])
def test_pickles_are_seen(value: Any, protocol: int) -> None:
    """Whatever is pickled, by whichever protocol, under whichever name, is told by its bytes."""
    data = pickle.dumps(value, protocol)
    assert found(data) == "pickle"
    assert found(gzip.compress(data)) == "pickle"
    assert found(zlib.compress(data)) == "pickle"
    assert found(bz2.compress(data)) == "pickle"
    assert found(lzma.compress(data)) == "pickle"
    if protocol > 1 or isinstance(value, Evil):
        assert found(data + b"what comes behind is not read") == "pickle"


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'echo x'\ntR.",
        b"(S'echo x'\nios\nsystem\n.",
        b"(cos\nsystem\nS'echo x'\no.",
        b"N.cos\nsystem\n(S'a harmless one came first'\ntR.",
        b"V" + b"padding" * 9000 + b"\n0cos\nsystem\n(S'echo x'\ntR.",
        b"I00\n0I5\n0L5L\n0F1.5\n0cos\nsystem\n(S'x'\ntR.",
        b"Vos\nVsystem\n\x93(Vx\ntR.",
        b"cos\nsystem\np0\n0g0\n(S'x'\ntR.",
        b"cfoo\nBar\n)\x81}b.",
        b"(1cos\nsystem\n2(S'x'\ntR.",
        b"V" + b"x" * (2 << 20) + b"\n0cos\nsystem\n(S'x'\ntR.",
        b"N0" * 20_000 + b"cos\nsystem\n(S'x'\ntR.",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",  # torch before 1.6
        b"Pid\n(tR.",
        b"cos\nsystem\n).",
    ],
)
def test_old_and_crooked_pickles_are_seen(data: bytes) -> None:
    """Pickles without a mark, with padding, or several in a row don't get by."""
    assert is_pickle(Bytes(data).read)


@pytest.mark.parametrize(
    "data",
    [
        b"", b".", b"N", b"\x80", b"\x80\x04", b"\x80\x04.", b"0.", b"t.", b"(.", b"R.", b"NNR.",
        b"N)R.", b"i\n\n", b"b", b"NNb", b"2.", b"o.", b"(o.", b"(No.", b"h\0.", b"g0\n.",
        b"\x80\xff.", b"Introduction\n\nIt says\n", b"cat\ndog\nfish\n",
        b"import os\nimport sys\n", b"Version 1\n", b"S is no string\n.", b"G1234567",
        b"\x8c\xff", b"\x8a\x05ab", b"X\xff\xff\xff\xff.", b"NN\x93.", b"F.x\xff\n.",
        b"id\nname\n1\n", b"(dp0\nnot any more", b"\x81.", b"]NN\x92.", b"N(a.", b"N(\x85.",
        json.dumps({"a": [1, 2]}).encode(), b"GGUF\x03\0\0\0", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7\n",
        b"PAR1" + noise(1000), b"RIFF\0\0\0\0WAVE", b"{}", b"[1]", b"a,b\n1,2\n", b"# Card\n",
    ],
)  # fmt: skip
def test_what_loads_nothing_is_no_pickle(data: bytes) -> None:
    """Texts, other formats, and what an unpickler would refuse are left alone."""
    assert not is_pickle(Bytes(data).read)
    with pytest.raises(Exception):  # noqa: B017, PT011 - what it raises depends on the bytes
        pickle.loads(data)


def test_a_text_that_begins_like_a_pickle_is_none() -> None:
    """What an unpickler would stop at, harmlessly, before the text goes on is no reason."""
    assert not is_pickle(Bytes(b"N.B. this is a text\n").read)


def test_noise_is_no_pickle() -> None:
    """Of ten thousand files of noise none is taken for a pickle."""
    numbers = random.Random(5)
    assert not [
        data for data in (numbers.randbytes(300) for _ in range(10_000)) if found(data, "x.bin")
    ]


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    ),
    st.integers(0, 5),
)
def test_whatever_unpickles_is_seen(value: Any, protocol: int) -> None:
    """Every pickle of plain things is one, whole; and cutting it breaks nothing."""
    data = pickle.dumps(value, protocol)
    assert is_pickle(Bytes(data).read)
    is_pickle(Bytes(data[: len(data) // 2]).read)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_what_is_not_seen_does_not_unpickle(tail: bytes) -> None:
    """No bytes that an unpickler takes wholly escape."""

    class Careful(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            raise pickle.UnpicklingError("called by name")

    for data in (tail, b"\x80\x04" + tail):
        if not is_pickle(Bytes(data).read):
            stream = io.BytesIO(data)
            try:
                Careful(stream).load()
            except Exception:
                continue  # most bytes are no pickle
            # Left are plain things, with something else behind them.
            assert data[:1] != b"\x80"
            assert stream.read(1)


def test_archives_are_looked_through() -> None:
    """Files of torch and numpy that pickle, and those of numpy that don't."""
    torch = zipped(**{"archive__data.pkl": pickle.dumps({}), "archive__data__0": noise(100)})
    assert found(torch) == "pickle"
    assert found(b"something before" + torch) == "pickle"
    assert found(zipped(**{"harmless.txt": pickle.dumps(Evil())})) == "pickle"
    assert found(zipped(**{"a.npy": saved(np.arange(5))}), "x.npz") == ""
    assert found(zipped(**{"a.npy": saved(np.array([{}]))}), "x.npz") == "pickle"
    assert found(zipped(**{"readme.txt": b"hello", "a.json": b"{}"})) == ""
    assert found(zipped(**{"config.json": b"{}", "model.weights.h5": b""})) == "keras"
    assert found(tarred(pickle=b"x", storages=b"y")) == "pickle"
    assert found(tarred(**{"a.jpg": noise(10), "a.txt": b"x"})) == ""
    assert found(zipped(**{"a.bin": pickle.dumps("x" * 200_000)})) == "pickle"
    assert found(torch[: len(torch) // 2]) == ""  # without its end it is no archive to anybody
    crooked = zipped(**{"a.txt": b"x"}).replace(b"PK\x01\x02", b"PK\x01\x03")
    assert found(crooked) == "pickle"
    assert found(b"noise" + crooked) == ""
    unknown = bytearray(zipped(**{"a.txt": b"x" * 100}))
    for start in (8, unknown.rindex(b"PK\x01\x02") + 10):  # how it is packed: in no known way
        unknown[start] = 77
    assert found(bytes(unknown)) == ""


def test_arrays_are_looked_at() -> None:
    """Numpy arrays of objects pickle, in whichever field; others are numbers."""
    assert found(saved(np.arange(10, dtype="<f4"))) == ""
    assert found(saved(np.zeros(2, dtype=[("a", "<i4"), ("b", "<f8", (2, 2))]))) == ""
    assert found(saved(np.array([{}, []], dtype=object))) == "pickle"
    mixed = np.zeros(1, dtype=[("a", "<i4"), ("b", [("c", "O")])])
    assert found(saved(mixed)) == "pickle"
    hidden = saved(np.array([{}], dtype=object)).replace(b"'|O'", b"'\\x7cO'")
    assert found(hidden) == "pickle"
    assert found(b"\x93NUMPY\x01\0\xff\xffgarbage") == "pickle"
    assert found(b"\x93NUMPY\x02\0\xff\xff\xff\xff") == "pickle"
    assert found(saved(np.zeros((2, 2), dtype=(np.int32, (2,))))) == ""
    assert found(b"\x93NUMPY\x01\0\x12\0{'descr': [('O',)]}") == "pickle"


def test_keras_is_seen() -> None:
    """An HDF5 file is one wherever its signature may be."""
    signature = b"\x89HDF\r\n\x1a\n"
    assert found(signature + noise(50)) == "keras"
    assert found(bytes(512) + signature) == "keras"
    assert found(bytes(100) + signature) == ""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"auto_map": {"AutoModel": "modeling_x.XModel"}}', ("modeling_x.py",)),
        ('{"auto\\u005fmap": {"AutoModel": "m.X"}}', ("m.py",)),
        ('{"a": [{"auto_map": {"T": ["tok.Slow", null]}}]}', ("tok.py",)),
        ('{"auto_map": {"AutoModel": "org/repo--m.X"}}', ("org/repo--m.X",)),
        ('{"auto_map": "m"}', ("m.py",)),
        ('{"auto_map": {}}', None),
        ('{"model_type": "llama"}', None),
        ('{"auto_map": {"AutoModel": "m.X"}, "a": ' + "1" * 5000 + "}", ("m.py",)),
        ("not json", None),
    ],
)
def test_settings_that_import_code_are_seen(text: str, names: tuple[str, ...] | None) -> None:
    """An auto_map in a config.json is found however it is spelled, with the files that it names."""
    finding = look_into("tokenizer_config.json", Bytes(text.encode()))
    assert (finding and (finding.format, finding.names)) == (names and ("code", names))
    assert look_into("data.json", Bytes(text.encode())) is None


def test_settings_too_deep_to_read() -> None:
    """A config.json that others, with another bound on nesting, may read is taken for the worse."""
    deep = '{"auto_map": {"AutoModel": "m.X"}, "a": ' + "[" * 100_000 + "]" * 100_000 + "}"
    assert found(deep.encode(), "config.json") == "code"


def test_archives_that_burst() -> None:
    """No small archive takes gigabytes or hours to look through."""
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            archive.writestr("a.txt", bytes(1000))
        assert found(out.getvalue()) == "pickle"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 20
    assert found(header.tobuf() + b"1" * header.size + bytes(1024), "a.tar") == "pickle"
    longer = tarfile.TarInfo("folder/" * 100)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive_:
        archive_.addfile(longer)
    assert found(out.getvalue(), "a.tar") == ""


def test_what_a_large_file_in_an_archive_is() -> None:
    """A file in an archive is looked into as far as it takes, and no farther than that."""
    late = pickle.dumps(["x" * 5000, Evil()])
    assert found(zipped(**{"a.txt": late})) == "pickle"
    assert found(zipped(**{"a.bin": noise(100_000)})) == ""
    wide = np.zeros(1, dtype=[(f"a{number}", "<i4") for number in range(1000)])
    assert found(zipped(**{"a.npy": saved(wide)})) == ""


def test_bounds_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a bound ends the look, the file is taken for the worse."""
    monkeypatch.setattr(contents, "MAX_SETTINGS", 10)
    assert found(b'{"model_type": 1}', "config.json") == "code"
    monkeypatch.setattr(contents, "MAX_ENTRIES", 1)
    assert found(zipped(a=b"1", b=b"2")) == "pickle"
    assert found(tarred(a=b"1", b=b"2", c=b"3")) == "pickle"
    monkeypatch.setattr(contents, "MAX_ENTRIES", 2)
    monkeypatch.setattr(contents, "MAX_ALL_UNPACKED", 1)
    assert found(zipped(a=b"1", b=b"2")) == "pickle"
    monkeypatch.setattr(contents, "MAX_INDEX", 10)
    monkeypatch.setattr(contents, "MAX_TAPE_HEADER", 10)
    assert found(zipped(a=b"1")) == "pickle"
    assert found(tarred(a=b"1")) == "pickle"
    monkeypatch.setattr(contents, "MAX_PACKED_MEMORY", 1000)
    assert found(lzma.compress(b"x")) == "pickle"


def test_damaged_packing_is_left_alone() -> None:
    """What cannot be unpacked holds nothing; what is packed and harmless is let in."""
    packers: list[Callable[[bytes], bytes]] = [
        gzip.compress, zlib.compress, bz2.compress, lzma.compress,
    ]  # fmt: skip
    for pack in packers:
        assert found(pack(b'{"rows": [1, 2, 3]}')) == ""
        assert found(pack(b'{"rows": "' + noise(200_000).hex().encode() + b'"}')) == ""
        damaged = bytearray(pack(b"text" * 100))
        damaged[4:40] = noise(36)
        found(bytes(damaged))
    assert found(gzip.compress(saved(np.array([{}])))) == "pickle"


def test_harmless_files_are_let_in() -> None:
    """Weights that are numbers, and plain data, are held against nobody."""
    assert found(safetensors_bytes({"a": noise(100)}, {"x": "y"})) == ""
    assert found(noise(100_000), "model.bin") == ""
    assert found(b"", "empty") == ""


@pytest.mark.parametrize(
    ("path", "format"),
    [
        ("model.safetensors", "safetensors"), ("a/b/model.GGUF", "gguf"), ("model.onnx", "onnx"),
        ("pytorch_model.bin", "pickle"), ("pytorch_model-00001-of-2.bin", "pickle"),
        ("model.bin", None), ("x/data.PKL", "pickle"), ("data.pkl.gz", "pickle"),
        ("m.pt", "pickle"),
        ("m.joblib.z", "pickle"), ("modeling.py", "code"), ("lib.so", "code"), ("m.h5", "keras"),
        ("saved_model.pb", "tensorflow"), ("README.md", None), ("LICENSE", None), (".py", None),
        ("model.tflite", "tflite"), ("a.tar.gz", None), ("dir.py/readme", None), (".gz", None),
    ],
)  # fmt: skip
def test_names_say_what_a_file_is(path: str, format: str | None) -> None:
    """The suffix counts, in any case, also behind that of a packer; .bin needs a known name."""
    assert format_of(path) == format
