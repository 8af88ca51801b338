"""Every metric there is: name, kind, labels, meaning. Pure; metrics.md has exactly these rows.

Names follow Prometheus's habits: base units (bytes, seconds), ``_total`` for what only grows. What
begins with ``process_`` has the names that every exporter uses, so that existing rules fit.
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; counters begin at 0 when the node starts."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "gauge", labels, help)


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "counter", labels, help)


_TABLE: Final = (
    # the process
    _gauge("allod_info", "Always 1; the version of the node.", "version"),
    _counter("process_cpu_seconds_total", "Processor time of the node, user and system."),
    _gauge("process_resident_memory_bytes", "Memory of the node that is in RAM."),
    _gauge("process_virtual_memory_bytes", "Address space of the node."),
    _gauge("process_open_fds", "Open files and sockets."),
    _gauge("process_max_fds", "How many there may be."),
    _gauge("process_start_time_seconds", "When the node started, in Unix time."),
    _gauge("allod_threads", "Threads of the node."),
    _counter("allod_log_records_total", "Warnings and errors that were logged.", "level"),
    # the network
    _counter(
        "allod_traffic_bytes_total",
        "Bytes moved: direction is sent or received; kind is stream, lane, web or gateway.",
        "direction",
        "kind",
    ),
    _gauge("allod_limit_bytes_per_second", "The limit in force; none: no sample.", "direction"),
    _gauge("allod_uploads", "Files that peers are being sent now."),
    _gauge("allod_upload_peers", "Peers that are being sent files now."),
    _gauge("allod_seeding_month_bytes", "Bytes sent in this calendar month."),
    _gauge("allod_seeding_month_limit_bytes", "The most that is sent in one; none: no sample."),
    _gauge("allod_seeding_closed", "1 while nothing is given: by hours, month or ratio.", "reason"),
    _counter(
        "allod_seeding_refused_total",
        "Requests of content refused by the owner's rules: audience, hours, month or ratio.",
        "reason",
    ),
    _gauge("allod_peers", "Connected peers: dialled inbound by them, or outbound.", "direction"),
    _gauge(
        "allod_reach",
        "1 for what is known of the way in from outside: public, private or unknown; else 0.",
        "verdict",
    ),
    _gauge("allod_banned_peers", "Peers that are kept out now."),
    _counter("allod_bans_total", "Bans, for wrong bytes or too many faults."),
    _counter("allod_peer_faults_total", "Breaches of protocol by peers on streams and lanes."),
    _gauge("allod_lanes", "Open connections on the lane's port."),
    _counter(
        "allod_lane_events_total",
        "Lanes that others opened: accepted, refused, gone in the middle, ended by a fault.",
        "event",
    ),
    # relays
    _gauge(
        "allod_relay_places", "Places at relays: given to peers here, or had at others.", "side"
    ),
    _gauge("allod_relay_circuits", "Circuits carried for others."),
    _counter("allod_relay_bytes_total", "Bytes carried for others."),
    # the DHT
    _gauge("allod_dht_peers", "Peers in the routing table."),
    _gauge("allod_dht_records", "Provider records held for others, and our own."),
    _counter("allod_dht_lookups_total", "Lookups begun."),
    _counter("allod_dht_questions_total", "Questions to peers: answered or failed.", "result"),
    _gauge("allod_announced_keys", "Keys kept announced: confirmed or waiting.", "state"),
    # the store
    _gauge("allod_store_bytes", "Bytes that count against the quota."),
    _gauge("allod_store_quota_bytes", "The quota; none: no sample."),
    _gauge("allod_store_partial_bytes", "Of them, those of files that are not whole yet."),
    _gauge("allod_store_shared_bytes", "Bytes that lie in place and take no room of their own."),
    _gauge("allod_store_disk_free_bytes", "Room left on the disk of the store."),
    _gauge("allod_store_files", "Files held."),
    _gauge("allod_releases", "Releases held: complete or partial.", "state"),
    # the work
    _gauge("allod_jobs", "Operations that run now: fetch, publish, verify, ...", "operation"),
    _counter(
        "allod_jobs_ended_total",
        "Operations that ended: done, failed or cancelled; code is the error's, of errors.md.",
        "operation",
        "result",
        "code",
    ),
    _counter(
        "allod_verdicts_total",
        "Releases that were to come in: admitted or refused, by which kind of rule.",
        "verdict",
        "rule",
    ),
    _counter("allod_withheld_total", "Requests of others that the policy refused.", "rule"),
    # the doors
    _counter(
        "allod_http_requests_total",
        "Requests on the loopback port and the public gateway, by door and HTTP status.",
        "door",
        "status",
    ),
    # the models
    _gauge("allod_models", "Served models: cold, loading, ready, failed, ...", "state"),
    _gauge("allod_model_memory_bytes", "Memory that its engine is estimated to take.", "model"),
    _gauge("allod_model_slots", "Requests that are answered at once.", "model"),
    _gauge("allod_model_requests_running", "Requests that are answered now.", "model"),
    _gauge("allod_model_requests_waiting", "Requests that wait for a slot.", "model"),
    _counter(
        "allod_model_requests_total", "Requests by HTTP status; 499: hung up.", "model", "status"
    ),
    _counter("allod_model_tokens_total", "Tokens: prompt or completion.", "model", "kind"),
    _counter("allod_model_seconds_total", "Seconds that requests took, added up.", "model"),
    _counter(
        "allod_engine_starts_total",
        "Engines: started, failed to start, or died and were started again.",
        "model",
        "result",
    ),
)
METRICS: Final = {one.name: one for one in _TABLE}
