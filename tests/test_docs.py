"""The reference pages say all that there is, and the other pages name only what there is."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest
from starlette.routing import BaseRoute

from node.api import answers, gateway, hub, peer, read
from node.api.control import control_routes
from node.api.ollama import ollama_routes
from node.api.ollama import requests as ollama_requests
from node.api.openai import openai_routes
from node.api.openai import requests as openai_requests
from node.api.openai.errors import CODES
from node.api.openai.responses import RESPONSES, RESPONSES_IGNORED, RESPONSES_REFUSED
from node.api.origins import EXPOSED
from node.cli.tree import ALIASES, root
from node.client import BareNode
from node.config import load_config
from node.messages import Failure
from node.operations import OPERATIONS
from node.settings import settings
from p2p.errors import AllodError
from p2p.licenses import FAMILIES
from p2p.policy import KEYS
from p2p.policy.model import FORMATS
from tests.desk import PlainDesk

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
COMMON = {"--json", "--quiet", "-q", "--help", "-h"}  # described once, at the top of cli.md


def leaves() -> dict[str, click.Command]:
    """Return every command that does something, by its full name."""
    found: dict[str, click.Command] = {}
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": leaf for inner, leaf in command.commands.items()}
        else:
            found[name] = command
    return found


LEAVES = leaves()


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def options(command: click.Command) -> Iterator[click.Option]:
    for one in command.params:
        if isinstance(one, click.Option) and not set(one.opts) & COMMON:
            yield one


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_is_described(name: str) -> None:
    """cli.md has a section for each command: what it does, its options, its example, its JSON."""
    section = page("cli.md").partition(f"\n### allod {name}\n")[2]
    section = re.split(r"\n##+ ", section)[0]
    assert section, "has no section"
    command = LEAVES[name]
    assert (command.help or "").partition("\n")[0] in section
    assert (command.epilog or "").partition("Example:")[2].strip() in section
    assert "\nJSON: " in section
    for option in options(command):
        name = re.escape(option.opts[0])
        [row] = [line for line in section.splitlines() if re.match(rf"\| `{name}[ `]", line)]
        assert option.help is not None
        assert option.help in row
        for word in option.secondary_opts:
            assert f"`{word}" in row


def test_what_all_commands_share_is_described() -> None:
    """cli.md names the common options, the root's options, the exit codes and the aliases."""
    text = page("cli.md")
    for word in COMMON | {word for one in root.params for word in one.opts}:
        assert f"`{word}" in text, word
    for code in {kind.exit_code for kind in errors()} | {0, 130}:
        assert f"\n| {code} | " in text
    for alias in ALIASES:
        assert f"`allod {alias}`" in text


def test_every_section_is_a_command() -> None:
    """cli.md describes no command that is gone."""
    assert set(re.findall(r"\n### allod (.*)\n", page("cli.md"))) == set(LEAVES)


def test_every_key_is_described() -> None:
    """config.md has exactly the rows of the table of keys."""
    rows = []
    for one in settings():
        plain = one.default_text == "empty" or "`" in one.default_text
        default = one.default_text if plain else f"`{one.default_text}`"
        variables = ", ".join(f"`{variable}`" for variable in one.variables)
        rows.append(f"| `{one.key}` | {one.kind.name} | {default} | {one.help} | {variables} |")
    lines = page("config.md").splitlines()
    found = [line for line in lines if re.match(r"\| `\w+\.\w+` ", line) and "`ALLOD_" in line]
    assert found == rows


def test_every_policy_key_is_described() -> None:
    """policy.md has exactly the rows of the table of a policy's keys, and names every format."""
    rows = [f"| `{k.name}` | {k.expects} | {k.default} | {k.meaning} |" for k in KEYS]
    lines = page("policy.md").partition("## How")[0].splitlines()
    assert [line for line in lines if line.startswith("| `")] == rows
    for name in FORMATS:
        assert f"`{name}`" in page("policy.md").partition("## Formats")[2]
    for family in FAMILIES:
        assert f"`{family}`" in page("policy.md")


def test_every_variable_is_described() -> None:
    """config.md names every environment variable that the configuration reads."""
    source = (ROOT / "node" / "config.py").read_text()
    for variable in set(re.findall(r'"((?:ALLOD|XDG)_\w+[A-Z])"', source)):
        assert f"`{variable}`" in page("config.md") or f"`${variable}" in page("config.md")


def test_every_route_is_described(tmp_path: Path) -> None:
    """http.md names every path of the control API and of the peers' HTTP."""
    text = page("http.md")
    bare = BareNode(load_config(environ={"ALLOD_HOME": str(tmp_path)}))
    for route in control_routes(bare, "t"):  # type: ignore[arg-type]  # paths are all that is asked
        assert f"{getattr(route, 'path')}`" in text  # noqa: B009 - BaseRoute declares none
    doors = f"{peer.__doc__}{gateway.__doc__}{answers.__doc__}{read.__doc__}{hub.routes.__doc__}"
    told = re.findall(r"(?:GET|HEAD|POST) +(/\S+)", doors)
    assert len(told) > 5
    for path in told:
        assert re.search(rf"`([A-Z]+ )?{re.escape(path.replace('[/{path}]', ''))}", text), path


def model_doors() -> list[BaseRoute]:
    """Return the routes of the doors for models; their paths are all that is asked."""
    return [*openai_routes(PlainDesk()), *ollama_routes(PlainDesk())]


