"""This machine's publishers: what they say changes wholly or not, and only with enough keys."""

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tuf.ngclient.updater import Updater

from node.keyring import Keyring
from node.publisher import (
    Proposal,
    Repository,
    Waiting,
    found,
    read_proposal,
    write_proposal,
)
from node.store import durable
from p2p import canonical
from p2p.envelope import sign_bundle
from p2p.errors import NotFound, StoreError, UsageError, VerificationFailed
from p2p.keys import SecretKey
from p2p.naming import (
    Metadata,
    Status,
    authenticate,
    draft,
    name_release,
    newer,
    read_names,
)
from tests.faults.power import DECISIVE, STATES, Recorder, cuts
from tests.publishers import DAY, NOW, key, manifest

REVOKED = Status("revoked", "the weights are broken", "2026-11-22T00:00:00Z")


def make(folder: Path, name: str = "alice", **more: Any) -> Repository:
    """Make a publisher at a known time."""
    made = found(folder / name, name, now=NOW, **more)
    assert made is not None
    return made


def done(result: Metadata | Waiting) -> Metadata:
    """What a change that needed nobody else has made."""
    assert isinstance(result, Metadata)
    return result


def waits(result: Metadata | Waiting) -> Waiting:
    """What a change that needs others has made."""
    assert isinstance(result, Waiting)
    return result


def sign(waiting: Waiting, *keys: SecretKey) -> bytes:
    """Sign a proposal elsewhere."""
    return write_proposal(read_proposal(waiting.path.read_bytes()).sign(keys))


def lines(waiting: Waiting) -> list[str]:
    """What a signer is shown."""
    return list(read_proposal(waiting.path.read_bytes()).differences())


# -- releases


def test_a_release_is_listed(tmp_path: Path) -> None:
    """Publishing lists a release for all who know the publisher; twice is once."""
    alice = make(tmp_path)
    before = alice.metadata()
    first = manifest(alice.id, "1")
    after = done(alice.add(first.payload, now=NOW))
    assert newer(alice.id, before, after, now=NOW) == after == alice.metadata()
    assert alice.add(first.payload, now=NOW + DAY) == after
    alice.add(manifest(alice.id, "2").payload, now=NOW)
    assert [(one.path, one.sequence) for one in alice.names().entries] == [
        ("tiny@1", 1),
        ("tiny@2", 2),
    ]
    bundle = sign_bundle(first.payload, alice.signer)
    assert authenticate(first.payload, [bundle], alice.metadata()) == (bundle,)


def test_what_is_not_listed(tmp_path: Path) -> None:
    """Another's release is not listed, nor another one under a version that is taken."""
    alice = make(tmp_path)
    alice.add(manifest(alice.id, "1").payload, now=NOW)
    with pytest.raises(UsageError, match="as its publisher"):
        alice.add(manifest("bagaa").payload)
    with pytest.raises(UsageError, match="other content"):
        alice.add(manifest(alice.id, "1", description="x").payload)
    with pytest.raises(VerificationFailed):
        alice.add(b"{}")


def test_a_release_is_taken_back(tmp_path: Path) -> None:
    """A release that was taken back stays so, with the first reason."""
    alice = make(tmp_path)
    one = manifest(alice.id)
    with pytest.raises(NotFound, match="does not list"):
        alice.mark(one.cid, REVOKED)
    alice.add(one.payload, now=NOW)
    after = done(alice.mark(one.cid, REVOKED, now=NOW))
    again = Status("withdrawn", "another reason", REVOKED.at)
    assert alice.mark(one.cid, again, now=NOW) == after
    assert alice.add(one.payload, now=NOW) == after
    assert [entry.status for entry in alice.names().entries] == [REVOKED]


def test_many_at_once(tmp_path: Path) -> None:
    """Whoever changes a publisher at the same time as others waits for his turn."""
    alice = make(tmp_path)
    payloads = [manifest(alice.id, str(number)).payload for number in range(8)]
    threads = [
        threading.Thread(target=Repository(tmp_path / "alice", "alice").add, args=[payload])
        for payload in payloads
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.sequence for one in alice.names().entries) == [*range(1, 9)]


# -- time


