"""Names: what a publisher says is believed, and each known attack on it is refused by its name."""

import gc
import hashlib
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2p import canonical
from p2p.envelope import sign_bundle
from p2p.errors import NotFound, UsageError, VerificationFailed
from p2p.keys import SecretKey
from p2p.naming import (
    Metadata,
    Status,
    authenticate,
    draft,
    file_limit,
    files_of,
    metadata_of,
    newer,
    publisher_of_root,
    read_names,
    signing_keys,
)
from p2p.naming.verify import REMEMBERED
from tests.publishers import DAY, NOW, Publisher, key, manifest, named

REVOKED = Status("revoked", "the weights are broken", "2026-11-22T00:00:00Z")


def edit(file: bytes, change: Callable[[dict[str, Any]], None], *keys: SecretKey) -> bytes:
    """Change what a file says, and sign it with these keys."""
    value = json.loads(file)
    change(value["signed"])
    value["signatures"] = []
    return draft.sign(canonical.encode(value), *keys)


# -- what is said


def test_what_a_publisher_says() -> None:
    """A release is found by its name, the newest that is good first, or by its exact version."""
    alice = Publisher()
    first, second = manifest(alice.id, "1"), manifest(alice.id, "2", description="Better.\n\x1bNow")
    alice.add(first)
    alice.add(second)
    names = alice.names()
    assert (names.publisher, names.version) == (alice.id, 3)
    assert [one.path for one in names.entries] == ["tiny@1", "tiny@2"]
    newest = names.find("tiny")
    assert newest is not None
    assert (newest.manifest, newest.sequence, newest.license) == (second.cid, 2, "MIT")
    assert newest.description == "Better. Now"
    assert names.find("other") is None
    assert names.of(first.cid) == names.find("tiny", "1")
    alice.mark(second.cid, REVOKED)
    found, exact = alice.names().find("tiny"), alice.names().find("tiny", "2")
    assert found is not None
    assert found.manifest == first.cid
    assert exact is not None
    assert exact.status == REVOKED


def test_of_each_publisher_one_list_is_remembered() -> None:
    """Not every version of one that lists something each day: long ones take many megabytes."""
    publisher = Publisher()
    lists = [publisher.list(named(version=f"{n}", sequence=n)) for n in range(1, 4)]
    found = [read_names(publisher.id, one, now=None) for one in lists]
    assert found[-1] is read_names(publisher.id, lists[-1], now=None)
    gone = weakref.ref(found[0])
    del found
    gc.collect()
    assert gone() is None
    others = [Publisher(100 + 10 * n) for n in range(1, REMEMBERED)]
    known = [read_names(one.id, one.metadata, now=None) for one in others]
    again = [read_names(one.id, one.metadata, now=None) for one in others]
    assert all(one is other for one, other in zip(known, again, strict=True))


def test_parents_are_listed() -> None:
    """The manifests that a release was made from stand in its entry."""
    alice = Publisher()
    base = manifest(alice.id)
    child = manifest(
        alice.id,
        "2",
        lineage=[
            {"role": "base_model", "manifest": str(base.cid)},
            {"role": "dataset", "uri": "hf://org/data@main"},
        ],
    )
    alice.add(child)
    [entry] = alice.names().entries
    assert entry.parents == (base.cid,)


def test_unknown_fields_survive() -> None:
    """A field that this version does not know is still there in the next version of a file."""
    alice = Publisher()
    alice.list(named())

    def grow(signed: dict[str, Any]) -> None:
        signed["x"] = 1
        signed["targets"]["tiny@1"]["custom"]["allod"]["y"] = 2
        signed["targets"]["else"] = {"length": 1, "hashes": {"md5": "z"}}

    grown = edit(alice.metadata.targets, grow, alice.signer)
    alice.metadata = draft.publish(alice.metadata.roots, grown, alice.online, NOW, alice.metadata)
    alice.mark(named().manifest, REVOKED)
    signed = json.loads(alice.metadata.targets)["signed"]
    assert signed["x"] == 1
    assert signed["targets"]["tiny@1"]["custom"]["allod"]["y"] == 2
    assert [one.status for one in alice.names().entries] == [REVOKED]


