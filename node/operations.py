"""The table of everything that a node can be asked to do, and the small ones themselves.

An operation is a name, the dataclass of its params, and an async function of the node, the params
and a reporter that returns the JSON object of its result. The control API and the command line
run the very same table, so that a command means the same with and without a running node.

What moves models (publish, fetch) has a module of its own; here is what only looks at, or tidies,
the configuration, the keys and the store.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from node import config as configuration
from node.config import Config
from node.messages import (
    BundleExportParams,
    BundleImportParams,
    ConfigKeyParams,
    ConfigSetParams,
    DoctorParams,
    EndorseParams,
    Event,
    FetchParams,
    FilesParams,
    GcParams,
    ImportParams,
    JobParams,
    KeyFileParams,
    KeyMembersParams,
    KeyNewParams,
    KeyParams,
    KeySignParams,
    LimitsParams,
    ModelParams,
    NetworkJoinParams,
    NetworkMembersParams,
    NoParams,
    PledgeParams,
    ProvenanceParams,
    PublishParams,
    ReceiptParams,
    RefParams,
    Report,
    SearchParams,
    ServeParams,
    TokenNewParams,
    TokenParams,
    TrustAddParams,
    TrustDenyParams,
    TrustRmParams,
    TrustSubscribeParams,
    UsageParams,
    VerifyParams,
    WithdrawParams,
)
from node.pace import Pace
from node.settings import find_setting, settings, show_value
from p2p.errors import NoNode, UsageError

if TYPE_CHECKING:  # a command that only reads the configuration pays for none of these
    from node.accounts import Accounts
    from node.claims import Claims
    from node.crew import Network
    from node.gate import Gate
    from node.jobs import Job, Jobs
    from node.keyring import Keyring
    from node.lookout import Lookout
    from node.pledges import Book
    from node.pledges.keeper import Keeper
    from node.reading import Reader
    from node.seeding import Seeding
    from node.serving.fleet import Fleet
    from node.store import Store
    from p2p.cid import CID
    from p2p.discovery import Discovery
    from p2p.host import Host

P = TypeVar("P")
Json = dict[str, Any]


class Node(Protocol):
    """What an operation gets to work with; ``host`` and ``discovery`` only where it needs them."""

    @property
    def config(self) -> Config: ...
    @property
    def store(self) -> "Store": ...
    @property
    def keyring(self) -> "Keyring": ...
    @property
    def accounts(self) -> "Accounts | None": ...
    @property
    def fleet(self) -> "Fleet | None": ...
    @property
    def reader(self) -> "Reader | None": ...
    @property
    def host(self) -> "Host | None": ...
    @property
    def discovery(self) -> "Discovery | None": ...
    @property
    def http_url(self) -> str | None: ...
    @property
    def gateway_urls(self) -> Sequence[str]: ...
    @property
    def claims(self) -> "Claims": ...
    @property
    def gate(self) -> "Gate": ...
    @property
    def jobs(self) -> "Jobs": ...
    @property
    def book(self) -> "Book": ...
    @property
    def keeper(self) -> "Keeper | None": ...
    @property
    def lookout(self) -> "Lookout": ...
    @property
    def seeding(self) -> "Seeding | None": ...
    @property
    def default_key(self) -> str: ...
    def petnames(self) -> Mapping[str, str]: ...
    def spread(self, cids: "list[CID]") -> list[str]: ...
    def sign_later(self, cid: "CID") -> bool: ...
    def network(self) -> "Network":
        """The network; NetworkError where this node was opened without one."""
        ...


@dataclass(frozen=True, slots=True)
class Operation(Generic[P]):
    """One row of the table.

    ``needs`` says how much of a node it takes; ``here_only`` keeps it off the control API.
    ``long``: it is one of the node's jobs while it runs.
    """

    name: str
    params: type[P]
    run: Callable[[Node, P, Report], Awaitable[Json]]
    needs: Literal["nothing", "store", "network"]
    here_only: bool = False
    long: bool = False


async def perform(
    node: Node,
    operation: Operation[P],
    params: P,
    listen: Callable[[Event], None],
    job: "Job | None" = None,
) -> Json:
    """Run one operation; ``listen`` gets its events, thinned out, always in this thread.

    A long one is a job meanwhile, ``job`` where there is one already. Cancelled if the owner ends
    it.
    """
    import threading

    import trio

    pace, token, home = Pace(), trio.lowlevel.current_trio_token(), threading.get_ident()

    def deliver(event: Event) -> None:
        passed = pace.take(event, trio.current_time())
        if passed is not None:
            if job is not None:
                job.hear(passed)
            listen(passed)

    def report(event: Event) -> None:
        if threading.get_ident() == home:
            deliver(event)
        else:  # a worker thread that hashes or writes
            token.run_sync_soon(deliver, event)

    if not operation.long:
        return await operation.run(node, params, report)
    from node.jobs import subject_of

    if job is None:
        job = node.jobs.open(operation.name, subject_of(params))
    with node.jobs.at_work(job):
        result = await operation.run(node, params, report)
        job.end_with(result)
    return result


# -- configuration


async def config_list(node: Node, params: NoParams, report: Report) -> Json:
    """Show every key, its value, and which layer chose it."""
    return {"ok": True, "settings": [_setting(node.config, one.key) for one in settings()]}


async def config_get(node: Node, params: ConfigKeyParams, report: Report) -> Json:
    """Show one key."""
    return {"ok": True} | _setting(node.config, params.key)


def _setting(config: Config, key: str) -> Json:
    setting, value = find_setting(key), config.value(key)
    return {
        "key": key,
        "value": value if isinstance(value, bool | int | None) else show_value(value),
        "from": config.origins.get(key, "default"),
        "default": setting.default_text,
        "kind": setting.kind.name,
        "help": setting.help,
    }


async def config_set(node: Node, params: ConfigSetParams, report: Report) -> Json:
    """Write one key into config.toml; a running node reads it at its next start."""
    value = configuration.set_value(node.config.folders.config_file, params.key, params.values)
    return {"ok": True, "key": params.key, "value": value}


async def config_unset(node: Node, params: ConfigKeyParams, report: Report) -> Json:
    """Take one key out of config.toml."""
    configuration.unset_value(node.config.folders.config_file, params.key)
    return {"ok": True, "key": params.key}


# -- the private network


async def network_new(node: Node, params: NoParams, report: Report) -> Json:
    """Make the key of a private network; it never goes over a socket."""
    from node.private import new_network

    return new_network(node.config)


async def network_join(node: Node, params: NetworkJoinParams, report: Report) -> Json:
    """Take over the key of a private network; it never goes over a socket."""
    from node.private import join_network

    return join_network(node.config, params)


async def network_show(node: Node, params: NoParams, report: Report) -> Json:
    """Say which network this node is in."""
    from node.private import show_network

    return show_network(node.config)


async def network_members(node: Node, params: NetworkMembersParams, report: Report) -> Json:
    """Change who may connect; the connections of others end at once."""
    from node.private import change_members

    return await change_members(node, params)


# -- keys


async def key_new(node: Node, params: KeyNewParams, report: Report) -> Json:
    """Make a publisher."""
    from node.identity import new_publisher

    return await new_publisher(node.keyring, params)


async def key_list(node: Node, params: NoParams, report: Report) -> Json:
    """Show this machine's publishers, and its node's peer id."""
    from node.identity import list_publishers

    return await list_publishers(node.keyring)


async def key_show(node: Node, params: KeyParams, report: Report) -> Json:
    """Show who speaks for a publisher, and until when."""
    from node.identity import show_publisher

    return await show_publisher(node.keyring, params.name)


async def key_export(node: Node, params: KeyParams, report: Report) -> Json:
    """Show a publisher's secret key as PEM, for a backup; it never goes over a socket."""
    from node.identity import export_key

    return await export_key(node.keyring, params)


