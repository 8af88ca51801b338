"""What a node tells at /metrics is well made, documented, drawn, and gives nobody away."""

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from node.accounts import Use, open_accounts
from node.config import load_config
from node.daemon import run_daemon
from node.grant import Grant
from node.inference import Served
from node.metrics import METRICS, Scrape, counting_logs
from node.metrics.scraping import RULES, add_fleet, add_used, rule_kind
from node.presence import find_node
from node.serving.line import Load
from p2p.cid import CID, Codec

ROOT = Path(__file__).parent.parent.parent
MANIFEST = CID.of(b"{}", Codec.JSON)
Numbers = dict[tuple[str, ...], float]

ONLY_SOMETIMES = {
    "allod_limit_bytes_per_second", "allod_store_quota_bytes",
    "allod_seeding_month_limit_bytes",  # where there are any
    "allod_jobs_ended_total", "allod_verdicts_total", "allod_withheld_total",  # once it happened
    "allod_log_records_total",
} | {name for name in METRICS if name.startswith(("allod_model_", "allod_engine_"))}  # fmt: skip


def read(text: str) -> Numbers:
    """Read samples as Prometheus does, by name and the values of the labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# -- the format


def test_samples_are_written_as_prometheus_reads_them() -> None:
    """Values add up under the same labels, labels are escaped, None is no sample."""
    scrape = Scrape()
    scrape.add("allod_model_slots", 2, 'a"b\\c\nd')
    scrape.add("allod_model_slots", 3, 'a"b\\c\nd')
    scrape.add("allod_store_bytes", 1 << 60)
    scrape.add("process_cpu_seconds_total", 1.25)
    scrape.add("allod_store_quota_bytes", None)
    text = scrape.write().decode()
    assert read(text) == {
        ("allod_model_slots", 'a"b\\c\nd'): 5,
        ("allod_store_bytes",): 1 << 60,
        ("process_cpu_seconds_total",): 1.25,
    }
    assert str(1 << 60) in text
    assert "# TYPE process_cpu_seconds_total counter\n" in text


def test_a_metric_that_the_table_does_not_have_is_a_bug() -> None:
    """Neither another name nor other labels get out."""
    with pytest.raises(KeyError):
        Scrape().add("allod_surprise", 1)
    with pytest.raises(ValueError, match="labels"):
        Scrape().add("allod_store_bytes", 1, "alice")


@pytest.mark.parametrize("name", METRICS)
def test_names_follow_the_habits(name: str) -> None:
    """Counters end in _total and gauges do not; names and labels are plain; help is one line."""
    metric = METRICS[name]
    assert re.fullmatch(r"(allod|process)_[a-z_]+", name)
    assert name.endswith("_total") == (metric.kind == "counter")
    assert all(re.fullmatch("[a-z]+", label) for label in metric.labels)
    assert "\n" not in metric.help
    assert "\\" not in metric.help
    private = {"peer", "publisher", "address", "ref", "token", "release", "user"}
    assert not private & set(metric.labels)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ("default", "default"),
        ("rule[3]", "rule"),
        ("deny[0]", "deny"),
        ("rule[1].require.signatures", "require"),
        ('community["tofu"].rule[0].lineage.unknown', "lineage"),
        ("community[2].deny[7]", "deny"),
        ("status.revoked", "status"),
        ("consent.expires", "consent"),
        ("default.formats", "formats"),
        ("something of somebody", "other"),
    ],
)
def test_of_a_rule_only_its_kind_is_told(rule: str, kind: str) -> None:
    """Whatever the rule names stays here; kinds are a closed list."""
    assert rule_kind(rule) == kind
    assert kind in (*RULES, "other")


# -- the docs


def test_every_metric_is_described() -> None:
    """metrics.md has exactly the rows of the table, and every kind of rule."""
    text = (ROOT / "docs/reference/metrics.md").read_text()
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{each}`' for each in one.labels)} | "
        f"{one.help} |"
        for one in METRICS.values()
    ]
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows
    for rule in RULES:
        assert f"`{rule}`" in text


def queries() -> list[str]:
    """Every query of the dashboard, and of the rules in the how-to."""
    board = json.loads((ROOT / "docs/grafana/allod.json").read_text())
    found = [one["expr"] for panel in board["panels"] for one in panel.get("targets", ())]
    found += [one["query"]["query"] for one in board["templating"]["list"] if one["name"] == "node"]
    page = (ROOT / "docs/how-to/watch-a-node.md").read_text()
    return found + re.findall(r"expr: (.*)", page)


def test_the_dashboard_and_the_rules_ask_for_what_there_is() -> None:
    """Every metric of a query exists, every label is one of its labels, and all are drawn."""
    drawn = set()
    for query in queries():
        names = re.findall(r"\b(?:allod|process)_\w+", query)
        drawn |= set(names)
        assert set(names) <= set(METRICS), query
        labels = {label for name in names for label in METRICS[name].labels}
        used = set(re.findall(r"(\w+)\s*=~?\s*\"", query))
        for group in re.findall(r"by \(([^)]*)\)", query):
            used |= {label.strip() for label in group.split(",")}
        assert used <= labels | {"instance", "job"}, query
        for brackets in ("()", "[]", "{}"):
            assert query.count(brackets[0]) == query.count(brackets[1]), query
    assert set(METRICS) - drawn <= {
        "allod_uploads", "process_virtual_memory_bytes",
    }  # fmt: skip


def test_the_dashboard_has_panels_that_do_not_overlap() -> None:
    """Ids are unique, no two panels lie on each other, all are within Grafana's 24 columns."""
    panels = json.loads((ROOT / "docs/grafana/allod.json").read_text())["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for one in panels:
        at = one["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not taken & cells, one["title"]
        taken |= cells


# -- the door


@asynccontextmanager
async def daemon(home: Path, **flags: str) -> AsyncIterator[str]:
    """Run a node on loopback; its URL."""
    given: dict[str, Any] = {"p2p.port": "0", "p2p.listen": ["127.0.0.1"], "p2p.mdns": "false",
                             "http.port": "0", "store.reserve": "0"}  # fmt: skip
    given |= {name.replace("__", "."): value for name, value in flags.items()}
    config = load_config(given, environ={"ALLOD_HOME": str(home)})
    ready: list[dict[str, Any]] = []
    async with trio.open_nursery() as nursery:

        async def run(task_status: Any) -> None:
            await run_daemon(config, ready=ready.append, task_status=task_status)

        with trio.fail_after(60):
            await nursery.start(run)
        yield ready[0]["http"]
        nursery.cancel_scope.cancel()


async def test_a_node_tells_its_numbers(tmp_path: Path) -> None:
    """All that always has a value is there, on the network, and doors and the log are counted."""
    async with daemon(tmp_path) as url, httpx.AsyncClient() as client:
        logging.getLogger("node.test").error("something that nobody may read in a metric")
        assert (await client.get(f"{url}/health")).status_code == 200
        assert (await client.get(f"{url}/ipfs/nonsense")).status_code == 400
        assert (await client.get(f"{url}/nothing/here/at/all")).status_code == 404
        assert (await client.get(f"{url}/api/models/org/none")).status_code in (401, 404)
        foreign = {"host": "evil.example"}
        assert (await client.get(f"{url}/metrics", headers=foreign)).status_code == 403
        page = {"origin": "https://evil.example"}
        assert (await client.get(f"{url}/metrics", headers=page)).status_code == 403
        assert (await client.post(f"{url}/metrics")).status_code == 405
        answer = await client.get(f"{url}/metrics")
        again = read((await client.get(f"{url}/metrics")).text)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "nobody may read" not in answer.text
    assert str(tmp_path) not in answer.text
    found = read(answer.text)
    assert set(METRICS) - {name for name, *_ in found} <= ONLY_SOMETIMES
    assert found["allod_http_requests_total", "control", "200"] == 1
    assert found["allod_http_requests_total", "content", "400"] == 1
    assert found["allod_http_requests_total", "none", "404"] == 1
    assert found["allod_http_requests_total", "none", "403"] == 2
    assert sum(one for key, one in found.items() if key[1:2] == ("hub",)) == 1
    assert found["allod_log_records_total", "error"] == 1
    assert found["process_resident_memory_bytes",] > 1 << 20
    assert found["allod_peers", "inbound"] == 0
    assert again["allod_http_requests_total", "metrics", "200"] == 1


async def test_without_a_network_there_are_no_peers(tmp_path: Path) -> None:
    """What a node does not have is left out; a quota is told where there is one."""
    flags = {"p2p__offline": "true", "store__quota": "1GB"}
    async with daemon(tmp_path, **flags) as url, httpx.AsyncClient() as client:
        found = read((await client.get(f"{url}/metrics")).text)
    names = {name for name, *_ in found}
    assert (
        not {"allod_peers", "allod_lanes", "allod_dht_peers", "allod_traffic_bytes_total"} & names
    )
    assert found["allod_store_quota_bytes",] == 1_000_000_000
    assert found["allod_jobs", "fetch"] == 0


async def test_where_models_want_a_token_so_do_their_names(tmp_path: Path) -> None:
    """Without a token the numbers come all the same; one that is not good is refused."""
    flags = {"p2p__offline": "true", "serve__auth": "token"}
    async with daemon(tmp_path, **flags) as url, httpx.AsyncClient() as client:
        running = find_node(load_config(environ={"ALLOD_HOME": str(tmp_path)}).folders)
        assert running is not None
        for word, status in (("", 200), ("Bearer allod-wrong", 401), ("Bearer x", 401),
                             (f"Bearer {running.token()}", 200)):  # fmt: skip
            headers = {"authorization": word} if word else {}
            answer = await client.get(f"{url}/metrics", headers=headers)
            assert answer.status_code == status, word


# -- the models


async def test_use_is_counted_by_model_and_status(tmp_path: Path) -> None:
    """Requests, tokens and seconds; without names all models are one."""
    async with open_accounts(tmp_path) as accounts:
        _, token = await accounts.issue(Grant(name="bob"))
        for model, status in (("small", 200), ("small", 200), ("large", 503)):
            use = Use(model, MANIFEST, "chat/completions", 5, 7, status, 0.5, "peer")
            await accounts.record(await accounts.identify(""), use)
        named, plain = Scrape(), Scrape()
        add_used(named, accounts, named=True)
        add_used(plain, accounts, named=False)
    found = read(named.write().decode())
    assert found["allod_model_requests_total", "small", "200"] == 2
    assert found["allod_model_requests_total", "large", "503"] == 1
    assert found["allod_model_tokens_total", "small", "completion"] == 14
    assert found["allod_model_tokens_total", "small", "prompt"] == 10
    assert found["allod_model_seconds_total", "large"] == 0.5
    text = plain.write().decode()
    assert read(text)["allod_model_tokens_total", "", "prompt"] == 15
    for private in ("small", "large", "bob", token.id, str(MANIFEST), "peer"):
        assert private not in text


def served(name: str, state: Any) -> Served:
    """A served model of 1 MiB."""
    chat: Any = frozenset({"chat"})
    made = Served(name, (), MANIFEST, "did:key:x", 0, 1, chat, 512)
    return replace(made, state=state, memory=1 << 20)


def test_what_the_fleet_does_is_told_by_model() -> None:
    """States, slots, who waits, and how engines fared."""
    models = [served("a", "ready"), served("b", "cold")]
    fleet: Any = SimpleNamespace(
        served=lambda: models,
        load=lambda name: Load(2, 1, 3),
        starts={("a", "started"): 2, ("a", "died"): 1, ("gone", "failed"): 1},
    )
    scrape, plain = Scrape(), Scrape()
    add_fleet(scrape, fleet, named=True)
    add_fleet(plain, fleet, named=False)
    found = read(scrape.write().decode())
    assert found["allod_models", "ready"] == 1
    assert found["allod_models", "failed"] == 0
    assert found["allod_model_requests_waiting", "b"] == 3
    assert found["allod_model_memory_bytes", "a"] == 1 << 20
    assert ("allod_model_memory_bytes", "b") not in found
    assert found["allod_engine_starts_total", "a", "died"] == 1
    assert read(plain.write().decode())["allod_model_slots", ""] == 4


def test_the_log_is_counted_by_level() -> None:
    """Warnings and worse, of the whole program, while the block lasts."""
    log = logging.getLogger("node.test")
    with counting_logs() as counts:
        log.warning("a")
        log.error("b")
        log.critical("c")
        log.info("d")
    log.error("e")
    assert counts.levels == {"warning": 1, "error": 1, "critical": 1}