def test_the_id_is_the_first_root() -> None:
    """A publisher's id names its first root's bytes, and outlives every key."""
    alice = Publisher()
    before = alice.id
    alice.rotate(root=[key(1)], targets=[key(2)], online=key(3))
    assert publisher_of_root(alice.metadata.roots[0]) == before
    assert alice.names().publisher == before
    assert before.startswith("bagaaihra")
    assert [keys for keys, _ in signing_keys(before, alice.metadata.roots)] == [
        frozenset({key(101).public}),
        frozenset({key(2).public}),
    ]


def test_files_and_back() -> None:
    """A publisher's metadata is a set of files, whose names say their versions, and back."""
    alice = Publisher()
    alice.rotate(online=key(9))
    files = files_of(alice.metadata)
    assert list(files) == [
        "1.root.json",
        "2.root.json",
        "2.targets.json",
        "2.snapshot.json",
        "timestamp.json",
    ]
    assert metadata_of(files | {"1.targets.json": b""}) == alice.metadata
    assert all(len(data) <= (file_limit(name) or 0) for name, data in files.items())
    for name in files:
        if name != "2.root.json":
            with pytest.raises(VerificationFailed, match=name):
                metadata_of({other: data for other, data in files.items() if other != name})
    for name in ("0.root.json", "01.root.json", "1025.root.json", "root.json", "../1.root.json"):
        assert file_limit(name) is None


# -- the attacks


def test_rollback() -> None:
    """Nobody takes a reader back behind what it knows, with old files or with a stolen online key.

    Metadata that is merely old comes from somebody who has not heard the news: it changes nothing.
    """
    alice = Publisher()
    old = alice.metadata
    known = alice.list(named())
    assert newer(alice.id, known, old, now=NOW) is known
    assert newer(alice.id, old, known, now=NOW) == known
    thief = draft.publish(old.roots, old.targets, alice.online, NOW, known)
    assert read_names(alice.id, thief, now=NOW).entries == ()
    # The snapshot is signed for the old list of releases, or is an old one itself.
    for lie in (thief, replace(thief, snapshot=old.snapshot, timestamp=later(old, alice))):
        with pytest.raises(VerificationFailed, match=r"^Rollback: "):
            newer(alice.id, known, lie, now=NOW)


def later(old: Metadata, alice: Publisher) -> bytes:
    """A timestamp of tomorrow for a snapshot of yesterday."""
    before = alice.metadata.timestamp
    return draft.sign(draft.next_timestamp(old.snapshot, NOW, before), alice.online)


def test_rollback_of_the_targets_under_a_new_online_key() -> None:
    """The list of releases does not go back either when the online key was replaced."""
    alice = Publisher()
    old = alice.metadata
    known = alice.list(named())
    alice.metadata = old
    lie = alice.rotate(online=key(9))
    lie = draft.publish(lie.roots, old.targets, key(9), NOW)
    with pytest.raises(VerificationFailed, match=r"^Rollback: version 1 of the targets"):
        newer(alice.id, known, lie, now=NOW)


def test_a_root_out_of_order() -> None:
    """Roots are counted from one, without a gap."""
    alice = Publisher()
    alice.rotate(targets=[key(9)])
    first, second = alice.metadata.roots
    for roots in ((first, first), (first, second, second), (second,)):
        with pytest.raises(VerificationFailed, match=r"^(Rollback|Wrong root): "):
            read_names(alice.id, replace(alice.metadata, roots=roots), now=NOW)


@pytest.mark.parametrize(
    ("days", "role"), [(7, "timestamp"), (30, "timestamp"), (365, "timestamp"), (365 * 5, "root")]
)
def test_freeze(days: int, role: str) -> None:
    """Metadata that is older than its publisher promised is refused, unless age does not matter."""
    alice = Publisher()
    at = NOW + timedelta(days=days)
    names = read_names(alice.id, alice.metadata, now=at - timedelta(days=days, seconds=1))
    assert names.expires == NOW + 7 * DAY
    assert names.stale(at)
    assert not names.stale(NOW)
    for call in (
        lambda: read_names(alice.id, alice.metadata, now=at),
        lambda: newer(alice.id, None, alice.metadata, now=at),
    ):
        with pytest.raises(VerificationFailed, match=rf"^Freeze: the publisher's {role} "):
            call()
    assert newer(alice.id, None, alice.metadata, now=None) == alice.metadata