async def key_lock(node: Node, params: KeyFileParams, report: Report) -> Json:
    """Move a publisher's root key away; it never goes over a socket."""
    from node.identity import lock_root

    return await lock_root(node.keyring, params)


async def key_rotate(node: Node, params: KeyParams, report: Report) -> Json:
    """Replace a key."""
    from node.identity import rotate_key

    return await rotate_key(node.keyring, params)


async def key_members(node: Node, params: KeyMembersParams, report: Report) -> Json:
    """Change who may sign."""
    from node.identity import change_members

    return await change_members(node.keyring, params)


async def key_renew(node: Node, params: KeyParams, report: Report) -> Json:
    """Sign anew."""
    from node.identity import renew_publisher

    return await renew_publisher(node.keyring, params.name)


async def key_sign(node: Node, params: KeySignParams, report: Report) -> Json:
    """Add signatures to a proposal; the secrets never go over a socket."""
    from node.identity import sign_proposal

    return await sign_proposal(node.keyring, params)


async def key_apply(node: Node, params: KeyFileParams, report: Report) -> Json:
    """Put a proposal into force."""
    from node.identity import apply_proposal

    return await apply_proposal(node.keyring, node.store, params, report)


# -- trust


async def trust_add(node: Node, params: TrustAddParams, report: Report) -> Json:
    """Trust a publisher, by a petname."""
    from node import trusting

    return await trusting.add(node, params.ref, params.petname)


