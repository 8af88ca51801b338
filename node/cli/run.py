"""One run of one command: what every command has in common.

``verb`` makes a click command of a function: it adds ``--json`` and ``--quiet`` and an example to
the help, and hands the function a ``Run``, through which it reaches the configuration, the
operations, and the person.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import click

from node.cli.progress import View, open_view
from node.cli.text import plain
from node.config import Config, load_config
from node.messages import Event, Failure, NoParams
from p2p.errors import AllodError

Json = dict[str, Any]
Flags = Mapping[str, str | Sequence[str]]


class Run:
    """The configuration, the operations and the person, as one command sees them."""

    def __init__(self, *, as_json: bool, quiet: bool, overrides: Mapping[str, str]) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._overrides = overrides
        self._view: View = open_view(as_json=as_json, quiet=quiet)

    def config(self, flags: Flags | None = None, *, read_file: bool = True) -> Config:
        """Return the configuration; ``flags`` are keys that options of this command set."""
        return load_config({**self._overrides, **(flags or {})}, read_file=read_file)

    def call(
        self,
        name: str,
        params: object = NoParams(),
        *,
        flags: Flags | None = None,
        only_running: bool = False,
        here_only: bool = False,
        read_file: bool = True,
    ) -> Json:
        """Have an operation done, its progress shown; return its result."""
        from node.client import call

        with self._view:
            return call(
                self.config(flags, read_file=read_file),
                name,
                params,
                listen=self._view.show,
                only_running=only_running,
                here_only=here_only,
            )

    def listen(self, event: Event) -> None:
        """Show one event of an operation that runs in this process; ``show`` ends the bar."""
        self._view.show(event)

    def note(self, text: str) -> None:
        """Tell a person, on stderr, what is no part of the result."""
        if not self.quiet and not self.as_json:
            click.echo(text, err=True)

    def can_ask(self) -> bool:
        """Say whether there is a person at a terminal who can be asked something."""
        if self.as_json or self.quiet:
            return False
        return sys.stdin.isatty() and sys.stderr.isatty()

    def ask(self, text: str, question: str) -> bool:
        """Tell a person something, and ask for yes or no; no if nothing is typed."""
        click.echo(plain(text), err=True)
        return click.confirm(question, default=False, err=True)

    def show(self, result: Json, lines: Iterable[str] = ()) -> int:
        """Print the result, as JSON or as ``lines``, and return the exit code that it deserves."""
        self._view.close()
        if self.as_json:
            click.echo(json.dumps(result, ensure_ascii=False))
            return _exit_code(result)
        for line in lines:
            click.echo(plain(line))
        if result.get("ok") is False:
            raise _error(result)
        return 0


def _error(result: Json) -> AllodError:
    error = result["error"]
    return Failure(error["code"], error["message"], error["next"]).error()


def _exit_code(result: Json) -> int:
    return 0 if result.get("ok", True) else _error(result).exit_code


def verb(
    *, example: str, group: click.Group | None = None
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a command of a function ``(run, **options)`` that returns an exit code or None."""

    def wrap(function: Callable[..., int | None]) -> click.Command:
        def command(
            ctx: click.Context, /, as_json: bool, quiet: bool, **options: Any
        ) -> int | None:
            run = Run(as_json=as_json, quiet=quiet, overrides=ctx.find_root().obj or {})
            return function(run, **options)

        functools.update_wrapper(command, function)  # its options and its docstring
        made: Any = click.pass_context(command)
        for option in (_QUIET, _JSON):
            made = option(made)
        name = function.__name__.rstrip("_")
        made = click.command(name, epilog=f"\b\nExample:\n  {example}")(made)
        if group is not None:
            group.add_command(made)
        return cast(click.Command, made)

    return wrap


_JSON = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object on stdout, progress as NDJSON on stderr.",
)
_QUIET = click.option(
    "-q", "--quiet", is_flag=True, help="Print nothing but the result and errors."
)