def test_freeze_of_each_role() -> None:
    """Each role's age counts, also where the online key goes on signing."""
    alice = Publisher()
    known = alice.metadata
    alice.now = NOW + 366 * DAY
    came = alice.renew()
    with pytest.raises(VerificationFailed, match=r"^Freeze: the publisher's targets "):
        newer(alice.id, known, came, now=alice.now)


def test_mix_and_match() -> None:
    """Files of different states are refused, each pair of them."""
    alice = Publisher()
    old, new = alice.metadata, alice.list(named())
    for mixed in (
        replace(new, targets=old.targets),
        replace(new, snapshot=old.snapshot),
        replace(new, timestamp=old.timestamp),
        replace(new, timestamp=old.timestamp, snapshot=old.snapshot),
    ):
        with pytest.raises(VerificationFailed, match=r"^Mix and match: "):
            read_names(alice.id, mixed, now=NOW)


def test_swapped_target() -> None:
    """Nobody puts another manifest in a release's place: not in the list, nor by what they send."""
    alice = Publisher()
    good, bad = manifest(alice.id, "1"), manifest(alice.id, "2")
    alice.add(good)
    swapped = alice.metadata.targets.replace(str(good.cid).encode(), str(bad.cid).encode())
    with pytest.raises(VerificationFailed, match=r"^Mix and match: "):
        read_names(alice.id, replace(alice.metadata, targets=swapped), now=NOW)
    [entry] = alice.names().entries
    with pytest.raises(VerificationFailed, match=r"^Swapped target: "):
        entry.check(bad.payload, "tiny", "1")
    # The list says one manifest and the hash of another: its publisher's own doing.
    alice.list(replace(entry, manifest=bad.cid))
    bundles = [sign_bundle(bad.payload, alice.signer)]
    with pytest.raises(VerificationFailed, match=r"^Swapped target: "):
        authenticate(bad.payload, bundles, alice.metadata)


def test_a_stolen_key_after_rotation() -> None:
    """A key that was replaced signs no list and no release any more; what it signed stays good."""
    alice = Publisher()
    stolen, stolen_online = alice.signer, alice.online
    good = manifest(alice.id, "1")
    before = alice.add(good)
    known = alice.rotate(targets=[key(9)], online=key(10))
    # Whole metadata signed with the stolen keys, newer than all, under the old root.
    thief = Publisher()
    thief.metadata = before
    for _ in range(5):
        thief.list(named("evil", sequence=7))
    assert thief.id == alice.id
    with pytest.raises(VerificationFailed, match=r"^Replaced key: "):
        newer(alice.id, known, thief.metadata, now=NOW)
    # The same beside the new root.
    for lie in (
        replace(thief.metadata, roots=known.roots),
        replace(known, timestamp=thief.metadata.timestamp),
    ):
        with pytest.raises(VerificationFailed, match=r"^Replaced key: "):
            newer(alice.id, known, lie, now=NOW)
    # A list signed with the stolen key, and with the new online key all the same.
    targets = draft.sign(
        draft.next_targets([named("evil", sequence=7)], NOW, known.targets), stolen
    )
    with pytest.raises(VerificationFailed, match=r"^Replaced key: "):
        newer(alice.id, known, draft.publish(known.roots, targets, key(10), NOW, known), now=NOW)
    # Releases.
    evil = manifest(alice.id, "2")
    assert stolen_online.public != key(10).public
    [bundle] = authenticate(good.payload, [sign_bundle(good.payload, stolen)], known)
    assert bundle == sign_bundle(good.payload, stolen)
    with pytest.raises(VerificationFailed, match=r"^Replaced key: "):
        authenticate(evil.payload, [sign_bundle(evil.payload, stolen)], known)
    assert authenticate(evil.payload, [sign_bundle(evil.payload, key(9))], known)