async def trust_rm(node: Node, params: TrustRmParams, report: Report) -> Json:
    """Take trust, or a subscription, away."""
    from node import trusting

    return await trusting.remove(node, params.name)


async def trust_list(node: Node, params: NoParams, report: Report) -> Json:
    """Show the policy."""
    from node import trusting

    return await trusting.show(node)


async def trust_subscribe(node: Node, params: TrustSubscribeParams, report: Report) -> Json:
    """Follow the policy of a community."""
    from node import trusting

    return await trusting.subscribe(node, params.ref, params.peers, report)


async def trust_deny(node: Node, params: TrustDenyParams, report: Report) -> Json:
    """Deny something."""
    from node import trusting

    return await trusting.deny(node, params.what, params.reason)


# -- the store


async def ls(node: Node, params: NoParams, report: Report) -> Json:
    """List what this store holds."""
    from node.holdings import list_releases

    found = await list_releases(node.store)
    called = {publisher: petname for petname, publisher in node.petnames().items()}
    called |= {one: name for name, one in node.keyring.ids().items()}
    for one in found["releases"]:
        one["petname"] = called.get(one["publisher"], "")
        one["verdict"] = await _verdict(node, one["manifest"])
    return found


async def _verdict(node: Node, manifest: str) -> str:
    """Say in a word what the policy makes of a held release."""
    from p2p.cid import CID
    from p2p.errors import ConfigError

    try:
        verdict = await node.gate.opinion(CID.parse(manifest))
    except ConfigError:
        return "unjudged"  # who fetches is told what is wrong in it
    if verdict is None:
        return "unjudged"
    return "admitted" if verdict.admitted else "refused"


def _spelled(node: Node, ref: str) -> str:
    """A reference without the owner's petnames, which only the policy knows."""
    from node.holdings import spell_out

    return spell_out(ref, node.keyring, node.petnames()) if ref else ref


async def pin(node: Node, params: RefParams, report: Report) -> Json:
    """Keep a release."""
    from node.holdings import set_pin

    return await set_pin(node.store, node.keyring, _spelled(node, params.ref), pinned=True)


async def unpin(node: Node, params: RefParams, report: Report) -> Json:
    """Let gc have a release."""
    from node.holdings import set_pin

    return await set_pin(node.store, node.keyring, _spelled(node, params.ref), pinned=False)


async def rm(node: Node, params: RefParams, report: Report) -> Json:
    """Forget a release."""
    from node.holdings import find_release, remove_release

    if node.fleet is not None:
        release = await find_release(node.store, node.keyring, _spelled(node, params.ref))
        for model in node.fleet.served():
            if model.manifest == release.manifest_cid and model.state != "remote":
                raise UsageError(
                    f"{params.ref} is served, as {model.name}.",
                    next=f"`allod stop {model.name}` first.",
                )
    return await remove_release(node.store, node.keyring, _spelled(node, params.ref))


async def gc(node: Node, params: GcParams, report: Report) -> Json:
    """Free what nothing pinned needs."""
    from node.holdings import collect_garbage

    await node.book.open()
    with node.book.keeping(node.store):
        return await collect_garbage(node.store, dry_run=params.dry_run)


async def pledge_add(node: Node, params: PledgeParams, report: Report) -> Json:
    """Promise to help keep copies."""
    from node.pledges import verbs

    return await verbs.pledge(params, node, report)


