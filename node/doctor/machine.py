"""The machine that the node runs on: its clock, memory, open files, and Allod's libraries.

All functions block for some disk accesses.
"""

import ctypes
import json
import resource
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from importlib import metadata
from typing import Final

import psutil

from node.config import Config
from node.doctor.finding import Finding, size_text
from node.doctor.store import newest_record
from node.keyring import Keyring
from node.store.layout import Layout
from p2p.errors import AllodError
from p2p.naming import MAX_TIMESTAMP, TIMESTAMP, draft

SKEW: Final = timedelta(minutes=5)
"""What clocks may differ by: signed times are of a second, and nothing here is refused for less."""
TIME_ERROR: Final = 5
"""What adjtimex() returns where nobody sets the kernel's clock (timex.h)."""
MAX_PUBLISHERS: Final = 1000
"""Publishers whose word on the time is read: some milliseconds."""
LOW_MEMORY: Final = 512 << 20
"""Bytes: a node with many peers has some 200 MiB, and a fetch hashes in pieces of several MiB."""
OPEN_FILES: Final = 4096
"""A connection takes a descriptor, and so does each file that is sent; peers are up to 1,000."""
PIP: Final = "pip install --upgrade allod"


# -- the clock


def look_at_clock(config: Config, keyring: Keyring, now: datetime) -> Iterator[Finding]:
    """Compare the clock with what was signed and recorded before: time does not go back."""
    own = max(_own_times(keyring), default=None)
    others = sorted(_others_times(config))
    recorded = newest_record(config.store.folder)
    shown = f"{now:%Y-%m-%d %H:%M} UTC"
    fix = "timedatectl set-ntp true" if sys.platform == "linux" else "Set the clock."
    if own is not None and own > now + SKEW:
        said = f"The clock says {shown}, but a publisher of this machine signed on {own:%Y-%m-%d}."
        yield Finding("clock", "problem", f"{said} It was wrong then, or is wrong now.", fix)
    elif recorded is not None and recorded > now + SKEW:
        said = f"The clock says {shown}, but the store has a release of {recorded:%Y-%m-%d}."
        yield Finding("clock", "problem", f"{said} It was wrong then, or is wrong now.", fix)
    elif others and others[-1] > now + SKEW:
        # One of them may be wrong; that two are, and both ahead, is unlikely.
        many = len(others) > 1 and others[-2] > now + SKEW
        said = f"The clock says {shown}, but a publisher signed on {others[-1]:%Y-%m-%d %H:%M}."
        yield Finding("clock", "problem" if many else "warning", said, fix)
    elif _unset():
        said = f"The clock says {shown}, and nothing keeps it right."
        yield Finding("clock", "note", said, fix)
    else:
        yield Finding("clock", "ok", f"It says {shown}; nothing was signed or recorded later.")


def _own_times(keyring: Keyring) -> Iterator[datetime]:
    for name in keyring.names():
        try:
            yield draft.written_at(keyring.repository(name).metadata().timestamp)
        except (AllodError, *_DAMAGED):  # what is wrong with it is another check's to say
            continue


def _others_times(config: Config) -> Iterator[datetime]:
    """When publishers whose names are known here signed last; what is damaged is passed over."""
    layout = Layout(config.store.folder)
    try:
        ids = list(layout.publishers())[:MAX_PUBLISHERS]
    except OSError:
        return
    for publisher in ids:
        for path in layout.publisher(publisher).glob(f"*/{TIMESTAMP}"):
            try:
                with path.open("rb") as stream:
                    yield draft.written_at(stream.read(MAX_TIMESTAMP))
            except (OSError, AllodError, *_DAMAGED):
                continue


_DAMAGED: Final = (ValueError, KeyError, TypeError, RecursionError, json.JSONDecodeError)


def _unset() -> bool:
    """Whether the kernel says that its clock is set by nobody; False where it cannot be asked."""
    if sys.platform != "linux":
        return False
    # Struct timex has 208 bytes; all zeros: change nothing, only tell.
    state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    return state == TIME_ERROR


# -- memory, open files


def look_at_memory() -> Iterator[Finding]:
    """Say how much memory is free; the kernel ends programs where there is none."""
    memory = psutil.virtual_memory()
    text = f"{size_text(memory.available)} of {size_text(memory.total)} are free."
    if memory.available < LOW_MEMORY:
        fix = "`allod ps` shows what models take, `allod stop` unloads one."
        yield Finding("memory", "warning", text, fix)
    else:
        yield Finding("memory", "ok", text)


def look_at_open_files(*, running: bool) -> Iterator[Finding]:
    """Say how many files may be open at once; ``running``: this process is the node."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "any number of" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    text = f"A process may have {most} files and connections open."
    used = psutil.Process().num_fds() if running else 0
    text += f" The node has {used:,}." if running else ""
    fix = f"ulimit -n {min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536}"
    fix += " before `allod up`; `allod service install` does so by itself."
    if soft != resource.RLIM_INFINITY and used > soft * 0.9:
        yield Finding("open-files", "problem", text, fix)
    elif soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        yield Finding("open-files", "note", f"{text} With many peers that is too few.", fix)
    else:
        yield Finding("open-files", "ok", text)


# -- libraries


def look_at_libraries(requires: Sequence[str] | None = None) -> Iterator[Finding]:
    """Compare the installed libraries with the versions that Allod was tested with.

    ``requires``: requirements as in pyproject.toml; those of the installed Allod if none are given.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    if requires is None:
        try:
            requires = metadata.requires("allod") or ()
        except metadata.PackageNotFoundError:
            text = "Allod runs from its source, so nobody says which libraries it wants."
            yield Finding("libraries", "note", text)
            return
    wrong, right = [], 0
    for line in requires:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if wanted.specifier.contains(version, prereleases=True):
            right += 1
        else:
            wrong.append(f"{wanted.name} is {version}, wanted {wanted.specifier}")
    if wrong:
        yield Finding("libraries", "problem", "; ".join(wrong) + ".", PIP)
    else:
        python = ".".join(map(str, sys.version_info[:3]))
        yield Finding("libraries", "ok", f"Python {python}; {right} libraries are as wanted.")
