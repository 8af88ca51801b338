"""Paths: what is safe everywhere passes, and every rule says why it refuses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.errors import VerificationFailed
from p2p.paths import MAX_DEPTH, MAX_PART, check_path, check_paths

GOOD = [
    "model.safetensors",
    "data/train-00000-of-00128.parquet",
    "a/b/c",
    ".gitattributes",
    "..a/a..b",
    "...a",
    "naïve/データ/модель.gguf",
    "emoji \U0001f469\u200d\U0001f680.png",
    "नि\u200dक.txt",
    "com0",
    "console.txt",
    "a con",
    "what?*.txt",
    " leading space",
    "a" * MAX_PART,
    "/".join(["a" * 203] * 5 + ["abcd"]),
    "/".join(["a"] * MAX_DEPTH),
]
BAD = [
    ("", "empty"),
    ("/etc/passwd", "release's own folder"),
    ("a//b", "empty"),
    ("a/", "empty"),
    ("../x", "'..'"),
    ("a/../x", "'..'"),
    ("..", "'..'"),
    ("./x", "'.'"),
    ("a\\b", "backslash"),
    ("C:/x", "colon"),
    ("model.bin:stream", "colon"),
    ("a\nb", "control"),
    ("a\0", "control"),
    ("a\x1b[2Jb", "control"),
    ("a\x7f", "control"),
    ("é\x9b", "control"),
    ("a\u2028b", "line separator"),
    ("photo\u202egpj.exe", "direction"),
    ("a\u2066b", "direction"),
    ("cafe\u0301", "NFC"),
    ("a\udcffb", "UTF-8"),
    ("CON", "device"),
    ("a/nul.txt", "device"),
    ("Com1.tar.gz", "device"),
    ("lpt² .x", "device"),
    ("conin$", "device"),
    ("a.", "dot or a space"),
    ("a /b", "dot or a space"),
    (".git/hooks/pre-commit", "git"),
    ("a/.GIT/config", "git"),
    (".g\u200cit/config", "git"),
    ("git~1/config", "git"),
    ("a" * (MAX_PART + 1), "longer than 255"),
    ("é" * 128, "longer than 255"),
    ("/".join(["a" * 204] * 5 + ["a"]), "longer than 1024"),
    ("é/" * 511 + "aaa", "longer than 1024"),
    ("/".join(["a"] * (MAX_DEPTH + 1)), "64 folders"),
]


@pytest.mark.parametrize("path", GOOD)
def test_allows(path: str) -> None:
    """Names that people give their files pass."""
    check_path(path)


@pytest.mark.parametrize(("path", "reason"), BAD)
def test_refuses(path: str, reason: str) -> None:
    """Each rule refuses, says which it is, and names the path without its dangerous characters."""
    with pytest.raises(VerificationFailed, match=reason) as caught:
        check_path(path)
    assert caught.value.message.isprintable()
    with pytest.raises(VerificationFailed, match=reason):
        check_paths(["good", path])


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["a", "b", "a"], "'a' is named twice"),
        (["Read.me", "read.ME"], "'Read.me' and 'read.ME' differ in case only"),
        (["Ärger", "ärger"], "differ in case only"),
        (["\u212b", "å"], "not in Unicode's composed form"),
        (["STRASSE", "straße"], "differ in case only"),
        (["a", "a/b"], "'a' is a file, and the folder of 'a/b' too"),
        (["a/b/c", "a"], "'a' is a file, and the folder of 'a/b/c' too"),
        (["A", "a/b"], "'A' is a file, and the folder of 'a/b' too"),
        (["Data/x", "data/y"], "folders 'Data' and 'data' differ in case only"),
        (["m/Data/x", "m/data/y/z"], "folders 'm/Data' and 'm/data' differ in case only"),
    ],
)
def test_refuses_together(paths: list[str], reason: str) -> None:
    """Two paths that meet on some file system are refused, in whichever order they come."""
    with pytest.raises(VerificationFailed, match=reason):
        check_paths(paths)
    with pytest.raises(VerificationFailed):
        check_paths(reversed(paths))


def test_allows_together() -> None:
    """Files beside each other, in each other's folders and of each other's beginnings all pass."""
    check_paths(GOOD)
    check_paths(["a/b", "a/c", "a.b", "a-b/c", "ab", "a/d/e", "a/d/f", "z/a/b"])
    check_paths([])


@settings(deadline=None)
@given(st.text(max_size=40))
def test_what_passes_is_safe(path: str) -> None:
    """Whatever text passes stays inside its folder and can be written out."""
    try:
        check_path(path)
    except VerificationFailed:
        return
    parts = path.split("/")
    assert ".." not in parts
    assert "" not in parts
    assert path.encode().decode() == path


def test_a_hundred_thousand_paths() -> None:
    """Folders of 100,000 files are checked one path at a time, never each against each."""
    check_paths(f"Train/part-{i // 1000}/shard-{i}.parquet" for i in range(100_000))
