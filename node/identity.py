"""The verbs on this machine's publishers: their keys, who may sign, and what others have to sign.

Each function is one operation's body, and returns the JSON object of cli.md. Disk work is done in
worker threads: a change waits for several writes, and for other processes that change the same.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import trio

from node.keyfiles import replace
from node.keyring import Keyring
from node.messages import (
    KeyFileParams,
    KeyMembersParams,
    KeyNewParams,
    KeyParams,
    KeySignParams,
    Note,
    Report,
)
from node.publisher import (
    MAX_PROPOSAL,
    Repository,
    RoleName,
    Waiting,
    read_proposal,
    write_proposal,
)
from node.store import Store, durable
from p2p.errors import NotFound, UsageError, VerificationFailed
from p2p.keys import PublicKey, SecretKey
from p2p.naming import Metadata, draft

T = TypeVar("T")
Json = dict[str, Any]


async def new_publisher(keyring: Keyring, params: KeyNewParams) -> Json:
    """Make a publisher."""
    members = [PublicKey.from_did(text) for text in params.members]
    make = partial(keyring.new, params.name, members=members, threshold=params.threshold)
    return await _there(lambda: {"ok": True} | _shown(make()))


async def list_publishers(keyring: Keyring) -> Json:
    """List this machine's publishers, and its node's peer id."""

    def look() -> Json:
        keys = [_shown(keyring.repository(name)) for name in keyring.names()]
        return {"ok": True, "keys": keys, "peer": keyring.node().public.peer_id}

    return await _there(look)


async def show_publisher(keyring: Keyring, name: str) -> Json:
    """Show who speaks for a publisher, until when, and which of its keys are here."""

    def look() -> Json:
        repository = keyring.repository(name)
        shown = {"ok": True} | _shown(repository)
        if not repository.founded:
            return shown | {"roles": {}, "releases": 0}
        metadata, roles = repository.metadata(), repository.roles()
        online = draft.Role((roles.online,))
        return shown | {
            "roles": {
                "root": _role(roles.root, metadata.roots[-1], repository.key("root")),
                "targets": _role(roles.targets, metadata.targets, repository.key("targets")),
                "snapshot": _role(online, metadata.snapshot, repository.key("online")),
                "timestamp": _role(online, metadata.timestamp, repository.key("online")),
            },
            "releases": len(repository.names().entries),
        }

    return await _there(look)


async def export_key(keyring: Keyring, params: KeyParams) -> Json:
    """Return a secret key as PEM."""

    def look() -> Json:
        secret = keyring.export(params.name, _role_name(params.role))
        return {"ok": True} | _shown(keyring.repository(params.name)) | {"secret": secret}

    return await _there(look)


async def lock_root(keyring: Keyring, params: KeyFileParams) -> Json:
    """Move the root key into a file elsewhere."""

    def move() -> Json:
        repository = keyring.repository(params.name)
        did = repository.lock(Path(params.file)).did
        return {"ok": True} | _shown(repository) | {"root": did, "file": params.file}

    return await _there(move)


async def rotate_key(keyring: Keyring, params: KeyParams) -> Json:
    """Replace this machine's key of a role."""
    role = _role_name(params.role)
    return await _changed(keyring, params.name, lambda repository: repository.rotate(role))


async def change_members(keyring: Keyring, params: KeyMembersParams) -> Json:
    """Change who may sign, and how many it takes."""
    add = [PublicKey.from_did(text) for text in params.add]
    remove = [PublicKey.from_did(text) for text in params.remove]
    if not add and not remove and not params.threshold:
        raise UsageError("Nothing is to be changed.", next="Name --add, --remove or --threshold.")
    return await _changed(
        keyring,
        params.name,
        lambda repository: repository.change_members(
            add=add, remove=remove, threshold=params.threshold or None
        ),
    )


async def renew_publisher(keyring: Keyring, name: str) -> Json:
    """Sign all that a publisher says anew."""
    return await _changed(keyring, name, lambda repository: repository.extend())