def test_renewal(tmp_path: Path) -> None:
    """What expires soon is signed anew with the keys here, each role in its time, and no sooner."""
    alice = make(tmp_path)
    before = alice.metadata()
    assert alice.renew(NOW + 3 * DAY) is None
    now = NOW + 4 * DAY
    after = alice.renew(now)
    assert after is not None
    assert (after.roots, after.targets) == (before.roots, before.targets)
    assert read_names(alice.id, after, now=now).expires == now + 7 * DAY
    assert alice.renew(now) is None
    # A machine that was off for a year catches up.
    now += 366 * DAY
    assert alice.names().stale(now)
    assert alice.renew(now) is not None
    assert not alice.names().stale(now)
    assert len(alice.metadata().roots) == 1
    now += 5 * 365 * DAY
    assert alice.renew(now) is not None
    assert len(alice.metadata().roots) == 2
    assert not alice.names().stale(now)


def test_renewal_without_keys(tmp_path: Path) -> None:
    """Roles whose keys lie elsewhere are left; without the online key nothing is renewed."""
    alice = make(tmp_path)
    (tmp_path / "alice" / "root.key").unlink()
    (tmp_path / "alice" / "targets.key").unlink()
    now = NOW + 5 * 365 * DAY
    after = alice.renew(now)
    assert after is not None
    assert draft.expires_of(after.timestamp) == now + 7 * DAY
    assert (len(after.roots), draft.version_of(after.targets)) == (1, 1)
    (tmp_path / "alice" / "online.key").unlink()
    assert alice.renew(now + 30 * DAY) is None
    bob = make(tmp_path, "bob")
    (tmp_path / "bob" / "online.key").unlink()
    with pytest.raises(NotFound, match="online key"):
        bob.add(manifest(bob.id).payload, now=NOW)


# -- keys


@pytest.mark.parametrize("role", ["root", "targets", "online"])
def test_rotation(tmp_path: Path, role: Any) -> None:
    """A new key takes an old one's place, under the same id; earlier releases stay good."""
    alice = make(tmp_path)
    id, old = alice.id, alice.key(role)
    first = manifest(id, "1")
    bundle = sign_bundle(first.payload, alice.signer)
    before = done(alice.add(first.payload, now=NOW))
    after = done(alice.rotate(role, NOW))
    new = alice.key(role)
    assert old is not None
    assert new is not None
    assert new.public != old.public
    assert alice.id == id
    assert newer(id, before, after, now=NOW) == after
    assert authenticate(first.payload, [bundle], after) == (bundle,)
    second = manifest(id, "2")
    done(alice.add(second.payload, now=NOW))
    bundle = sign_bundle(second.payload, alice.signer)
    assert authenticate(second.payload, [bundle], alice.metadata()) == (bundle,)
    assert not list((tmp_path / "alice").glob("*.next.key"))


def test_an_offline_root(tmp_path: Path) -> None:
    """With the root key kept elsewhere everything goes on but a change of keys, which waits."""
    alice = make(tmp_path)
    file = tmp_path / "stick.key"
    assert alice.lock(file) == alice.roles().root.keys[0]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert alice.key("root") is None
    with pytest.raises(NotFound, match="not on this machine"):
        alice.lock(tmp_path / "other.key")
    done(alice.add(manifest(alice.id).payload, now=NOW))
    assert alice.renew(NOW + 5 * DAY) is not None
    before, signer = alice.metadata(), alice.signer
    waiting = waits(alice.rotate("targets", NOW))
    assert (waiting.missing, waiting.asks) == (1, alice.roles().root.keys)
    assert alice.metadata() == before
    assert alice.signer.seed == signer.seed
    assert waits(alice.rotate("targets", NOW)) == waiting  # no further key is made
    shown = lines(waiting)
    assert f"- targets: {signer.public.did}" in shown
    assert shown[0] == "root 2, good until 2031-11-21"
    root = SecretKey.from_pem(file.read_text())
    # Between proposing and signing the publisher may go on.
    done(alice.add(manifest(alice.id, "2").payload, now=NOW))
    alice.apply(sign(waiting, root), now=NOW)
    assert alice.signer.public != signer.public
    assert [one.path for one in alice.names().entries] == ["tiny@1", "tiny@2"]
    assert not waiting.path.exists()
    # The root key itself.
    waiting = waits(alice.rotate("root", NOW))
    alice.apply(sign(waiting, root), now=NOW)
    new = alice.key("root")
    assert new is not None
    assert alice.roles().root.keys == (new.public,)


