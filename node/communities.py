"""Following the policies of communities: getting what they say, and keeping it up to date.

A community publishes its policy as a dataset with a ``policy.toml`` in it, and whatever deny lists
that names. It is fetched and verified as any release is, so it is its publisher's word and nobody
else's; then it is read strictly, and only what could be read replaces what was there.
What was fetched stays in force until something newer can be had: a community that is silenced has
not changed its mind.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from node.messages import Event, FetchParams, Note, Report
from node.rulebook import POLICY, Rulebook
from node.store import durable
from p2p.errors import AllodError, ConfigError, NotFound, UsageError
from p2p.policy import Subscription, read_deny_list, read_policy
from p2p.policy.deny import MAX_DENY_LIST
from p2p.policy.reader import MAX_POLICY

if TYPE_CHECKING:  # a fetch brings much that a node without subscriptions never needs
    from node.fetch import FetchNode
    from node.gate import Gate

log = logging.getLogger(__name__)

SOURCE: Final = "source.json"
"""Beside a community's policy: which release it is from."""
REFRESH_EVERY: Final = 1800.0
"""Seconds between two looks for a newer version of each policy that is followed."""

Json = dict[str, Any]


async def keep_communities(node: "FetchNode") -> None:
    """Keep what is subscribed to up to date, until cancelled."""
    while True:
        subscriptions, changed = await _subscriptions(node.gate), False
        for subscription in subscriptions:
            try:
                changed |= (await take(subscription.ref, node, _log))["changed"]
            except AllodError as exc:
                log.warning("the policy %s stays as it was: %s", subscription.ref, exc)
        if changed:
            node.gate.changed()
        with trio.move_on_after(REFRESH_EVERY):
            while await _subscriptions(node.gate) == subscriptions:
                await node.gate.wait_changed()


async def _subscriptions(gate: "Gate") -> tuple[Subscription, ...]:
    try:
        return (await gate.policy()).subscriptions
    except ConfigError:  # whoever fetches hears of it
        return ()


async def take(ref: str, node: "FetchNode", report: Report, peers: Sequence[str] = ()) -> Json:
    """Fetch a community's policy as it is now, and put it in force where it is subscribed to.

    ``ConfigError`` for one that cannot be read, ``UsageError`` for a release that is none.
    """
    params = FetchParams(ref=ref, include=(POLICY,), peers=tuple(peers), yes=True, pin=False)
    got = await _fetch(params, node, report)
    folder = Path(got["path"])
    text = await trio.to_thread.run_sync(_read, folder / POLICY, MAX_POLICY)
    policy = await trio.to_thread.run_sync(partial(read_policy, text, community=True))
    if policy.deny:
        params = replace(params, ref=got["ref"], include=(POLICY, *policy.deny))
        folder = Path((await _fetch(params, node, report))["path"])
    source = {key: got[key] for key in ("manifest", "publisher", "name", "version")}
    target = node.gate.rulebook.community(ref)
    missing = [name for name in policy.deny if not (folder / name).exists()]
    if missing:
        raise NotFound(f"{ref} names the deny list {missing[0]}, and has no such file.")
    changed = await durable.on_disk(
        "keep the policy of a community",
        lambda: _keep(folder, [POLICY, *policy.deny], source, target, node.gate.rulebook),
    )
    return source | {"rules": len(policy.rules), "changed": changed}


async def _fetch(params: FetchParams, node: "FetchNode", report: Report) -> Json:
    """Fetch a few files of a dataset; subscribing to it has said yes to its publisher."""
    from node.fetch import fetch

    try:
        got = await fetch(params, node, report)
    except NotFound as exc:
        raise NotFound(f"{params.ref} gives no {POLICY}: {exc.message}", next=exc.next) from exc
    if got["kind"] != "dataset":
        raise UsageError(f"A policy comes as a dataset, but {params.ref} is a {got['kind']}.")
    return got


def source_of(folder: Path) -> Json:
    """Return which release a community's policy is from; nothing where none was fetched yet."""
    try:
        value = json.loads((folder / SOURCE).read_bytes())
        return {str(key): str(word) for key, word in value.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _read(path: Path, limit: int) -> str:
    with durable.disk_errors("read the policy of a community"), path.open("rb") as stream:
        data = stream.read(limit + 1)
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"The file {path.name} of the community's policy is no text.") from exc


def _keep(folder: Path, names: list[str], source: Json, target: Path, rulebook: Rulebook) -> bool:
    """Put files into a community's folder, wholly or not at all; False if they are there."""
    if source_of(target).get("manifest") == source["manifest"]:
        return False
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name in names:
        text = _read(folder / name, MAX_DENY_LIST)
        if name != POLICY:
            read_deny_list(text, name)
        place = new / name
        place.parent.mkdir(parents=True, exist_ok=True)
        durable.write_file(place, text.encode())
    durable.write_file(new / SOURCE, json.dumps(source).encode())
    rulebook.keep_community(new, target)
    return True


def _log(event: Event) -> None:
    if isinstance(event, Note) and event.level == "warning":
        log.warning("%s", event.text)
