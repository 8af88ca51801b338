"""``serve``, ``stop``, ``ps``: what the owner says about models that answer."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from node.fetch import FetchNode, fetch
from node.holdings import find_release, spell_out
from node.messages import FetchParams, ModelParams, NoParams, Note, Report, ServeParams
from node.serving.roster import Entry
from p2p.errors import NoNode, NotFound, UsageError
from p2p.references import parse_reference

if TYPE_CHECKING:
    from node.inference import Served
    from node.serving.fleet import Fleet
    from node.store import Release

Json = dict[str, Any]

GIVEN: Final = (
    "file", "context", "slots", "engine", "share", "via_peers",
    "upstream", "upstream_model", "upstream_key_file",
)  # fmt: skip
"""What ``serve`` may be told of how a model is served; what it is not told stays as it was."""
MAX_ALIASES: Final = 16
"""Other names under which a model was served; links are long."""
MAX_NAME: Final = 200
"""Characters of the name of a model: a publisher's id, a slash, a release's name."""


class ServingNode(FetchNode, Protocol):
    """What these verbs need of a node."""

    @property
    def fleet(self) -> "Fleet | None": ...
    @property
    def http_url(self) -> str | None: ...


def fleet_of(node: ServingNode) -> "Fleet":
    """Return the running node's fleet; ``NoNode`` where commands run without one."""
    if node.fleet is None:
        raise NoNode(
            "Models are served by a running node, but none runs here.",
            next="`allod up` in another terminal, then the same command.",
        )
    return node.fleet


async def serve(params: ServeParams, node: ServingNode, report: Report) -> Json:
    """Serve a release: fetched first if it is not here, loaded at once unless it is to be lazy."""
    fleet = fleet_of(node)
    release = await _release(params, node, report)
    name = params.name or _called(node, release)
    if len(name) > MAX_NAME or not name.isprintable() or " " in name:
        raise UsageError(f"A model's name has up to {MAX_NAME} printable characters, no spaces.")
    served = await fleet.add(_entry(params, release, name, fleet.entry(name)))
    if not params.lazy and served.state not in ("remote", "ready"):
        served = await fleet.warm(name, report)
    return {"ok": True, "url": f"{node.http_url}/v1", **shown(fleet, served)}


def _entry(params: ServeParams, release: "Release", name: str, before: Entry | None) -> Entry:
    """Say how a release is to be served: as it was ``before``, but for what is given now."""
    _check_upstream(params.upstream)
    if before is None or before.manifest != release.manifest_cid:
        before = Entry(name, release.manifest_cid)
    given = {word: getattr(params, word) for word in GIVEN}
    given = {word: value for word, value in given.items() if value is not None and value != ""}
    given = {word: value for word, value in given.items() if value != 0 or value is False}
    known = (*before.aliases, params.ref, release.name)
    aliases = tuple(dict.fromkeys(one for one in known if one != name))[-MAX_ALIASES:]
    return replace(before, **given, aliases=aliases, remote=False)


async def _release(params: ServeParams, node: ServingNode, report: Report) -> "Release":
    """Find the release here, else fetch it; what peers are to answer for is only looked up."""
    wanted = FetchParams(params.ref, peers=params.peers, yes=params.yes, ask=params.ask)
    ref = spell_out(params.ref, node.keyring, node.petnames())
    try:
        release = await find_release(node.store, node.keyring, ref)
        if release.complete or params.via_peers or params.upstream:
            return release
    except NotFound:
        if params.via_peers or params.upstream:
            wanted = replace(wanted, statement_only=True)
    if not wanted.statement_only:
        report(Note(f"{params.ref} is not here yet: it is fetched first."))
    got = await fetch(wanted, node, report)
    return await find_release(node.store, node.keyring, str(got["manifest"]))


def _called(node: ServingNode, release: "Release") -> str:
    """Return what the owner would call a release: by petname, else by its publisher's id."""
    known = {id: name for name, id in node.petnames().items()}
    known |= {id: name for name, id in node.keyring.ids().items()}
    return f"{known.get(release.publisher, release.publisher)}/{release.name}"


def _check_upstream(url: str) -> None:
    if url and not url.startswith(("http://", "https://")):
        raise UsageError(
            f"An upstream is an http:// or https:// URL, but {url[:80]!r} came.",
            next="It ends with /v1 as a rule: --upstream https://vllm.example.org/v1",
        )


async def stop(params: ModelParams, node: ServingNode, report: Report) -> Json:
    """Serve a model no longer, and end its engine."""
    fleet = fleet_of(node)
    forgotten = await fleet.forget(params.model)
    if forgotten is not None:
        return {
            "ok": True,
            "model": params.model,
            "manifest": str(forgotten),
            "remote": False,
        }
    served = await fleet.remove(_name(params.model, node))
    return {
        "ok": True,
        "model": served.name,
        "manifest": str(served.manifest),
        "remote": served.state == "remote",
    }


def _name(model: str, node: ServingNode) -> str:
    """What a person calls a model: its name, or any reference to its release."""
    fleet = fleet_of(node)
    try:
        return fleet.find(model).name
    except NotFound:
        reference = parse_reference(model) if ":" in model else None
        if reference is not None and reference.manifest is not None:
            return fleet.find(str(reference.manifest)).name
        raise


async def ps(params: NoParams, node: ServingNode, report: Report) -> Json:
    """List the models that are served."""
    fleet = fleet_of(node)
    lost = [{"model": name, "failure": why} for name, why in fleet.lost().items()]
    return {"ok": True, "models": [shown(fleet, one) for one in fleet.served()], "lost": lost}


def shown(fleet: "Fleet", served: "Served") -> Json:
    """Return a model as ``--json`` shows it."""
    load = fleet.load(served.name)
    return {
        "model": served.name,
        "manifest": str(served.manifest),
        "publisher": served.publisher,
        "state": served.state,
        "engine": served.engine,
        "format": served.format,
        "architecture": served.architecture,
        "quantization": served.quantization,
        "parameters": served.parameters,
        "context": served.context,
        "memory": served.memory,
        "capabilities": sorted(served.capabilities),
        "slots": load.slots,
        "busy": load.busy,
        "waiting": load.waiting,
        "until": round(served.until),
        "shared": served.shared,
        "via_peers": served.via_peers,
        "failure": fleet.failure(served.name),
    }