def test_a_root_key_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root key stays where its copy elsewhere can't be made, or isn't read back the same."""
    alice = make(tmp_path)
    file = tmp_path / "stick.key"
    file.write_text("something else")
    with pytest.raises(UsageError, match="already"):
        alice.lock(file)
    monkeypatch.setattr(Path, "read_text", lambda self: "worn out")
    with pytest.raises(StoreError, match="is not what is read"):
        alice.lock(tmp_path / "other.key")
    assert alice.key("root") is not None


def test_an_organisation(tmp_path: Path) -> None:
    """Two of three found a publisher, publish, replace a key and a member; one alone can't."""
    bob, carol = key(1), key(2)
    acme = make(tmp_path, "acme", members=[bob.public, carol.public], threshold=2)
    assert not acme.founded
    for call in (lambda: acme.id, acme.metadata, acme.names, partial(acme.rotate, "root")):
        with pytest.raises(NotFound, match="not founded yet"):
            call()
    [path] = acme.waiting()
    waiting = Waiting(path, 1, ())
    assert "root takes 2 of 3 keys" in lines(waiting)
    assert f"+ targets: {bob.public.did}" in lines(waiting)
    with pytest.raises(UsageError, match="needs 1 more signature"):
        acme.apply(path.read_bytes(), now=NOW)
    acme.apply(sign(waiting, bob), now=NOW)
    assert acme.founded
    assert acme.waiting() == ()
    # A release.
    tiny = manifest(acme.id)
    waiting = waits(acme.add(tiny.payload, now=NOW))
    assert set(waiting.asks) == {bob.public, carol.public}
    assert lines(waiting) == [
        "list of releases, version 2, good until 2027-11-22",
        f"+ tiny@1 ({tiny.cid})",
        "the manifest of tiny@1 itself is signed too",
    ]
    assert acme.names().entries == ()
    applied = acme.apply(sign(waiting, carol), now=NOW)
    [(cid, bundles)] = applied.bundles
    assert cid == tiny.cid
    assert len(authenticate(tiny.payload, bundles, applied.metadata)) == 2
    with pytest.raises(VerificationFailed, match="1 of the 2 keys"):
        authenticate(tiny.payload, bundles[:1], applied.metadata)
    # A key of this machine's own, then a member.
    waiting = waits(acme.rotate("targets", NOW))
    acme.apply(sign(waiting, bob), now=NOW)
    assert acme.signer.public in acme.roles().targets.keys
    dave = key(3)
    waiting = waits(acme.change_members(add=[dave.public], remove=[carol.public], now=NOW))
    assert f"- root: {carol.public.did}" in lines(waiting)
    with pytest.raises(UsageError, match="needs 1 more"):
        acme.apply(sign(waiting, dave), now=NOW)  # he has no say yet
    acme.apply(sign(waiting, dave, bob), now=NOW)
    assert dave.public in acme.roles().root.keys
    assert carol.public not in acme.roles().targets.keys
    waiting = waits(acme.mark(tiny.cid, REVOKED, now=NOW))
    assert "! tiny@1 is revoked: the weights are broken" in lines(waiting)
    acme.apply(sign(waiting, dave), now=NOW)
    waiting = waits(acme.extend(NOW + 300 * DAY))
    acme.apply(sign(waiting, bob), now=NOW + 300 * DAY)
    assert not acme.names().stale(NOW + 301 * DAY)
    assert [one.status for one in acme.names().entries] == [REVOKED]
    with pytest.raises(NotFound, match="no say"):
        acme.change_members(remove=[carol.public])


def test_wrong_members(tmp_path: Path) -> None:
    """A threshold that nobody could reach, or one key twice, makes no publisher."""
    for more in (
        {"threshold": 2},
        {"threshold": 0},
        {"members": [key(1).public, key(1).public], "threshold": 2},
    ):
        with pytest.raises(UsageError):
            make(tmp_path, "acme", **more)
    assert list(tmp_path.iterdir()) == []


# -- proposals


def test_applying_signs_nothing(tmp_path: Path) -> None:
    """A proposal from outside counts only with signatures that it brings: no key here adds one."""
    alice = make(tmp_path)
    known, roles = alice.metadata(), alice.roles()
    thief = draft.Role((key(66).public,))
    for root, targets in (
        (draft.next_root(draft.Roles(thief, thief, roles.online), NOW, known.roots[-1]), None),
        (None, draft.next_targets([], NOW, known.targets)),
    ):
        proposal = Proposal("alice", known, root, targets).sign([key(66)])
        with pytest.raises(UsageError, match="needs 1 more"):
            alice.apply(write_proposal(proposal), now=NOW)
    assert alice.metadata() == known