def test_recovery_from_a_stolen_online_key() -> None:
    """A thief who counted as high as he could is overtaken by replacing the online key."""
    alice = Publisher()
    mine = alice.list(named())

    def jump(signed: dict[str, Any]) -> None:
        signed["version"] = 2**53 - 1

    known = replace(mine, timestamp=edit(mine.timestamp, jump, alice.online))
    assert newer(alice.id, mine, known, now=NOW) == known
    assert newer(alice.id, known, mine, now=NOW) is known
    alice.rotate(online=key(9))
    assert newer(alice.id, known, alice.metadata, now=NOW) == alice.metadata


def test_recovery_from_stolen_keys() -> None:
    """The same goes for the list of releases, once both keys of a thief were replaced."""
    alice, thief = Publisher(), Publisher()
    mine = alice.list(named())
    thief.metadata = mine

    def jump(signed: dict[str, Any]) -> None:
        signed["version"] = 2**53 - 1

    targets = edit(mine.targets, jump, thief.signer)
    known = draft.publish(mine.roots, targets, thief.online, NOW, mine)
    assert newer(alice.id, mine, known, now=NOW) == known
    came = alice.rotate(targets=[key(8)], online=key(9))
    assert newer(alice.id, known, came, now=NOW) == came


def test_under_threshold() -> None:
    """Too few signatures are refused, on a root by its own rule and by that of the one before."""
    acme = Publisher(people=3, threshold=2)
    acme.rotate(targets=[key(1), key(2), key(3)])
    first, second = acme.metadata.roots
    assert acme.names().version == 2
    for keys in ([], [0], [1]):
        chosen = [acme.root_keys[n] for n in keys]
        lie = edit(second, lambda _: None, *chosen)
        with pytest.raises(VerificationFailed, match=r"^Under threshold: the root 2 "):
            read_names(acme.id, replace(acme.metadata, roots=(first, lie)), now=NOW)
    lie = edit(acme.metadata.targets, lambda _: None, key(1))
    with pytest.raises(VerificationFailed, match=r"^Under threshold: the targets "):
        read_names(
            acme.id, draft.publish((first, second), lie, acme.online, NOW, acme.metadata), now=NOW
        )
    # A thief who holds one of three keys makes a root of his own.
    own = draft.Role((acme.root_keys[0].public,))
    root = draft.next_root(draft.Roles(own, own, acme.online.public), NOW, second)
    root = draft.sign(root, acme.root_keys[0])
    with pytest.raises(VerificationFailed, match=r"^Under threshold: the root 3 "):
        signing_keys(acme.id, (first, second, root))


def test_one_key_under_two_ids() -> None:
    """A key counts once, whatever it is called."""
    acme = Publisher(people=2, threshold=2)
    mine = acme.root_keys[0]

    def twice(signed: dict[str, Any]) -> None:
        other = "0" * 64
        signed["keys"][other] = signed["keys"][draft.key_id(mine.public)]
        signed["roles"]["root"]["keyids"] = [other, draft.key_id(mine.public)]

    value = json.loads(edit(acme.metadata.roots[0], twice, mine))
    [signature] = value["signatures"]
    value["signatures"].insert(0, signature | {"keyid": "0" * 64})
    root = canonical.encode(value)
    with pytest.raises(VerificationFailed, match=r"^One key under two ids: "):
        signing_keys(publisher_of_root(root), (root,))
    # In a bundle: one key signs twice, and a threshold of two is not met.
    stated = manifest(acme.id)
    bundles = [sign_bundle(stated.payload, acme.targets_keys[0])] * 2
    with pytest.raises(VerificationFailed, match=r"signed by 1 of the 2 keys"):
        authenticate(stated.payload, bundles, acme.metadata)


def test_an_organisation_signs_together() -> None:
    """A release of an organisation is its own with enough of its members' signatures."""
    acme = Publisher(people=3, threshold=2)
    stated = manifest(acme.id)
    mine = [sign_bundle(stated.payload, one) for one in acme.targets_keys]
    stranger = sign_bundle(stated.payload, key(1))
    assert authenticate(stated.payload, [stranger, mine[2], mine[0]], acme.metadata) == (
        mine[2],
        mine[0],
        stranger,
    )
    for bundles in ([stranger, mine[1]], [stranger], []):
        with pytest.raises(VerificationFailed, match="keys of its publisher"):
            authenticate(stated.payload, bundles, acme.metadata)


