"""What this machine's store holds, and the small verbs on it: list, find, pin, remove, verify, gc.

Each function is one operation's body: it takes the parts of the node that it needs and returns
the JSON object of cli.md. A reference here names something that is already held; nothing in this
module touches the network.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from node.messages import Failure, Progress, Report
from p2p.errors import NotFound, VerificationFailed
from p2p.references import Reference, parse_reference, share_link

if TYPE_CHECKING:
    from node.keyring import Keyring
    from node.store import Release, Store
    from p2p.cid import CID

Json = dict[str, Any]


async def list_releases(store: "Store") -> Json:
    """List every release, newest first."""
    releases = sorted(await store.releases(), key=lambda one: one.added, reverse=True)
    return {"ok": True, "releases": [_shown(release) for release in releases]}


def link(release: "Release") -> str:
    """Return the reference by which any command finds this very release again."""
    return share_link(release.publisher, release.name, release.manifest_cid, ())


def _shown(release: "Release") -> Json:
    return {
        "ref": link(release),
        "name": release.name,
        "version": release.version,
        "kind": release.kind,
        "size": release.size,
        "license": release.license,
        "verdict": "unjudged",  # no policy has been asked; the signature was checked on arrival
        "publisher": release.publisher,
        "manifest": str(release.manifest_cid),
        "pinned": release.pinned,
        "complete": release.complete,
        "added": release.added,
    }


async def find_release(store: "Store", keyring: "Keyring", text: str) -> "Release":
    """Return the one held release that the reference names, the newest where several match.

    The newest is what its publisher listed last, as far as this store knows.
    """
    reference = parse_reference(text)
    listed: dict[CID, int] = {}
    if reference.manifest is not None:
        release = await store.release(reference.manifest)
        matches = [release] if release is not None else []
    else:
        publisher = _publisher(keyring, reference)
        names = await store.publishers.names(publisher)
        listed = {one.manifest: one.sequence for one in names.entries} if names else {}
        matches = [
            one
            for one in await store.releases()
            if one.publisher == publisher
            and one.name == reference.name
            and reference.version in (None, one.version)
        ]
    if not matches:
        raise NotFound(
            f"This store does not hold {text}.",
            next="`allod ls` shows what it holds; `allod fetch` looks on the network.",
        )
    return max(matches, key=lambda one: (listed.get(one.manifest_cid, 0), one.added))


def spell_out(text: str, keyring: "Keyring", petnames: Mapping[str, str]) -> str:
    """Return a reference with the publisher's id in the place of the owner's name for it.

    A name that one of this machine's own publishers has is that one's.
    """
    reference = parse_reference(text)
    publisher = petnames.get(reference.publisher or "")
    if publisher is None or reference.publisher in keyring.names():
        return text
    return str(replace(reference, publisher=publisher))


def _publisher(keyring: "Keyring", reference: Reference) -> str:
    """Return the publisher's id; a name may be that of one of this machine's own publishers."""
    called = reference.publisher
    assert called is not None
    if called in keyring.names():
        return keyring.repository(called).id
    return called


async def set_pin(store: "Store", keyring: "Keyring", ref: str, *, pinned: bool) -> Json:
    """Pin a release, so that gc leaves it alone, or let it go again."""
    release = await find_release(store, keyring, ref)
    await (store.pin if pinned else store.unpin)(release.manifest_cid)
    return {"ok": True, "ref": link(release), "pinned": pinned}


async def remove_release(store: "Store", keyring: "Keyring", ref: str) -> Json:
    """Forget a release; gc then frees the files that no other release needs."""
    release = await find_release(store, keyring, ref)
    await store.remove(release.manifest_cid)
    return {"ok": True, "ref": link(release), "size": release.size}


async def collect_garbage(store: "Store", *, dry_run: bool) -> Json:
    """Delete what no pinned release needs, or say what would go."""
    report = await store.gc(dry_run)
    return {
        "ok": True,
        "dry_run": dry_run,
        "releases": report.releases,
        "files": report.files,
        "bytes": report.bytes,
        "partials": report.partials,
    }


async def verify_releases(store: "Store", keyring: "Keyring", ref: str, report: Report) -> Json:
    """Hash one release, or the whole store, again; what is damaged is set aside for repair.

    Damage is a result with ``ok`` false and an error, not an exception: the caller wants the list.
    """
    release = await find_release(store, keyring, ref) if ref else None
    total = release.size if release else await _size(store)
    done = 0

    def hashed(size: int) -> None:
        nonlocal done
        done += size
        report(Progress("verify", done, max(done, total)))

    found = await store.verify(release.manifest_cid if release else None, hashed)
    damaged = [{"path": str(one.path), "offset": one.offset, "size": one.size} for one in found.bad]
    answer: Json = {
        "ok": not damaged,
        "ref": link(release) if release else None,
        "leaves": {"checked": found.checked, "bad": len(damaged)},
        "damaged": damaged,
    }
    if damaged:
        again = link(release) if release else "REF"
        answer["error"] = Failure.of(
            VerificationFailed(
                f"{len(damaged)} of {found.checked} leaves {'is' if len(damaged) == 1 else 'are'} "
                f"not what was promised, the first in {damaged[0]['path']}.",
                next=f"`allod fetch {again}` fetches just that again"
                + ("." if release else "; `allod ls` shows which release is in part only."),
            )
        ).json()["error"]
    return answer


async def _size(store: "Store") -> int:
    used = await store.usage()
    return used.bytes - used.partial_bytes + used.shared


async def usage(store: "Store") -> Json:
    """Return what the store takes, and the links of what it can serve."""
    used = await store.usage()
    return {
        "store": {
            "bytes": used.bytes,
            "quota": used.quota,
            "partial_bytes": used.partial_bytes,
            "files": used.files,
        },
        "serving": [link(one) for one in await store.releases() if one.complete],
    }