async def sign_proposal(keyring: Keyring, params: KeySignParams) -> Json:
    """Show what a proposal changes, and add the signatures of keys that are here."""

    def sign() -> Json:
        path = Path(params.file)
        proposal = before = read_proposal(_read(path))
        if not params.show:
            proposal = before.sign(_secrets(keyring, params))
            if proposal == before:
                asked = ", ".join(key.did for key in before.waits_for())
                raise UsageError(
                    "No key here has a signature to add to this proposal.",
                    next=f"It waits for one of: {asked}" if asked else "It has all it can have.",
                )
            with durable.disk_errors("write the proposal"):
                replace(path, write_proposal(proposal))
                durable.sync_folder(path.parent)
        return {
            "ok": True,
            "publisher": proposal.publisher,
            "name": proposal.name,
            "changes": list(proposal.differences()),
            "missing": proposal.missing(),
            "asks": [key.did for key in proposal.waits_for()],
        }

    return await _there(sign)


async def apply_proposal(
    keyring: Keyring, store: Store, params: KeyFileParams, report: Report
) -> Json:
    """Put a proposal into force, and keep the signatures that it brought for releases."""

    def put() -> tuple[Json, list[PublicKey], Any]:
        data = _read(Path(params.file))
        proposal = read_proposal(data)
        changes = list(proposal.differences())
        repository = _owner(keyring, params.name, proposal.publisher, proposal.name)
        applied = repository.apply(data)
        found = {"ok": True, "changes": changes} | _shown(repository)
        return found, list(repository.roles().targets.keys), applied.bundles

    found, owners, statements = await _there(put)
    for manifest, bundles in statements:
        try:
            await store.add_bundles(manifest, bundles, owners)
        except NotFound:
            report(Note(f"The release {manifest} is not here, so its signatures are not kept."))
    return found


async def _changed(
    keyring: Keyring, name: str, change: Callable[[Repository], Metadata | Waiting]
) -> Json:
    """Make a change; the result says whether others have to sign it."""

    def work() -> Json:
        repository = keyring.repository(name)
        done = change(repository)
        shown = {"ok": True} | _shown(repository) | {"missing": 0, "asks": []}
        if isinstance(done, Waiting):
            asks = [key.did for key in done.asks]
            shown |= {"proposal": str(done.path), "missing": done.missing, "asks": asks}
        return shown

    return await _there(work)


async def _there(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)


def _shown(repository: Repository) -> Json:
    """Return what every verb says of a publisher; empty what it has not, or not here."""
    key, founded = repository.key("targets"), repository.founded
    waiting = repository.waiting()
    return {
        "name": repository.name,
        "publisher": repository.id if founded else "",
        "did": "" if key is None else key.public.did,
        "proposal": str(waiting[0]) if waiting else "",
    }


def _role(role: draft.Role, file: bytes, here: SecretKey | None) -> Json:
    return {
        "keys": [key.did for key in role.keys],
        "threshold": role.threshold,
        "here": here.public.did if here is not None and here.public in role.keys else "",
        "version": draft.version_of(file),
        "expires": draft.time_text(draft.expires_of(file)),
    }


def _role_name(text: str) -> RoleName:
    if text not in ("root", "targets", "online"):
        raise UsageError(f"A role is root, targets or online, not {text[:40]!r}.")
    return cast(RoleName, text)


def _secrets(keyring: Keyring, params: KeySignParams) -> list[SecretKey]:
    """Return the keys that were named; all that are here where none was."""
    # Whatever their modes: the media that people carry about know nothing of them.
    texts = (_read(Path(file)).decode("ascii", "replace") for file in params.secrets)
    found = [SecretKey.from_pem(text) for text in texts]
    names = params.keys or (() if params.secrets else keyring.names())
    roles: tuple[RoleName, ...] = ("root", "targets", "online")
    for name in names:
        repository = keyring.repository(name)
        found += [key for role in roles if (key := repository.key(role)) is not None]
    return found


def _owner(keyring: Keyring, name: str, publisher: str, called: str) -> Repository:
    """Return the publisher of this machine that a proposal is about."""
    if name:
        return keyring.repository(name)
    found = keyring.find(publisher) if publisher else None
    if found is not None:
        return found
    if not publisher and called in keyring.names():
        return keyring.repository(called)
    raise NotFound(
        "The proposal is about a publisher that this machine does not have.",
        next="Apply it on the machine that made it, or name the publisher with --as.",
    )


def _read(path: Path) -> bytes:
    with durable.disk_errors("read the file"):
        try:
            with path.open("rb") as file:
                data = file.read(MAX_PROPOSAL + 1)
        except FileNotFoundError as exc:
            raise NotFound(f"There is no file {path}.") from exc
    if len(data) > MAX_PROPOSAL:
        raise VerificationFailed(f"A proposal has at most {MAX_PROPOSAL} bytes, {path} more.")
    return data