def test_keys_of_two_roots_do_not_add_up() -> None:
    """An old key and a new one together are not two keys of one root."""
    acme = Publisher(people=2, threshold=2)
    old = acme.targets_keys
    stated = manifest(acme.id)
    acme.add(stated)
    acme.rotate(targets=[key(1), key(2)])
    bundles = [sign_bundle(stated.payload, one) for one in (old[0], key(1))]
    with pytest.raises(VerificationFailed, match="1 of the 2 keys"):
        authenticate(stated.payload, bundles, acme.metadata)


def test_two_files_under_one_version() -> None:
    """Whoever says two things under one version is refused, also with the right keys."""
    alice = Publisher()
    old = alice.metadata
    one = alice.list(named("one"))
    alice.metadata = old
    other = alice.list(named("other"))
    with pytest.raises(VerificationFailed, match=r"^Two files under one version: "):
        newer(alice.id, one, other, now=NOW)
    alice.metadata = one
    left = alice.rotate(targets=[key(1)])
    alice.metadata, alice.targets_keys = one, [key(101)]
    right = alice.rotate(targets=[key(2)])
    with pytest.raises(VerificationFailed, match=r"^Two files under one version: root 2 "):
        newer(alice.id, left, right, now=NOW)


def test_the_signatures_that_are_known_stay() -> None:
    """Roots that state the same with other signatures are no fork; what is known is kept."""
    acme = Publisher(people=3, threshold=2)
    second = acme.rotate(targets=[key(1), key(2), key(3)]).roots[1]
    known = acme.metadata
    fewer = edit(second, lambda _: None, *acme.root_keys[:2])
    acme.metadata = replace(known, roots=(known.roots[0], fewer))
    acme.list(named())
    kept = newer(acme.id, known, acme.metadata, now=NOW)
    assert kept.roots == known.roots
    assert kept.targets == acme.metadata.targets


def test_somebody_elses_root() -> None:
    """Metadata of one publisher is not taken for another's."""
    alice, bob = Publisher(1), Publisher(50)
    with pytest.raises(VerificationFailed, match=r"^Wrong root: "):
        read_names(alice.id, bob.metadata, now=NOW)
    with pytest.raises(VerificationFailed, match="signed by 0 of the 1 keys"):
        authenticate(
            manifest(alice.id).payload,
            [sign_bundle(manifest(alice.id).payload, bob.signer)],
            alice.metadata,
        )


# -- what the files may hold


SMALL_ORDER = "0100000000000000000000000000000000000000000000000000000000000000"


def _small_order(signed: dict[str, Any]) -> None:
    plain = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": SMALL_ORDER}}
    keyid = hashlib.sha256(canonical.encode(plain)).hexdigest()
    signed["keys"][keyid] = plain
    signed["roles"]["root"]["keyids"].append(keyid)


