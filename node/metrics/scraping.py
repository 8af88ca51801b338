"""Where every number lies, read when somebody asks for them: nothing is computed meanwhile.

All but a few are in memory; the store is asked for its usage and the states of its releases, and
the system, in a thread, for what it knows of this process and of the disk.
"""

import re
import shutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, Protocol

import psutil
import trio

from node.metrics.counts import LEVELS, HttpCounts, LogCounts
from node.metrics.text import Scrape
from node.seeding import REASONS

if TYPE_CHECKING:
    from node.accounts import Accounts
    from node.gate import Gate
    from node.jobs import Jobs
    from node.seeding import Seeding
    from node.serving.fleet import Fleet
    from node.store import Store
    from p2p.discovery import Discovery
    from p2p.host import Host
    from p2p.lane import LaneServer
    from p2p.relay.relaying import Relaying

VERDICTS: Final = ("public", "private", "unknown")
SENT: Final = ("stream", "lane", "gateway")
RECEIVED: Final = ("stream", "lane", "web")
LANE_EVENTS: Final = {
    "accepted": "lanes",
    "refused_full": "refused: too many",
    "refused_ticket": "refused: ticket",
    "gone": "gone",
    "fault": "faults",
}
"""What the lane server counts, by the word that is told of it."""
RULES: Final = (
    "default", "deny", "formats", "licenses", "lineage", "refuse", "require", "rule", "stale",
    "status", "tofu", "consent",
)  # fmt: skip
"""Kinds of rules. Which rule it was may name a community or a publisher."""


class Watched(Protocol):
    """What is read of a node."""

    @property
    def store(self) -> "Store": ...
    @property
    def gate(self) -> "Gate": ...
    @property
    def jobs(self) -> "Jobs": ...
    @property
    def accounts(self) -> "Accounts | None": ...
    @property
    def fleet(self) -> "Fleet | None": ...
    @property
    def host(self) -> "Host | None": ...
    @property
    def discovery(self) -> "Discovery | None": ...
    @property
    def lanes(self) -> "LaneServer | None": ...
    @property
    def seeding(self) -> "Seeding | None": ...
    @property
    def relaying(self) -> "Relaying | None": ...


async def scrape(node: Watched, http: HttpCounts, logs: LogCounts, *, named: bool) -> Scrape:
    """Read every number; without ``named`` the models are one, whose name is empty. StoreError."""
    found = Scrape()
    await trio.to_thread.run_sync(_process, found)
    for level in LEVELS:
        found.add("allod_log_records_total", logs.levels[level], level)
    for (door, status), count in http.answered.items():
        found.add("allod_http_requests_total", count, door, str(status))
    if node.host is not None:
        _network(found, node.host)
    if node.relaying is not None:
        _relaying(found, node.relaying)
    if node.seeding is not None:
        _seeding(found, node.seeding)
    if node.lanes is not None:
        found.add("allod_lanes", len(node.lanes))
        for event, word in LANE_EVENTS.items():
            found.add("allod_lane_events_total", node.lanes.counts[word], event)
    if node.discovery is not None:
        _dht(found, node.discovery)
    await _store(found, node.store)
    _jobs(found, node.jobs)
    _gate(found, node.gate)
    if node.fleet is not None:
        add_fleet(found, node.fleet, named=named)
    if node.accounts is not None:
        add_used(found, node.accounts, named=named)
    return found


@cache
def _version() -> str:
    try:
        return version("allod")
    except PackageNotFoundError:  # run from a folder that was not installed
        return "unknown"


def _process(found: Scrape) -> None:
    found.add("allod_info", 1, _version())
    process = psutil.Process()
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info()
        found.add("process_cpu_seconds_total", times.user + times.system)
        found.add("process_resident_memory_bytes", memory.rss)
        found.add("process_virtual_memory_bytes", memory.vms)
        found.add("process_start_time_seconds", process.create_time())
        found.add("allod_threads", process.num_threads())
        found.add("process_open_fds", process.num_fds())
        found.add("process_max_fds", _max_files(process))


def _max_files(process: Any) -> float | None:
    if not hasattr(process, "rlimit"):  # Linux has it
        return None
    soft: int = process.rlimit(psutil.RLIMIT_NOFILE)[0]
    return soft if soft >= 0 else None


def _network(found: Scrape, host: "Host") -> None:
    rates = host.rates
    for kind in SENT:
        found.add("allod_traffic_bytes_total", rates.sent[kind], "sent", kind)
    for kind in RECEIVED:
        found.add("allod_traffic_bytes_total", rates.received[kind], "received", kind)
    found.add("allod_limit_bytes_per_second", rates.limits.up, "sent")
    found.add("allod_limit_bytes_per_second", rates.limits.down, "received")
    uploads = rates.uploads()
    found.add("allod_uploads", sum(uploads.values()))
    found.add("allod_upload_peers", len(uploads))
    peers = host.peers()
    inbound = sum(one.inbound for one in peers)
    found.add("allod_peers", inbound, "inbound")
    found.add("allod_peers", len(peers) - inbound, "outbound")
    for verdict in VERDICTS:
        found.add("allod_reach", host.reachability.verdict == verdict, verdict)
    found.add("allod_banned_peers", host.book.count_banned(trio.current_time()))
    found.add("allod_bans_total", host.counts["bans"])
    found.add("allod_peer_faults_total", host.counts["faults"])