def test_proposals_that_do_not_fit(tmp_path: Path) -> None:
    """A proposal for another publisher, or from before the last change, is not applied."""
    alice, bob = make(tmp_path), make(tmp_path, "bob")
    for one in (alice, bob):
        one.lock(tmp_path / f"{one.name}.root")
    root = SecretKey.from_pem((tmp_path / "alice.root").read_text())
    waiting = waits(alice.rotate("targets", NOW))
    signed = sign(waiting, root)
    with pytest.raises(UsageError, match="not one for"):
        bob.apply(signed)
    alice.apply(signed, now=NOW)
    with pytest.raises(UsageError, match="before 'alice' last said"):
        alice.apply(signed, now=NOW)
    acme = make(tmp_path, "acme", members=[key(1).public], threshold=2)
    other = make(tmp_path, "other", members=[key(1).public], threshold=2)
    first = Waiting(acme.waiting()[0], 1, ())
    with pytest.raises(UsageError, match="does not found"):
        other.apply(sign(first, key(1)))
    signed = sign(first, key(1))
    acme.apply(signed, now=NOW)
    with pytest.raises(UsageError, match="founded already"):
        acme.apply(signed, now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "else"},
        {"root": "{}"},
        {"root": 1},
        {"targets": '{"signatures":[],"signed":{}}'},
        {"targets": '{"signatures":{},"signed":[]}'},
        {"metadata": {}},
        {"metadata": None},
        {"statements": [{"payload": "!", "bundles": []}]},
        {"statements": [{"payload": "e30=", "bundles": []}]},
        {"statements": None},
        {"targets": None},
    ],
)
def test_damaged_proposals(tmp_path: Path, change: dict[str, Any]) -> None:
    """A proposal that cannot be read is refused in words."""
    acme = make(tmp_path, "acme", members=[key(1).public], threshold=2)
    acme.apply(sign(Waiting(acme.waiting()[0], 1, ()), key(1)), now=NOW)
    waiting = waits(acme.add(manifest(acme.id).payload, now=NOW))
    value = json.loads(waiting.path.read_text()) | change
    value = {name: one for name, one in value.items() if one is not None}
    for data in (canonical.encode(value), waiting.path.read_bytes()[:-1], b""):
        with pytest.raises(VerificationFailed):
            read_proposal(data)


def _hidden_online(known: Metadata) -> dict[str, bytes]:
    """A root that gives the snapshot to somebody whom the roles do not show."""
    signed = _stated(draft.next_root(draft.roles_of(known.roots[-1]), NOW, known.roots[-1]))
    thief = key(66).public
    signed["keys"][draft.key_id(thief)] = {
        "keytype": "ed25519",
        "scheme": "ed25519",
        "keyval": {"public": thief.raw.hex()},
    }
    signed["roles"]["snapshot"]["keyids"] = [draft.key_id(thief)]
    return {"root": _unsigned(signed)}


def _older_as_newest(known: Metadata) -> dict[str, bytes]:
    """A list in which an old release has become the newest one."""
    signed = _stated(draft.next_targets([], NOW, known.targets))
    signed["targets"]["tiny@1"]["custom"]["allod"]["sequence"] = 1000
    return {"targets": _unsigned(signed)}


def _good_again(known: Metadata) -> dict[str, bytes]:
    """A list in which a release that was taken back no longer is."""
    signed = _stated(draft.next_targets([], NOW, known.targets))
    del signed["targets"]["tiny@2"]["custom"]["allod"]["status"]
    return {"targets": _unsigned(signed)}


def _unlisted(known: Metadata) -> dict[str, bytes]:
    """A list with a target that is no release here, and one that lacks a release."""
    signed = _stated(draft.next_targets([], NOW, known.targets))
    signed["targets"]["else"] = signed["targets"].pop("tiny@1") | {"custom": {}}
    return {"targets": _unsigned(signed)}


def _delegated(known: Metadata) -> dict[str, bytes]:
    """A list that hands releases to somebody else."""
    signed = _stated(draft.next_targets([], NOW, known.targets))
    signed["delegations"] = {"keys": {}, "roles": []}
    return {"targets": _unsigned(signed)}