def _rsa(signed: dict[str, Any]) -> None:
    for one in signed["keys"].values():
        one["keytype"] = one["scheme"] = "rsa"


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(signed: dict[str, Any]) -> None:
        *parts, last = path.split(".")
        for part in parts:
            signed = signed[part]
        signed[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _small_order,
        _rsa,
        _set("consistent_snapshot", False),
        _set("version", True),
        _set("version", "1"),
        _set("version", 0),
        _set("expires", "2031-1-1T00:00:00Z"),
        _set("expires", "never"),
        _set("spec_version", "2.0"),
        _set("roles.root.threshold", 0),
        _set("roles.root.threshold", 2),
        _set("roles.root.threshold", True),
        _set("roles.targets.keyids", []),
        _set("roles.targets.keyids", ["0" * 64]),
        _set("roles.targets", None),
        _set("roles.mirror", {"keyids": [], "threshold": 1}),
        _set("keys", []),
        _set("_type", "targets"),
    ],
)
def test_roots_that_are_refused(change: Callable[[dict[str, Any]], None]) -> None:
    """A root that could be understood in two ways, or holds unsafe keys, makes no publisher."""
    alice = Publisher()
    [root] = alice.metadata.roots
    value = json.loads(root)
    change(value["signed"])
    try:
        root = edit(canonical.encode(value), lambda _: None, alice.root_keys[0])
    except Exception:
        root = canonical.encode(value)  # python-tuf itself does not read it
    with pytest.raises(VerificationFailed):
        read_names(publisher_of_root(root), replace(alice.metadata, roots=(root,)), now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        _set("manifest", "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        _set("manifest", None),
        _set("sequence", 0),
        _set("sequence", "1"),
        _set("kind", "A model"),
        _set("description", "two\nlines"),
        _set("description", "x" * 1001),
        _set("parents", [1]),
        _set("parents", None),
        _set("added", "2026-02-30T00:00:00Z"),
        _set("status", {}),
        _set("status", {"state": "lost", "reason": "x", "at": "2026-11-22T00:00:00Z"}),
        _set("status", {"state": "revoked", "reason": "", "at": "2026-11-22T00:00:00Z"}),
    ],
)
def test_entries_that_are_refused(change: Callable[[dict[str, Any]], None]) -> None:
    """An entry with a wrong field is not passed over: its publisher signed it."""
    alice = Publisher()
    known = alice.list(named())

    def spoil(signed: dict[str, Any]) -> None:
        signed["version"] += 1
        change(signed["targets"]["tiny@1"]["custom"]["allod"])

    targets = edit(known.targets, spoil, alice.signer)
    spoiled = draft.publish(known.roots, targets, alice.online, NOW, known)
    for call in (
        lambda: read_names(alice.id, spoiled, now=NOW),
        lambda: newer(alice.id, known, spoiled, now=NOW),
        lambda: newer(alice.id, None, spoiled, now=NOW),
    ):
        with pytest.raises(VerificationFailed):
            call()


@pytest.mark.parametrize("same", ["sequence", "manifest"])
def test_entries_are_told_apart(same: str) -> None:
    """No two entries share a place in the order, or a manifest."""
    alice = Publisher()
    one, two = named("one", sequence=1), named("two", sequence=2)
    alice.list(one, replace(two, **{same: getattr(one, same)}))
    with pytest.raises(VerificationFailed, match=f"the same {same}"):
        alice.names()


def test_signatures_have_one_spelling() -> None:
    """A signature is added, moved or written otherwise by nobody but who signs."""
    acme = Publisher(people=2, threshold=2)
    value = json.loads(acme.metadata.timestamp)
    [mine] = value["signatures"]
    targets = json.loads(acme.metadata.targets)["signatures"]
    lies: list[Any] = [
        [],
        [mine, mine],
        [mine | {"sig": mine["sig"].upper()}],
        [mine | {"sig": mine["sig"][:-2] + "00"}],
        [mine | {"sig": 5}],
        [mine | {"keyid": None}, mine],
        [mine | {"note": "x"}],
        sorted([mine, *targets], key=lambda one: str(one["keyid"])),
        {},
    ]
    for signatures in lies:
        lie = canonical.encode(value | {"signatures": signatures})
        with pytest.raises(VerificationFailed):
            read_names(acme.id, replace(acme.metadata, timestamp=lie), now=NOW)
    swapped = json.loads(acme.metadata.roots[0])
    swapped["signatures"].reverse()
    root = canonical.encode(swapped)
    with pytest.raises(VerificationFailed, match="order"):
        signing_keys(publisher_of_root(root), (root,))


def test_delegations_are_refused() -> None:
    """A publisher's list is its own: it hands no part of it to others."""
    alice = Publisher()
    change = _set("delegations", {"keys": {}, "roles": []})
    targets = edit(alice.metadata.targets, change, alice.signer)
    with pytest.raises(VerificationFailed, match="delegate"):
        read_names(
            alice.id,
            draft.publish(alice.metadata.roots, targets, alice.online, NOW),
            now=NOW,
        )