async def pledge_list(node: Node, params: NoParams, report: Report) -> Json:
    """Show what is pledged."""
    from node.pledges import verbs

    return await verbs.list_pledges(node)


async def pledge_rm(node: Node, params: RefParams, report: Report) -> Json:
    """Take a pledge back."""
    from node.pledges import verbs

    return await verbs.take_back(params.ref, node)


async def copies(node: Node, params: RefParams, report: Report) -> Json:
    """Count the healthy copies of a release."""
    from node.pledges import verbs

    return await verbs.copies(params.ref, node, report)


async def verify(node: Node, params: VerifyParams, report: Report) -> Json:
    """Hash what is on the disk again."""
    from node.holdings import verify_releases

    return await verify_releases(node.store, node.keyring, _spelled(node, params.ref), report)


# -- what a publisher says of its releases later


async def consent_show(node: Node, params: RefParams, report: Report) -> Json:
    """Show the consent that a release states."""
    from node.withdrawal import show_consent

    return await show_consent(node.store, node.keyring, _spelled(node, params.ref))


async def consent_withdraw(node: Node, params: WithdrawParams, report: Report) -> Json:
    """Say that the data in a release may no longer be used."""
    from node.withdrawal import withdraw

    return await withdraw(node.store, node.keyring, params, "withdrawn", report)


async def revoke(node: Node, params: WithdrawParams, report: Report) -> Json:
    """Say that a release is bad."""
    from node.withdrawal import withdraw

    return await withdraw(node.store, node.keyring, params, "revoked", report)


async def status(node: Node, params: NoParams, report: Report) -> Json:
    """Say who this node is, where it answers, what it holds."""
    from node.holdings import usage as store_usage

    host = node.host
    return {
        "ok": True,
        "running": node.http_url is not None,
        "peer": node.keyring.node().public.peer_id,
        "addresses": list(host.addresses) if host is not None else [],
        "http": node.http_url,
        "gateway": list(node.gateway_urls),
        "peers": len(host.peers()) if host is not None else 0,
        "reach": _reach(host) if host is not None else None,
        "seeding": node.seeding.report() if node.seeding is not None else None,
    } | await store_usage(node.store)


def _reach(host: "Host") -> Json:
    """Say whether strangers get through to this node, and how."""
    relays = dict.fromkeys(one.relay for one in host.circuits())
    return {**host.reachability.report(), "relays": list(relays)}


# -- models that answer


async def serve(node: Node, params: ServeParams, report: Report) -> Json:
    """Serve a release."""
    from node.serving import verbs

    return await verbs.serve(params, node, report)


async def stop(node: Node, params: ModelParams, report: Report) -> Json:
    """Serve a model no longer."""
    from node.serving import verbs

    return await verbs.stop(params, node, report)


async def ps(node: Node, params: NoParams, report: Report) -> Json:
    """List the models that are served."""
    from node.serving import verbs

    return await verbs.ps(params, node, report)


# -- tokens, and what was used of the models


async def token_new(node: Node, params: TokenNewParams, report: Report) -> Json:
    """Make a token."""
    from node.tokens import new_token

    return await new_token(node, params)


async def token_list(node: Node, params: NoParams, report: Report) -> Json:
    """List the tokens; none of them is shown itself."""
    from node.tokens import list_tokens

    return await list_tokens(node)


async def token_revoke(node: Node, params: TokenParams, report: Report) -> Json:
    """Make a token good for nothing."""
    from node.tokens import revoke_token

    return await revoke_token(node, params.name)


async def usage(node: Node, params: UsageParams, report: Report) -> Json:
    """Say what was used, by day, token and model."""
    from node.tokens import show_usage

    return await show_usage(node, params)


async def receipt_check(node: Node, params: ReceiptParams, report: Report) -> Json:
    """Check a receipt, which takes nothing of a node."""
    from node.receipts import check_file

    return await check_file(params)


# -- looking at releases


async def provenance(node: Node, params: ProvenanceParams, report: Report) -> Json:
    """Say where a release comes from, and whether this node's policy lets it in."""
    from node.verdicts import judged_provenance

    return await judged_provenance(params, node)


async def why(node: Node, params: RefParams, report: Report) -> Json:
    """Say by which rule, and on what evidence, a release is let in or refused."""
    from node.verdicts import judged_provenance

    return await judged_provenance(ProvenanceParams(params.ref), node)


