"""The root of the tree of commands; each branch is imported when one of its commands is named."""

import difflib
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from node.cli import VERSION

# Where each command lives, in the order of the help.
BRANCHES = {
    "start": ("demo", "up", "page", "status", "peers", "limits", "jobs", "cancel", "doctor",
              "service"),
    "share": (
        "publish", "import", "fetch", "search", "files", "ls", "rm", "pin", "unpin", "gc", "verify",
        "pledge",
    ),
    "serve": ("serve", "run", "ps", "stop", "token", "usage", "receipt"),
    "trust": (
        "key", "trust", "provenance", "why", "impact", "endorse", "revoke", "consent", "bundle",
    ),
    "other": ("network", "env", "config", "completion"),
}  # fmt: skip
ALIASES = {"pull": "fetch"}
# The modules of those commands that do not live in their branch's.
_ELSEWHERE = {
    "import": "hub",
    "page": "page",
    "doctor": "doctor",
    "service": "service",
    "jobs": "page",
    "cancel": "page",
    "token": "token",
    "usage": "token",
    "receipt": "token",
    "pledge": "pledge",
    "search": "views",
    "files": "views",
    "trust": "policy",
    "provenance": "views",
    "why": "views",
    "impact": "views",
    "endorse": "endorse",
    "revoke": "consent",
    "consent": "consent",
    "bundle": "bundle",
    "run": "chat",
    "network": "network",
}
_HOME = {name: module for module, names in BRANCHES.items() for name in names} | _ELSEWHERE


class Tree(click.Group):
    """A group whose commands are imported on demand and listed branch by branch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every command's name, aliases left out."""
        return list(_HOME)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None if there is none of that name."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in _HOME:
            return None
        module = import_module(f"node.cli.{_HOME[name]}")
        command: click.Command = getattr(module, f"{name}_" if iskeyword(name) else name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the words name; or name the nearest one in a UsageError."""
        if self.get_command(ctx, args[0]) is None:
            close = difflib.get_close_matches(args[0], [*_HOME, *ALIASES], n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"There is no command {args[0][:60]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands into the help, one section a branch."""
        for branch, names in BRANCHES.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                rows.append((name, command.get_short_help_str(70) if command else ""))
            with formatter.section(branch.capitalize()):
                formatter.write_dl(rows)


def _overrides(
    ctx: click.Context, param: click.Parameter, words: tuple[str, ...]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise click.BadParameter(f"expects KEY=VALUE, but {word[:80]!r} came.", ctx, param)
        found[key] = value
    return found


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"allod {VERSION}")
        ctx.exit()


@click.group(
    cls=Tree,
    epilog="\b\nExample:\n  allod demo",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-c", "--config", "overrides", multiple=True, metavar="KEY=VALUE", callback=_overrides,
    help="Set a configuration key for this command alone; may be given several times.",
)  # fmt: skip
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Show the version and exit.",
)  # fmt: skip
@click.pass_context
def root(ctx: click.Context, overrides: dict[str, Any]) -> None:
    """Share AI models and datasets from one computer to another, verified byte by byte."""
    ctx.obj = overrides