def test_sizes_are_bounded() -> None:
    """Nothing over its limit is read, and not too many roots, whoever signed them."""
    alice = Publisher()
    for lie in (
        replace(alice.metadata, roots=()),
        replace(alice.metadata, roots=alice.metadata.roots * 1025),
        replace(alice.metadata, roots=(b" " * (9 << 20),)),
        replace(alice.metadata, timestamp=b"{" * (17 << 10)),
        replace(alice.metadata, timestamp=b"," * (1 << 20)),
        replace(alice.metadata, timestamp=b"[" * 10000),
    ):
        with pytest.raises(VerificationFailed):
            read_names(alice.id, lie, now=NOW)


def test_what_cannot_be_written() -> None:
    """A role that nobody could fill, or a release that is not listed, is the caller's mistake."""
    one = draft.Role((key(1).public,))
    for role in (draft.Role((key(1).public,) * 2), replace(one, threshold=2), draft.Role(())):
        with pytest.raises(UsageError):
            draft.next_root(draft.Roles(role, one, key(2).public), NOW)
    with pytest.raises(NotFound):
        Publisher().mark(named().manifest, REVOKED)


# -- mutations


ACME = Publisher(people=2, threshold=2)
ACME.list(named("one"), named("two", sequence=2, status=REVOKED))
ACME.rotate(targets=[key(1), key(2)])
FILES = files_of(ACME.metadata)
KNOWN = metadata_of(FILES)
BEFORE = Publisher(people=2, threshold=2).metadata


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, bytes]:
    """The files of a publisher, one of them changed somewhere."""
    name = draw(st.sampled_from(sorted(FILES)))
    data = FILES[name]
    at = draw(st.integers(0, len(data) - 1))
    match draw(st.integers(0, 4)):
        case 0:
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        case 1:
            data = data[:at] + data[at + draw(st.integers(1, 40)) :]
        case 2:
            data = data[:at] + draw(st.binary(min_size=1, max_size=20)) + data[at:]
        case 3:
            data = _change(draw, data)
        case _:
            other = FILES[draw(st.sampled_from(sorted(FILES)))]
            data = other if draw(st.booleans()) else data[:at] + other[at:]
    return FILES | {name: data}


def _change(draw: st.DrawFn, data: bytes) -> bytes:
    """Change one value somewhere in the JSON, and write it canonically."""
    value: Any = json.loads(data)
    inner = value
    while True:
        keys: list[Any] = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            return data
        chosen = draw(st.sampled_from(keys))
        if isinstance(inner[chosen], dict | list) and draw(st.integers(0, 9)):
            inner = inner[chosen]
            continue
        match draw(st.integers(0, 3)):
            case 0:
                del inner[chosen]
            case 1 if isinstance(inner, dict):
                inner[draw(st.text(max_size=5))] = inner[chosen]
            case 2 if isinstance(inner[chosen], int):
                inner[chosen] += draw(st.integers(-3, 3))
            case _:
                inner[chosen] = draw(
                    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5)
                    | st.just([]) | st.just({}) | st.floats()
                )  # fmt: skip
        try:
            return canonical.encode(value)
        except UsageError:
            return json.dumps(value).encode()


def check_mutation(files: dict[str, bytes]) -> None:
    """A changed file is refused, or nothing was changed."""
    for known in (None, BEFORE, KNOWN):
        try:
            kept = newer(ACME.id, known, metadata_of(files), now=NOW)
        except VerificationFailed:
            continue
        assert files_of(kept) in (FILES, files_of(known) if known else FILES)
    if files != FILES:
        with pytest.raises(VerificationFailed):
            read_names(ACME.id, metadata_of(files), now=NOW)


@settings(max_examples=150, deadline=None)
@given(mutations())
@example(FILES)
def test_mutations(files: dict[str, bytes]) -> None:
    """Whatever is changed in a publisher's files, they are refused, and nothing crashes."""
    check_mutation(files)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=10_000, deadline=None)
@given(mutations())
def test_ten_thousand_mutations(files: dict[str, bytes]) -> None:
    """Of ten thousand changes to a publisher's files none is accepted."""
    check_mutation(files)
