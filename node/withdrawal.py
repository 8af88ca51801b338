"""Withdrawal: what a publisher takes back of what it has published, and what consent it states.

Revoking a release says that it is bad, withdrawing consent that its data may no longer be used.
Both are the status of the release in the publisher's signed list, so they spread with its names to
every node that holds the release or follows the publisher; each that has seen it keeps to it, and
no later word of the publisher's undoes it.

What this cannot do is said to whoever does it: copies on other people's machines are theirs.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import trio

from node.holdings import find_release, link
from node.messages import Note, Report, WithdrawParams
from p2p.errors import NotFound, UsageError
from p2p.references import Reference, parse_reference, share_link
from p2p.terms import expired

if TYPE_CHECKING:
    from node.keyring import Keyring
    from node.publisher import Repository
    from node.store import Store
    from p2p.naming import Named, Names, State, Status

Json = dict[str, Any]

NO_RECALL: Final = (
    "Nodes that hold it or follow you stop passing it on within a minute of hearing this, and "
    "refuse it from then on. Copies on other people's machines cannot be recalled."
)
"""What taking a release back can do, and what it cannot."""


async def show_consent(store: "Store", keyring: "Keyring", ref: str) -> Json:
    """Show the consent that a held release states, whether it has ended or was withdrawn."""
    from p2p.manifest import parse_manifest

    release = await find_release(store, keyring, ref)
    known = await store.manifest(release.manifest_cid)
    if known is None:
        raise NotFound(f"The statement of {ref} is damaged.", next="Fetch it again.")
    manifest = parse_manifest(known[0])
    taken = await store.publishers.seen(release.publisher)
    status = taken.get(release.manifest_cid)
    return {
        "ok": True,
        "ref": link(release),
        "name": release.name,
        "version": release.version,
        "kind": release.kind,
        "license": release.license,
        "consent": dict(manifest.consent),
        "expired": expired(manifest.consent, datetime.now(UTC).date()),
        "status": None if status is None else _shown(status),
    }


async def withdraw(
    store: "Store", keyring: "Keyring", params: WithdrawParams, state: "State", report: Report
) -> Json:
    """Take back releases of one of this machine's publishers; return what now stands of them.

    ``NotFound`` for what no publisher of this machine lists; ``UsageError`` where several versions
    could be meant, or the reason is missing. What was taken back before stays as it was.
    """
    from node.publisher import Waiting
    from p2p.naming import Status
    from p2p.naming.names import REASON

    reason = " ".join(params.reason.split())
    if REASON.fullmatch(reason) is None:
        raise UsageError(
            "A reason of at most 1000 characters is needed: it is all that others will see.",
            next="Say in a sentence why, with --reason.",
        )
    reference = parse_reference(params.ref)
    repository, names = await trio.to_thread.run_sync(_own, keyring, reference)
    chosen = _chosen(reference, names, params.all_versions)
    waiting = []
    status = Status(state, reason, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    for one in chosen:
        if one.status is not None:
            text = f"{one.path} was {one.status.state} on {one.status.at[:10]} already"
            report(Note(f"{text}: {one.status.reason}"))
            continue
        done = await trio.to_thread.run_sync(repository.mark, one.manifest, status)
        if isinstance(done, Waiting):  # what comes next is signed on top of this
            waiting.append(done)
            break
        await store.publishers.put(names.publisher, done)
    now = await trio.to_thread.run_sync(repository.names)
    return {
        "ok": True,
        "releases": [_release(now, one) for one in chosen],
        "waiting": [
            {
                "file": str(one.path),
                "missing": one.missing,
                "asks": [key.did for key in one.asks],
            }
            for one in waiting
        ],
        "limits": NO_RECALL,
    }


def _own(keyring: "Keyring", reference: Reference) -> "tuple[Repository, Names]":
    """Return the publisher of this machine that a reference is about, and what it lists."""
    found: Repository | None = None
    if reference.publisher in keyring.names():
        found = keyring.repository(reference.publisher)
    elif reference.publisher is not None:
        found = keyring.find(reference.publisher)
    for name in keyring.names() if reference.publisher is None else ():
        one = keyring.repository(name)
        if one.founded and reference.manifest and one.names().of(reference.manifest) is not None:
            found = one
    if found is None:
        raise NotFound(
            f"No publisher of this machine lists {reference}, and only its publisher can take a "
            "release back.",
            next="`allod trust deny` keeps your own node from passing it on.",
        )
    return found, found.names()


def _chosen(reference: Reference, names: "Names", all_versions: bool) -> "Sequence[Named]":
    """Return the releases that a reference means: one, unless all versions are asked for."""
    if reference.manifest is not None:
        one = names.of(reference.manifest)
        found = [] if one is None else [one]
    else:
        found = [
            one
            for one in names.entries
            if one.name == reference.name and reference.version in (None, one.version)
        ]
    if not found:
        raise NotFound(
            f"The publisher lists no release {reference}.",
            next="`allod ls` shows what this machine holds.",
        )
    good = [one for one in found if one.status is None]
    if len(good) > 1 and not all_versions:
        versions = ", ".join(one.version for one in good)
        raise UsageError(
            f"{reference.name} has several versions: {versions}.",
            next=f"Name one, such as {good[-1].path}, or say --all-versions.",
        )
    return good or found


def _release(names: "Names", one: "Named") -> Json:
    entry = names.of(one.manifest) or one
    return {
        "ref": share_link(names.publisher, one.name, one.manifest, ()),
        "name": one.name,
        "version": one.version,
        "manifest": str(one.manifest),
        "status": None if entry.status is None else _shown(entry.status),
    }


def _shown(status: "Status") -> Json:
    return {"state": status.state, "reason": status.reason, "at": status.at}
