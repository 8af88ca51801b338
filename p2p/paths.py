"""Which paths a release may name, so that unpacking it on any machine is safe and gives one result.

A path is relative, with ``/`` between its parts, and means the same file everywhere:

- it stays inside its folder: no empty part, ``.``, ``..``, backslash, colon (drives, and the hidden
  streams of NTFS) and nothing that Windows takes for a device;
- it is what it looks like: NFC, no control, no character that turns the direction of text;
- two paths never meet on a file system that ignores case: they, and the folders they lie in, differ
  in more than that; and what one path names as a file, no other names as a folder;
- no part is ``.git``: a folder that git takes for a repository runs what its configuration says.

Pure. Knows nothing of sizes, contents or disks; raises ``VerificationFailed`` and names the path
as ``repr`` shows it, so that nothing in it reaches a terminal.
"""

import unicodedata
from collections.abc import Iterable
from typing import Final

from p2p.errors import VerificationFailed

MAX_PATH: Final = 1024
"""UTF-8 bytes of a path: macOS opens nothing longer."""
MAX_PART: Final = 255
"""UTF-8 bytes of one part of it: ext4, APFS and NTFS stop there."""
MAX_DEPTH: Final = 64
"""Parts of a path: more than anyone needs, and few enough for code that calls itself."""

_DEVICES: Final = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [port + digit for port in ("com", "lpt") for digit in "123456789¹²³"]
)
_SEPARATORS: Final = {"\\": "a backslash", ":": "a colon"}
# Controls, surrogates, line and paragraph separators, and everything that sets the direction of
# text. Other characters without a shape stay: several scripts are not written without joiners.
_CATEGORIES: Final = {"Cc": "a control character", "Cs": "bytes that are not valid UTF-8"} | dict(
    dict.fromkeys(["Zl", "Zp"], "a line separator")
)
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# What HFS+ leaves out when it compares names, so that .g(joiner)it is .git there.
_IGNORED: Final = dict.fromkeys([*range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF, 0xAD])


def check_path(path: str) -> None:
    """Refuse, with ``VerificationFailed``, a path that no release may name."""
    reason = _fault(path)
    if reason:
        raise VerificationFailed(f"The path {_shown(path)} is not allowed: {reason}.")


def check_paths(paths: Iterable[str]) -> None:
    """Refuse, with ``VerificationFailed``, paths that are not allowed alone or not together."""
    # What lies on a file system that ignores case, by the name that it has there.
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        check_path(path)
        meets = _folded(path)
        other = files.get(meets)
        if other == path:
            raise VerificationFailed(f"The path {path!r} is named twice.")
        if other is not None:
            raise VerificationFailed(f"The paths {other!r} and {path!r} differ in case only.")
        files[meets] = path
    for path in files.values():
        folder = path
        while "/" in folder:
            folder = folder.rpartition("/")[0]
            meets = _folded(folder)
            if meets in files:
                raise VerificationFailed(
                    f"The path {files[meets]!r} is a file, and the folder of {path!r} too."
                )
            other = folders.get(meets)
            if other == folder:
                break  # it was seen, and so were those above it
            if other is not None:
                raise VerificationFailed(
                    f"The folders {other!r} and {folder!r} differ in case only."
                )
            folders[meets] = folder


def _fault(path: str) -> str:
    """Say why a path is not allowed, or nothing."""
    if not path.isascii():
        for character in path:
            reason = _CATEGORIES.get(unicodedata.category(character))
            if reason:
                return f"it holds {reason}"
        if _BIDI.intersection(path):
            return "it holds a character that turns the direction of text"
        if not unicodedata.is_normalized("NFC", path):
            return "it is not in Unicode's composed form (NFC)"
    elif not path.isprintable():
        return f"it holds {_CATEGORIES['Cc']}"
    for character, name in _SEPARATORS.items():
        if character in path:
            return f"it holds {name}"
    if len(path) > MAX_PATH or len(path.encode()) > MAX_PATH:
        return f"it is longer than {MAX_PATH} bytes"
    if path.startswith("/"):
        return "it does not start in the release's own folder"
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        return f"it is more than {MAX_DEPTH} folders deep"
    for part in parts:
        reason = _fault_of_part(part)
        if reason:
            return reason
    return ""


def _fault_of_part(part: str) -> str:
    """Say why a part of a path is not allowed, or nothing."""
    if not part:
        return "a part of it is empty"
    if part in (".", ".."):
        return f"it holds {part!r}, which could lead out of the release's own folder"
    if part[-1] in ". ":
        return "a part of it ends in a dot or a space, which Windows leaves out"
    if len(part) > MAX_PART or len(part.encode()) > MAX_PART:
        return f"a part of it is longer than {MAX_PART} bytes"
    folded = part.casefold()
    if folded.partition(".")[0].rstrip(" ") in _DEVICES:
        return "Windows takes a part of it for a device"
    if folded.translate(_IGNORED) in (".git", "git~1"):
        return "git would take its folder for a repository"
    return ""


def _folded(path: str) -> str:
    """Return what a file system that ignores case and composition compares (Unicode D145)."""
    if path.isascii():
        return path.lower()
    decomposed = unicodedata.normalize("NFD", path)
    return unicodedata.normalize("NFD", decomposed.casefold())


def _shown(path: str) -> str:
    """Show a path of any length, with what could mislead a terminal written out."""
    return repr(path) if len(path) <= MAX_PATH else f"{path[:60]!r}..."