def _stated(file: bytes) -> dict[str, Any]:
    return json.loads(file)["signed"]  # type: ignore[no-any-return]


def _unsigned(signed: dict[str, Any]) -> bytes:
    return canonical.encode({"signatures": [], "signed": signed})


@pytest.mark.parametrize(
    "hide", [_hidden_online, _older_as_newest, _good_again, _unlisted, _delegated]
)
def test_nothing_rides_along(tmp_path: Path, hide: Callable[[Metadata], dict[str, bytes]]) -> None:
    """What a proposal changes beyond what its signers are shown is never signed."""
    alice = make(tmp_path)
    for version in ("1", "2"):
        alice.add(manifest(alice.id, version).payload, now=NOW)
    known = done(alice.mark(manifest(alice.id, "2").cid, REVOKED, now=NOW))
    files = hide(known)
    data = write_proposal(Proposal("alice", known, files.get("root"), files.get("targets")))
    with pytest.raises(VerificationFailed, match="more than can be shown"):
        read_proposal(data)


def test_another_manifest_is_not_signed_along(tmp_path: Path) -> None:
    """A signer is never led to sign a manifest other than the one that is listed."""
    alice, bob = make(tmp_path), make(tmp_path, "bob")
    known, good = alice.metadata(), manifest(alice.id)
    entry = name_release(good, 1, draft.time_text(NOW))
    targets = draft.next_targets([entry], NOW, known.targets)
    renewed = draft.next_targets([], NOW, known.targets)
    root = draft.next_root(alice.roles(), NOW, known.roots[-1])
    good_proposal = Proposal("alice", known, None, targets, ((good.payload, ()),))
    assert read_proposal(write_proposal(good_proposal)) == good_proposal
    for other in (manifest(bob.id), manifest(alice.id, description="another")):
        for first, second in ((None, targets), (None, renewed), (root, None)):
            proposal = Proposal("alice", known, first, second, ((other.payload, ()),))
            with pytest.raises(VerificationFailed):
                read_proposal(write_proposal(proposal))


def test_a_first_root_comes_with_a_list(tmp_path: Path) -> None:
    """A proposal to found a publisher is refused in words where parts of it are missing."""
    acme = make(tmp_path, "acme", members=[key(1).public], threshold=2)
    value = json.loads(acme.waiting()[0].read_text())
    signed = _stated(value["root"])
    signed["roles"]["timestamp"]["keyids"] = []
    for change in ({"targets": None}, {"root": _unsigned(signed).decode()}):
        said = {name: one for name, one in (value | change).items() if one is not None}
        with pytest.raises(VerificationFailed):
            read_proposal(canonical.encode(said))


def test_a_changed_proposal(tmp_path: Path) -> None:
    """Whoever changes a proposal on its way breaks the signatures on it."""
    acme = make(tmp_path, "acme", members=[key(1).public, key(2).public], threshold=2)
    text = acme.waiting()[0].read_text()
    changed = text.replace("2031-11-21", "2031-11-22").encode()
    signed = write_proposal(read_proposal(changed).sign([key(1)]))
    with pytest.raises(VerificationFailed, match="signature"):
        acme.apply(signed, now=NOW)
    assert not acme.founded


# -- the power goes


def _new(folder: Path) -> None:
    found(folder / "bob", "bob", now=NOW)


def _add(folder: Path) -> None:
    alice = Repository(folder / "alice", "alice")
    alice.add(manifest(alice.id, "2").payload, now=NOW)


def _rotate(folder: Path) -> None:
    Repository(folder / "alice", "alice").rotate("targets", NOW)


def _lock(folder: Path) -> None:
    Repository(folder / "alice", "alice").lock(folder / "stick.key")


