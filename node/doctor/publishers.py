"""The keys of this machine: the node's own, and those of each publisher on it.

A backup is not seen from here; what is said is what would be lost without one.
All functions block for some disk accesses.
"""

import shlex
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from node.config import Config
from node.doctor.finding import Finding
from node.keyfiles import SUFFIX, read_key
from node.keyring import Keyring
from node.publisher import Repository
from p2p.errors import AllodError
from p2p.naming import draft

SOON: Final = timedelta(days=14)
"""What is signed by people is told this long before: some of them are on holiday."""
SOON_ONLINE: Final = timedelta(days=2)
"""What a running node renews by itself; the timestamp is good for a week."""


def look_at_keys(
    config: Config, keyring: Keyring, now: datetime, *, running: bool
) -> Iterator[Finding]:
    """Look at the node's key and at each publisher."""
    try:
        key = read_key(config.folders.keys / f"node{SUFFIX}")  # the keyring would make one
        text = f"This node is {key.public.peer_id}." if key else "The first start makes it."
        yield Finding("node-key", "ok", text)
    except AllodError as exc:
        yield Finding("node-key", "problem", exc.message, exc.next)
    names = keyring.names()
    if not names:
        text = "No publisher lives on this machine, which only who publishes needs."
        yield Finding("publisher", "ok", text)
    for name in names:
        try:
            yield from _look(keyring.repository(name), now, running=running)
        except AllodError as exc:
            yield Finding("publisher", "problem", f"{name}: {exc.message}", exc.next)
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            text = f"{name}: its metadata is damaged ({type(exc).__name__})."
            fix = f"Put a backup of keys/publishers/{name} back."
            yield Finding("publisher", "problem", text, fix)


def _look(one: Repository, now: datetime, *, running: bool) -> Iterator[Finding]:
    name = shlex.quote(one.name)
    if not one.founded:
        text = f"{one.name} waits for the signatures of others before it is anybody."
        yield Finding("publisher", "note", text, f"allod key show {name}")
        return
    told = False
    for finding in (*_times(one, now, running=running), *_safety(one)):
        told = True
        yield finding
    if not told:
        yield Finding("publisher", "ok", f"{one.name}: nothing of it expires soon.")


def _times(one: Repository, now: datetime, *, running: bool) -> Iterator[Finding]:
    """Say how many days are left of each role, where they are few."""
    metadata, name = one.metadata(), shlex.quote(one.name)
    files = {
        "root": (metadata.roots[-1], SOON),
        "targets": (metadata.targets, SOON),
        "snapshot": (metadata.snapshot, SOON_ONLINE),
        "timestamp": (metadata.timestamp, SOON_ONLINE),
    }
    for role, (file, soon) in files.items():
        expires = draft.expires_of(file)
        left = (expires - now) / timedelta(days=1)
        online = role in ("snapshot", "timestamp")
        fix = f"allod key renew {name}"
        if online and not running:
            fix = f"`allod up` keeps it fresh while it runs; {fix}"
        if left < 0:
            text = f"{one.name}: the {role} expired on {expires:%Y-%m-%d}: nobody believes it now."
            yield Finding("publisher", "problem", text, fix)
        elif expires - now < soon:
            text = f"{one.name}: the {role} expires on {expires:%Y-%m-%d}, in {left:.1f} days."
            yield Finding("publisher", "warning", text, fix)


def _safety(one: Repository) -> Iterator[Finding]:
    """Say which keys lie here that would be safer elsewhere, and which are missed."""
    name = shlex.quote(one.name)
    if one.key("root") is not None:
        text = f"{one.name}: its root key lies on this machine. Who breaks in speaks for it for"
        text += " ever, and it is lost with the disk."
        yield Finding("publisher", "note", text, f"allod key lock {name} /media/usb/root.key")
    if one.key("online") is None:
        text = f"{one.name}: its online key is not on this machine, so it is not renewed from here."
        yield Finding("publisher", "note", text)
