"""The command line: ``main`` and the tree of commands.

Each group of commands is a module (start, share, trust, other) that is imported when one of its
commands is named, and nothing heavier than click is imported before a command needs it.
Whatever happens inside, a person sees one sentence and the next thing to do, a script sees one
JSON object and the exit code of p2p/errors.py; nobody sees a traceback unless ALLOD_LOG=debug.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.messages import Failure

VERSION = "0.1.0"  # also in pyproject.toml, a test compares; asking the metadata takes 40 ms
INTERRUPTED = 130  # what shells expect of a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:  # before click and all the rest
        print(f"allod {VERSION}")
        return 0
    from node.config import wants_trace
    from node.messages import Failure
    from p2p.errors import AllodError

    as_json = "--json" in args
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        failure = Failure("INTERRUPTED", "Interrupted.", "", INTERRUPTED)
        if not as_json:
            return INTERRUPTED
    except BrokenPipeError:  # `allod ls | head`: the reader has seen enough
        _silence_stdout()
        return 1
    except AllodError as exc:
        failure = Failure.of(exc)
    # The last boundary of the process: an unforeseen error is still one sentence.
    except Exception as exc:
        if wants_trace():
            import traceback

            traceback.print_exc()
        failure = Failure.of_any(exc)
    return _tell(failure, as_json)


def _run(args: list[str]) -> int:
    import click

    from node.cli.tree import root
    from node.messages import Failure

    try:
        code = root.main(args, prog_name="allod", standalone_mode=False)
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.exceptions.NoArgsIsHelpError as exc:
        print(exc.format_message(), file=sys.stderr)
        return exc.exit_code
    except click.UsageError as exc:
        where = exc.ctx.command_path if exc.ctx else "allod"
        help = f"`{where} --help` shows how it is used."
        failure = Failure("USAGE", exc.format_message(), help, 2)
        return _tell(failure, "--json" in args)
    except click.ClickException as exc:
        return _tell(Failure("OTHER", exc.format_message()), "--json" in args)
    except SystemExit as exc:  # click's own ways out: completion, a closed pipe
        return exc.code if isinstance(exc.code, int) else 0
    return code if isinstance(code, int) else 0


def _tell(failure: "Failure", as_json: bool) -> int:
    if as_json:
        import json

        print(json.dumps(failure.json(), ensure_ascii=False), flush=True)
    else:
        from node.cli.text import plain

        print(plain(f"allod: {failure.message}"), file=sys.stderr)
        if failure.next:
            print(plain(f"       {failure.next}"), file=sys.stderr)
    return failure.exit_code


def _silence_stdout() -> None:
    """Keep the interpreter from complaining about the closed pipe once more on its way out."""
    import os

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)