async def impact(node: Node, params: RefParams, report: Report) -> Json:
    """List what descends from a release, as far as this machine knows."""
    from node.impact import impact

    return await impact(params, node)


async def search(node: Node, params: SearchParams, report: Report) -> Json:
    """Find releases by words among the publishers that this machine knows."""
    from node.search import search

    return await search(params, node)


# -- one file for a release and its lineage


async def bundle_export(node: Node, params: BundleExportParams, report: Report) -> Json:
    """Write a release and its whole lineage into one file."""
    from node.parcels.sending import export_bundle

    named = replace(params, ref=_spelled(node, params.ref))
    return await export_bundle(named, node.store, node.keyring, report)


async def bundle_import(node: Node, params: BundleImportParams, report: Report) -> Json:
    """Take in such a file."""
    from node.parcels.receiving import import_bundle

    return await import_bundle(params, node, report)


# -- the network


async def peers(node: Node, params: NoParams, report: Report) -> Json:
    """List the peers that the running node is connected to."""
    if node.host is None:
        raise NoNode("A list of peers needs a node that is on the network, but this one is not.")
    uploads = node.host.rates.uploads()
    found = [
        {
            "peer": one.peer,
            "addresses": [str(each) for each in one.addresses],
            "since": one.since,
            "inbound": one.inbound,
            "round_trip": one.round_trip,
            "path": one.path,
            "uploads": uploads.get(one.peer, 0),
        }
        for one in node.host.peers()
    ]
    return {"ok": True, "peers": found}


async def jobs(node: Node, params: NoParams, report: Report) -> Json:
    """List what the node works on, and what it worked on lately."""
    return {"ok": True, "jobs": [one.json() for one in node.jobs.all()]}


async def cancel(node: Node, params: JobParams, report: Report) -> Json:
    """End a job."""
    job = node.jobs.cancel(params.job)
    return {"ok": True, "job": job.number, "operation": job.operation, "subject": job.subject}


async def alerts(node: Node, params: NoParams, report: Report) -> Json:
    """Say what the owner should know, each with what mends it."""
    from node.alerts import find_alerts

    return await find_alerts(node)


async def doctor(node: Node, params: DoctorParams, report: Report) -> Json:
    """Look at everything once, and say what is wrong."""
    from node.doctor import examine

    return await examine(params, node)


async def limits(node: Node, params: LimitsParams, report: Report) -> Json:
    """Change the limits of the running node, and show them."""
    if node.host is None:
        raise NoNode("Limits are those of a node that is on the network, but this one is not.")
    chosen = {}
    for one in fields(params):
        text = getattr(params, one.name)
        if text:
            kind = find_setting(f"limits.{one.name}").kind
            try:
                chosen[one.name] = kind.parse(text)
            except ValueError as exc:
                raise UsageError(
                    f"{one.name} expects {kind.expects}, but {text[:80]!r} came."
                ) from exc
    return {"ok": True} | asdict(node.host.rates.change(**chosen))


async def publish(node: Node, params: PublishParams, report: Report) -> Json:
    """Put a folder into the network."""
    from node.publish import publish

    return await publish(params, node, report)


async def fetch(node: Node, params: FetchParams, report: Report) -> Json:
    """Get a release."""
    from node.fetch import fetch
    from node.hub.cache import fill_cache, wants_cache

    wanted = wants_cache(params)
    found = await fetch(params, node, report)
    return found | (await fill_cache(params, found, node, report) if wanted else {})


async def files(node: Node, params: FilesParams, report: Report) -> Json:
    """List a release's files."""
    from node.reading.listing import list_files

    return await list_files(params, node, node.reader)


async def import_(node: Node, params: ImportParams, report: Report) -> Json:
    """Take in a repository of the Hugging Face Hub."""
    from node.hub.importing import import_repository

    return await import_repository(params, node, report)


async def endorse(node: Node, params: EndorseParams, report: Report) -> Json:
    """Say something of a release."""
    from node.vouching import endorse

    return await endorse(replace(params, ref=_spelled(node, params.ref)), node, report)