def test_every_route_of_the_doors_for_models_is_described() -> None:
    """http.md names every path of OpenAI's and Ollama's doors, and none that is gone."""
    text = page("http.md").partition("## OpenAI")[2].partition("## Control")[0]
    paths = {getattr(route, "path") for route in model_doors()}  # noqa: B009 - as above
    paths = {path.replace(":path", "") for path in paths} - {"/v1/{rest}"}
    assert paths <= set(re.findall(r"(/[\w/{}]*)`", text))
    assert set(re.findall(r"`(?:GET|POST) (/\S*)`", text)) <= paths


def test_every_error_of_the_doors_for_models_is_described() -> None:
    """http.md has exactly the codes that a client of the doors can meet, with their status."""
    text = page("http.md").partition("## OpenAI")[2].partition("### Web pages")[0]
    found = {code: int(status) for code, status in re.findall(r"\n\| `(\w+)` \| (\d{3}) \|", text)}
    assert found == dict(CODES)


def test_every_field_of_the_doors_for_models_is_described() -> None:
    """http.md names each field that is heard, passed over or refused, and each header."""
    openai, _, rest = page("http.md").partition("## OpenAI")[2].partition("\n## Ollama")
    tables = (openai_requests.CHAT, openai_requests.COMPLETIONS, openai_requests.EMBEDDINGS)
    names = {name for table in (*tables, RESPONSES) for name in table}
    names |= openai_requests.IGNORED | RESPONSES_IGNORED
    names |= {*openai_requests.REFUSED, *RESPONSES_REFUSED}
    assert {name for name in names if f"`{name}`" not in openai} == set()
    ollama = rest.partition("## Control")[0]
    theirs = (ollama_requests.CHAT, ollama_requests.GENERATE, ollama_requests.EMBED)
    names = {name for table in (*theirs, ollama_requests.OPTIONS) for name in table}
    names |= set(ollama_requests.REFUSED)
    assert {name for name in names if f"`{name}`" not in ollama} == set()
    for header in [one.strip() for one in EXPOSED.split(",")]:
        assert f"`{header}`" in openai.lower()


def test_every_operation_is_described() -> None:
    """http.md has every operation of the control API with all its params."""
    rows = [line for line in page("http.md").splitlines() if line.startswith("| `")]
    for name, operation in OPERATIONS.items():
        if operation.here_only:
            assert f"`{name}`" in page("http.md")
            continue
        [row] = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        for one in fields(operation.params):
            assert f"`{one.name}`" in row.split("|", 2)[2], (name, one.name)


def errors() -> Iterator[type[AllodError]]:
    waiting: list[type[AllodError]] = [AllodError]
    while waiting:
        kind = waiting.pop()
        if kind.__module__ == "p2p.errors":
            yield kind
            waiting.extend(kind.__subclasses__())


def test_every_error_is_described() -> None:
    """errors.md has a row for every code with its exit code, and none that is gone."""
    found = set(re.findall(r"\n\| `(\w+)` \| (\d+) \|", page("errors.md")))
    expected = {(kind.code, str(kind.exit_code)) for kind in errors()}
    assert found == expected | {("INTERRUPTED", "130")}
    assert Failure.of(AllodError("x")).code in {code for code, _ in found}


def commands() -> Iterator[tuple[str, str]]:
    """Yield every line of README and docs that starts with ``allod``, with its page."""
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = file.read_text()
        spans = re.findall(r"`(allod [^`\n]+)`", text)
        blocks = re.findall(r"^[ \t]*(?:\$ )?(allod [a-z-].*)$", text, re.MULTILINE)
        for line in [*spans, *blocks]:
            yield str(file.relative_to(ROOT)), line


@pytest.mark.parametrize(("file", "line"), sorted(set(commands())))
def test_the_docs_name_only_commands_that_there_are(file: str, line: str) -> None:
    """Every `allod ...` in the docs is a command, and its options are options of that command."""
    words = shlex.split(
        line.replace("...", "").partition(" > ")[0].partition(" | ")[0], comments=True
    )
    words = [word for word in words[1:] if word not in ("[OPTIONS]", "ARGS")]
    while words and words[0] == "-c":
        words = words[2:]
    if not words or words == ["--version"] or words == ["--help"]:
        return
    name = ALIASES.get(words[0], words[0])
    if name not in LEAVES:
        name = " ".join(words[:2])
        if len(words) == 1 and any(one.startswith(f"{words[0]} ") for one in LEAVES):
            return  # a group's name alone
        default = getattr(root.get_command(click.Context(root), words[0]), "default", None)
        if name not in LEAVES and default is not None:  # what is meant where none is named
            name = f"{words[0]} {default}"
    assert name in LEAVES, f"{file}: {line}"
    known = {word for one in LEAVES[name].params for word in [*one.opts, *one.secondary_opts]}
    for word in words:
        if word.startswith("-") and len(word) > 1:
            assert word.partition("=")[0] in known | COMMON, f"{file}: {line}"


def test_every_module_is_on_the_map() -> None:
    """architecture.md names every module of the house, and none that is gone."""
    text = (ROOT / "docs/explanation/architecture.md").read_text()
    named = set(re.findall(r"[a-z_0-9]+", "".join(re.findall(r"^[a-z_0-9/, ]+  ", text, re.M))))
    there = set()
    for package in ("p2p", "node", "node/api", "node/python/allod"):
        for file in (ROOT / package).iterdir():
            if (file.suffix == ".py" or (file / "__init__.py").exists()) and file.name[0] != "_":
                there.add(file.stem)
    assert there <= named, there - named
    blocks = {"publish", "add", "walk", "state", "sign", "record", "list", "announce"}
    blocks |= {"name", "crew", "statement", "outlines", "survey", "transfer"}
    blocks |= {"client", "identify", "read", "admit", "moderate", "slot", "load", "ask", "relay"}
    blocks |= {"check", "pull", "wait"}
    assert named - there <= blocks, named - there - blocks