def _seeding(found: Scrape, seeding: "Seeding") -> None:
    found.add("allod_seeding_month_bytes", seeding.tally.counts().month)
    found.add("allod_seeding_month_limit_bytes", seeding.rules.month)
    shut = seeding.closed()
    for reason in REASONS:
        found.add("allod_seeding_refused_total", seeding.refused[reason], reason)
        if reason != "audience":
            found.add("allod_seeding_closed", shut is not None and shut.reason == reason, reason)


def _relaying(found: Scrape, relaying: "Relaying") -> None:
    relay = relaying.relay
    found.add("allod_relay_places", len(relay.places), "given")
    found.add("allod_relay_places", len(relaying.client.places), "had")
    found.add("allod_relay_circuits", relay.places.circuits)
    found.add("allod_relay_bytes_total", relay.counts["bytes"])


def _dht(found: Scrape, discovery: "Discovery") -> None:
    kad = discovery.kad
    found.add("allod_dht_peers", len(kad.table))
    found.add("allod_dht_records", len(kad.records))
    found.add("allod_dht_lookups_total", kad.counts["lookups"])
    for result in ("answered", "failed"):
        found.add("allod_dht_questions_total", kad.counts[result], result)
    keys, confirmed = discovery.announcing()
    found.add("allod_announced_keys", confirmed, "confirmed")
    found.add("allod_announced_keys", keys - confirmed, "waiting")


async def _store(found: Scrape, store: "Store") -> None:
    usage = await store.usage()
    found.add("allod_store_bytes", usage.bytes)
    found.add("allod_store_quota_bytes", usage.quota)
    found.add("allod_store_partial_bytes", usage.partial_bytes)
    found.add("allod_store_shared_bytes", usage.shared)
    found.add("allod_store_files", usage.files)
    disk = await trio.to_thread.run_sync(shutil.disk_usage, store.folder)
    found.add("allod_store_disk_free_bytes", disk.free)
    releases = await store.releases()
    complete = sum(one.complete for one in releases)
    found.add("allod_releases", complete, "complete")
    found.add("allod_releases", len(releases) - complete, "partial")


def _jobs(found: Scrape, jobs: "Jobs") -> None:
    for operation in ("fetch", "publish"):
        found.add("allod_jobs", 0, operation)  # the two that are drawn, also before the first
    for job in jobs.running():
        found.add("allod_jobs", 1, job.operation)
    for (operation, result, code), count in jobs.counts.items():
        found.add("allod_jobs_ended_total", count, operation, result, code)


def _gate(found: Scrape, gate: "Gate") -> None:
    for (admitted, rule), count in gate.admissions.items():
        verdict = "admitted" if admitted else "refused"
        found.add("allod_verdicts_total", count, verdict, rule_kind(rule))
    for rule, count in gate.withheld_by.items():
        found.add("allod_withheld_total", count, rule_kind(rule))


def rule_kind(rule: str) -> str:
    """Return of which kind a rule is, of ``RULES``, by where it stands in the policy."""
    words = re.findall(r"\w+", re.sub(r"\[[^\]]*\]", "", rule))
    return next((word for word in reversed(words) if word in RULES), "other")


def add_fleet(found: Scrape, fleet: "Fleet", *, named: bool) -> None:
    """Add what the served models do."""
    states: dict[str, int] = dict.fromkeys(("cold", "loading", "ready", "failed", "remote"), 0)
    for model in fleet.served():
        states[model.state] += 1
        name, load = model.name if named else "", fleet.load(model.name)
        if model.state == "ready":
            found.add("allod_model_memory_bytes", model.memory, name)
        found.add("allod_model_slots", load.slots, name)
        found.add("allod_model_requests_running", load.busy, name)
        found.add("allod_model_requests_waiting", load.waiting, name)
    for state, count in states.items():
        found.add("allod_models", count, state)
    _add_by_model(found, "allod_engine_starts_total", fleet.starts, named=named)


def _add_by_model(
    found: Scrape, metric: str, counts: Mapping[tuple[str, str], int], *, named: bool
) -> None:
    for (model, label), count in counts.items():
        found.add(metric, count, model if named else "", label)


def add_used(found: Scrape, accounts: "Accounts", *, named: bool) -> None:
    """Add what was used of the models since the node started."""
    for (model, status), counts in accounts.used.items():
        name = model if named else ""
        found.add("allod_model_requests_total", counts.requests, name, str(status))
        found.add("allod_model_tokens_total", counts.prompt_tokens, name, "prompt")
        found.add("allod_model_tokens_total", counts.completion_tokens, name, "completion")
        found.add("allod_model_seconds_total", counts.seconds, name)