@pytest.mark.parametrize("change", [_new, _add, _rotate, _lock])
def test_a_cut_of_the_power(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Whenever the power goes there is the old publisher or the new, with its keys, and whole."""
    start = tmp_path / "start"
    start.mkdir(mode=0o700)
    alice = make(start)
    alice.add(manifest(alice.id, "1").payload, now=NOW)
    recorded = tmp_path / "recorded"
    recorded.mkdir(mode=0o700)
    recorder = Recorder(recorded)
    with recorder.recording():
        _copy(start, recorded)
    begin = len(recorder.steps)
    with recorder.recording():
        change(recorded)
    recorder.tell(("ack", "change", True))
    before, after = _said(start), _said(recorded)
    seen = set()
    for number, disk, promised in cuts(recorder.steps):
        if number < begin - 1 or recorder.steps[number][0] not in DECISIVE:
            continue
        for state in STATES:
            left = tmp_path / "left"
            disk.leave(left, state, number, index=False)
            for path in left.rglob("*"):
                path.chmod(0o700 if path.is_dir() else 0o600)
            said = _said(left)
            assert said in ((after,) if promised else (before, after)), (number, state)
            seen.add(said)
            if not promised:
                _goes_on(left, change)
            shutil.rmtree(left)
    assert seen == {before, after}


def _copy(source: Path, target: Path) -> None:
    """Put a folder on the recorded disk, step by step, all of it synced."""
    for path in sorted(source.rglob("*")):
        there = target / path.relative_to(source)
        if path.is_dir():
            durable.make_folder(there, 0o700)
        else:
            fd = durable.create(there, 0o600)
            durable.write_at(fd, path.read_bytes(), 0)
            durable.sync_file(fd)
            os.close(fd)
    for path in [target, *target.rglob("*")]:
        if path.is_dir():
            durable.sync_folder(path)


def _said(folder: Path) -> Any:
    """What the publishers in a folder say and whether their keys fit, verified."""
    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        one = Repository(path, path.name)
        metadata, roles = one.metadata(), one.roles()
        assert one.signer.public in roles.targets.keys
        online, root = one.key("online"), one.key("root")
        locked = root is None
        assert online is not None
        assert online.public == roles.online
        if root is None:
            root = SecretKey.from_pem((folder / "stick.key").read_text())
        assert root.public in roles.root.keys
        versions = [draft.version_of(file) for file in (metadata.timestamp, metadata.targets)]
        found.append((path.name, len(metadata.roots), *versions, locked))
        read_names(one.id, metadata, now=NOW)
    return tuple(found)


def _goes_on(folder: Path, change: Callable[[Path], None]) -> None:
    """After the cut the same command, and any other, works."""
    if change is _lock and (folder / "stick.key").exists():
        (folder / "stick.key").unlink()
    if change is not _lock or Repository(folder / "alice", "alice").key("root") is not None:
        change(folder)
    alice = Repository(folder / "alice", "alice")
    alice.add(manifest(alice.id, "3").payload, now=NOW)
    assert alice.names().find("tiny", "3") is not None


# -- others read it


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder as any web server would."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_python_tuf_reads_it(tmp_path: Path) -> None:
    """TUF's own client follows a publisher over plain HTTP, from its first root on."""
    made = found(tmp_path / "alice", "alice", now=datetime.now(UTC) - timedelta(hours=1))
    assert made is not None
    alice = made
    folder = tmp_path / "alice" / "metadata"
    first = (folder / "1.root.json").read_bytes()
    tiny = manifest(alice.id)
    alice.add(tiny.payload)
    alice.rotate("targets")
    alice.rotate("root")
    alice.rotate("online")
    [entry] = alice.names().entries
    targets = tmp_path / "alice" / "targets"
    targets.mkdir()
    (targets / f"{entry.sha256}.tiny@1").write_bytes(tiny.payload)
    cache = tmp_path / "cache"
    cache.mkdir()
    with served(tmp_path / "alice") as url:
        for _ in range(2):
            updater = Updater(
                str(cache),
                f"{url}metadata/",
                str(tmp_path),
                f"{url}targets/",
                bootstrap=first,
            )
            updater.refresh()
            info = updater.get_targetinfo("tiny@1")
            assert info is not None
            assert info.custom["allod"]["manifest"] == str(tiny.cid)
            assert Path(updater.download_target(info)).read_bytes() == tiny.payload
            alice.add(manifest(alice.id, "2").payload)
        assert updater.get_targetinfo("tiny@2") is not None


def test_the_keyring_finds_it(tmp_path: Path) -> None:
    """A publisher that is not founded yet is on the keyring, and has no id."""
    keyring = Keyring(tmp_path / "keys")
    keyring.new("acme", members=[key(1).public], threshold=2)
    alice = keyring.new("alice")
    assert keyring.names() == ("acme", "alice")
    found = keyring.find(alice.id)
    assert found is not None
    assert found.name == "alice"
