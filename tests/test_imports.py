"""Imports go down the page, and certain things are touched by one module alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each module, or package, imports only what stands before it. A new module gets its place here.
PURE = [
    "errors",
    "ranges",
    "buffers",
    "memo",
    "murmur",
    "keys",
    "cid",
    "tensors",
    "chunking",
    "dagpb",
    "car",
    "dag",
    "directory",
    "paths",
    "canonical",
    "fields",
    "licenses",
    "terms",
    "entries",
    "manifest",
    "envelope",
    "attest",
    "receipt",
    "certificates",
    "bridge",
    "bundles",
    "naming",
    "parcel",
    "address",
    "swarmkey",
    "references",
    "serving",
    "policy",
    "schedule",
]
NETWORK = [
    "slim",
    "waiting",
    "dialling",
    "limits",
    "rates",
    "http",
    "noise",
    "yamux",
    "private",
    "channel",
    "mux",
    "listening",
    "lane",
    "streams",
    "delimited",
    "reachability",
    "portmap",
    "network",
    "host",
    "relay",
    "autonat",
    "mdns",
    "routing",
    "kad",
    "discovery",
    "sources",
    "web",
]
NODE = [
    "kinds",
    "settings",
    "config",
    "messages",
    "inference",
    "sse",
    "pace",
    "jobs",
    "lookout",
    "page",
    "logs",
    "presence",
    "store",
    "ledger",
    "grant",
    "allowance",
    "accounts",
    "tokens",
    "keyfiles",
    "private",
    "publisher",
    "keyring",
    "receipts",
    "hub",
    "importers",
    "explaining",
    "crew",
    "webseeds",
    "naming",
    "voices",
    "claims",
    "assembly",
    "haul",
    "transfer",
    "selection",
    "export",
    "slicing",
    "model_sig",
    "engine",
    "statement",
    "holdings",
    "identity",
    "vouching",
    "hearing",
    "ancestry",
    "lineage",
    "describe",
    "rulebook",
    "witness",
    "gate",
    "seeding",
    "circuits",
    "moderation",
    "withdrawal",
    "upkeep",
    "following",
    "publish",
    "hub.choosing",
    "hub.checking",
    "hub.importing",
    "forebears",
    "looking",
    "fetch",
    "reading",
    "pledges",
    "hub.resolving",
    "hub.sums",
    "hub.cache",
    "communities",
    "trusting",
    "provenance",
    "proofs",
    "verdicts",
    "impact",
    "search",
    "parcels",
    "peers",
    "federation",
    "serving",
    "alerts",
    "metrics",
    "api",
    "api.gateway",
    "api.peer",
    "api.mount",
    "api.public",
    "api.origins",
    "api.unread",
    "api.outbox",
    "api.loopback",
    "api.page",
    "api.metrics",
    "api.streamed",
    "api.read",
    "api.hub",
    "api.openai",
    "api.reply",
    "api.answers",
    "api.ollama",
    "node",
    "serving.desk",
    "doctor",
    "service",
    "operations",
    "api.control",
    "daemon",
    "asking",
    "demo_model",
    "demo_chat",
    "demo_people",
    "demo_serving",
    "demo",
    "client",
    "cli",
]
ALLOD = [
    "errors",
    "releases",
    "asked",
    "showing",
    "door",
    "wire",
    "reading",
    "verbs",
    "trio",
    "runner",
    "tree",
    "leaves",
    "fs",
]
ORDER = [f"p2p.{name}" for name in PURE + NETWORK] + [f"node.{name}" for name in NODE]
ORDER += [f"allod.{name}" for name in ALLOD]

# What pure code must not know: the network, clocks, randomness, disks, threads.
IMPURE = {
    "asyncio", "io", "libp2p", "os", "pathlib", "random", "secrets", "socket", "subprocess",
    "threading", "time", "trio",
}  # fmt: skip


def modules() -> dict[str, ast.Module]:
    """Return every module of the packages, parsed, by its dotted name."""
    found = {}
    for top in ("p2p", "node", "bootstrap"):
        for file in sorted((ROOT / top).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            name = name.removeprefix("node.python.")  # there lies what is shipped as allod
            found[name.removesuffix(".__init__")] = ast.parse(file.read_text())
    return found


MODULES = modules()


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield what a module imports, anywhere in it; ``from x import y`` gives x.y."""
    for one in ast.walk(tree):
        if isinstance(one, ast.Import):
            yield from (alias.name for alias in one.names)
        elif isinstance(one, ast.ImportFrom):
            assert one.level == 0, "imports are absolute"
            yield from (f"{one.module}.{alias.name}" for alias in one.names)


def place(name: str) -> str:
    """Return the module or package of ORDER that a dotted name belongs to, or nothing."""
    while name:
        if name in ORDER:
            return name
        name = name.rpartition(".")[0]
    return ""


def test_every_module_has_its_place() -> None:
    """A module that ORDER doesn't list has no place in the house yet: add it to the lists above."""
    tops = {"p2p", "node", "allod"}
    lost = [m for m in MODULES if m.split(".")[0] in tops and m not in tops and not place(m)]
    assert lost == []


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_up_the_list_only(name: str) -> None:
    """A module imports what stands before it in ORDER; p2p never imports node."""
    mine = place(name)
    for target in imports(MODULES[name]):
        top = target.partition(".")[0]
        if top not in ("p2p", "node", "bootstrap", "allod"):
            continue
        if name == "bootstrap" or name.startswith("bootstrap."):
            continue  # stands beside the two and may use both
        assert top != "bootstrap", f"{name} imports {target}"
        theirs = place(target)
        if mine and theirs and mine != theirs:
            assert ORDER.index(theirs) < ORDER.index(mine), f"{name} imports {target}"
        if name.partition(".")[0] == "p2p":
            assert top == "p2p", f"{name} imports {target}"


@pytest.mark.parametrize("name", PURE)
def test_pure_code_knows_no_world(name: str) -> None:
    """The pure modules import no network, clock, randomness or disk."""
    mine = f"p2p.{name}"
    assert mine in MODULES
    for module, tree in MODULES.items():
        if place(module) == mine:
            used = {target.partition(".")[0] for target in imports(tree)}
            assert not used & IMPURE, module


def test_asyncio_has_its_seams() -> None:
    """Only the store's index and zeroconf's own thread know asyncio; everything else is trio."""
    seam = {"asyncio", "aiosqlite", "trio_asyncio"}
    for name, tree in MODULES.items():
        used = {target.partition(".")[0] for target in imports(tree)} & seam
        assert not used or name in ("node.store.index", "p2p.mdns"), name


def test_the_environment_has_one_reader() -> None:
    """Only node/config.py reads environment variables."""
    for name, tree in MODULES.items():
        words = {one.attr for one in ast.walk(tree) if isinstance(one, ast.Attribute)}
        words |= set(imports(tree))
        found = words & {"environ", "getenv", "os.environ", "os.getenv"}
        assert not found or name == "node.config", name


@pytest.mark.parametrize(
    "module", ["node.cli", "node.client", "node.cli.tree", "node.cli.share", "node.cli.other"]
)
def test_the_command_line_is_light(module: str) -> None:
    """Importing the command line imports no libp2p, no trio and no server."""
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    heavy = {"libp2p", "trio", "starlette", "hypercorn", "multiformats", "tomlkit", "tqdm", "yaml"}
    assert not set(done.stdout.split()) & heavy