_TABLE: tuple[Operation[Any], ...] = (
    Operation("status", NoParams, status, "store"),
    Operation("peers", NoParams, peers, "network"),
    Operation("limits", LimitsParams, limits, "network"),
    Operation("jobs", NoParams, jobs, "store"),
    Operation("cancel", JobParams, cancel, "store"),
    Operation("alerts", NoParams, alerts, "store"),
    Operation("doctor", DoctorParams, doctor, "nothing"),  # where the store is broken, too
    Operation("publish", PublishParams, publish, "store", long=True),
    Operation("import", ImportParams, import_, "store", long=True),
    Operation("fetch", FetchParams, fetch, "network", long=True),
    Operation("files", FilesParams, files, "network"),
    Operation("ls", NoParams, ls, "store"),
    Operation("rm", RefParams, rm, "store"),
    Operation("pin", RefParams, pin, "store"),
    Operation("unpin", RefParams, unpin, "store"),
    Operation("pledge.add", PledgeParams, pledge_add, "store"),
    Operation("pledge.list", NoParams, pledge_list, "store"),
    Operation("pledge.rm", RefParams, pledge_rm, "store"),
    Operation("copies", RefParams, copies, "network"),
    Operation("gc", GcParams, gc, "store", long=True),
    Operation("verify", VerifyParams, verify, "store", long=True),
    Operation("provenance", ProvenanceParams, provenance, "store"),
    Operation("why", RefParams, why, "store"),
    Operation("impact", RefParams, impact, "store"),
    Operation("search", SearchParams, search, "store"),
    Operation("bundle.export", BundleExportParams, bundle_export, "store", long=True),
    Operation("bundle.import", BundleImportParams, bundle_import, "store", long=True),
    Operation("endorse", EndorseParams, endorse, "store"),
    Operation("key.new", KeyNewParams, key_new, "nothing"),
    Operation("consent.show", RefParams, consent_show, "store"),
    Operation("consent.withdraw", WithdrawParams, consent_withdraw, "store"),
    Operation("revoke", WithdrawParams, revoke, "store"),
    Operation("key.list", NoParams, key_list, "nothing"),
    Operation("key.show", KeyParams, key_show, "nothing"),
    Operation("key.export", KeyParams, key_export, "nothing", here_only=True),
    Operation("key.lock", KeyFileParams, key_lock, "nothing", here_only=True),
    Operation("key.rotate", KeyParams, key_rotate, "nothing"),
    Operation("key.members", KeyMembersParams, key_members, "nothing"),
    Operation("key.renew", KeyParams, key_renew, "nothing"),
    Operation("key.sign", KeySignParams, key_sign, "nothing", here_only=True),
    Operation("key.apply", KeyFileParams, key_apply, "store"),
    Operation("trust.add", TrustAddParams, trust_add, "store"),
    Operation("trust.rm", TrustRmParams, trust_rm, "store"),
    Operation("trust.list", NoParams, trust_list, "store"),
    Operation("trust.subscribe", TrustSubscribeParams, trust_subscribe, "network"),
    Operation("trust.deny", TrustDenyParams, trust_deny, "store"),
    Operation("serve", ServeParams, serve, "network", long=True),
    Operation("stop", ModelParams, stop, "store"),
    Operation("ps", NoParams, ps, "store"),
    Operation("token.new", TokenNewParams, token_new, "nothing"),
    Operation("token.list", NoParams, token_list, "nothing"),
    Operation("token.revoke", TokenParams, token_revoke, "nothing"),
    Operation("usage", UsageParams, usage, "nothing"),
    Operation("receipt.check", ReceiptParams, receipt_check, "nothing", here_only=True),
    Operation("network.new", NoParams, network_new, "nothing", here_only=True),
    Operation("network.join", NetworkJoinParams, network_join, "nothing", here_only=True),
    Operation("network.show", NoParams, network_show, "nothing"),
    Operation("network.members", NetworkMembersParams, network_members, "nothing"),
    Operation("config.list", NoParams, config_list, "nothing"),
    Operation("config.get", ConfigKeyParams, config_get, "nothing"),
    Operation("config.set", ConfigSetParams, config_set, "nothing"),
    Operation("config.unset", ConfigKeyParams, config_unset, "nothing"),
)
OPERATIONS: Mapping[str, Operation[Any]] = MappingProxyType({one.name: one for one in _TABLE})
