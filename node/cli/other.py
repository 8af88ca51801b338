"""The other commands: env, config, completion."""

import shlex

import click
from click.shell_completion import CompletionItem, get_completion_class

from node.cli.run import Run, verb
from node.cli.text import exact_size_text, table
from node.messages import ConfigKeyParams, ConfigSetParams


@verb(example='eval "$(allod env)"')
def env(run: Run) -> int:
    """Print variables that point other tools at the node."""
    http = run.call("status", only_running=True)["http"]
    # Only doors that answer: a variable that leads nowhere breaks the tools that obey it.
    found = {
        "IPFS_GATEWAY": http,  # curl's ipfs://, ffmpeg, and the IPFS libraries
        "OPENAI_BASE_URL": f"{http}/v1",
        "OLLAMA_HOST": http,
        "HF_ENDPOINT": http,
        # The node wants no token of the Hub's, and nobody is to be told who uses what.
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if run.config().serve.auth == "open":
        found["OPENAI_API_KEY"] = "none"  # its clients insist on one
    else:
        run.note("This node wants a token: `allod token new NAME` makes one for OPENAI_API_KEY.")
    lines = [f"export {name}={shlex.quote(value)}" for name, value in found.items()]
    return run.show({"ok": True, "env": found}, lines)


def _complete_key(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from node.settings import settings

    return [
        CompletionItem(one.key, help=one.help)
        for one in settings()
        if one.key.startswith(incomplete)
    ]


_key = click.argument("key", shell_complete=_complete_key)


@click.group(epilog="\b\nExample:\n  allod config set p2p.port 0")
def config() -> None:
    """Show and change what this node is told to do."""


@verb(example="allod config get p2p.port", group=config)
@_key
def get(run: Run, key: str) -> int:
    """Print one key's value."""
    found = run.call("config.get", ConfigKeyParams(key))
    return run.show(found, [_text(key, found["value"])])


@verb(example="allod config set store.quota 500GB", group=config)
@_key
@click.argument("values", nargs=-1, required=True)
def set_(run: Run, key: str, values: tuple[str, ...]) -> int:
    """Write a key into config.toml, comments kept; a running node reads it at its next start."""
    # The file is not read: it may be wrong, and this is how it is put right.
    found = run.call("config.set", ConfigSetParams(key, values), read_file=False)
    _tell_of_node(run)
    return run.show(found, [] if run.quiet else [f"{key} = {_text(key, found['value'])}"])


@verb(example="allod config unset store.quota", group=config)
@_key
def unset(run: Run, key: str) -> int:
    """Take a key out of config.toml, so that the default holds again."""
    found = run.call("config.unset", ConfigKeyParams(key), read_file=False)
    _tell_of_node(run)
    return run.show(found)


@verb(example="allod config list", group=config)
def list_(run: Run) -> int:
    """List every key with its value, and where that comes from."""
    found = run.call("config.list")
    rows = [(one["key"], _text(one["key"], one["value"]), one["from"]) for one in found["settings"]]
    return run.show(found, table(("KEY", "VALUE", "FROM"), rows))


def _text(key: str, value: object) -> str:
    from node.kinds import LIMIT, SIZE
    from node.settings import find_setting, show_value

    if find_setting(key).kind in (SIZE, LIMIT) and str(value).isdecimal():
        return exact_size_text(int(str(value)))
    return show_value(value)


def _tell_of_node(run: Run) -> None:
    """Say that a node that runs does not know of the change yet."""
    from node.presence import find_node

    if find_node(run.config(read_file=False).folders) is not None:
        run.note("The node that runs takes it up when it is started again.")


@verb(example='eval "$(allod completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(run: Run, shell: str) -> int:
    """Print the script that makes a shell complete."""
    from node.cli.tree import root

    made = get_completion_class(shell)
    assert made is not None
    maker = made(root, {}, "allod", "_ALLOD_COMPLETE")
    # Not maker.source(), which runs bash to see how old it is.
    script = maker.source_template % maker.source_vars()
    return run.show({"ok": True, "shell": shell, "script": script}, [script])
