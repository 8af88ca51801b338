"""``allod run``: one question, or a chat in the terminal, with a model that the node serves.

The node is asked over its OpenAI-compatible door, as any other program would ask it; where none
runs, one is started for as long as the chat lasts. Ctrl-C ends an answer, and at the prompt the
chat. What is typed is kept in memory alone, the lines for the arrow keys too.
"""

import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

import click

from node.asking import Conversation, Door, Overlong
from node.cli.run import Run, verb
from node.cli.serve import check_reference
from node.cli.text import plain
from node.messages import ServeParams
from p2p.errors import AllodError, Untrusted, UsageError

MAX_STDIN: Final = 4 << 20
"""Characters of a question that is piped in: more than any model reads."""

PIPED_WITHIN: Final = 0.3
"""Seconds in which a pipe must have something, where there is a prompt without it."""

HELP: Final = """\
/clear          forget what was said
/system TEXT    say how the model is to behave, and begin anew
/exit           end; so do /bye, /quit and Ctrl-D
\"\"\"             begins a question of several lines, and ends it
Ctrl-C          ends an answer"""


@verb(example='allod run alice/tiny-llm "Why is the sky blue?"')
@click.argument("ref")
@click.argument("prompt", required=False)
@click.option("--system", default="", metavar="TEXT", help="How the model is to behave.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=None,
              help="How freely it chooses words; 0 always takes the likeliest.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1, 1 << 20), default=None,
              help="The longest answer.")  # fmt: skip
@click.option("--context", default=0, metavar="TOKENS", type=click.IntRange(0, 1 << 20),
              help="Tokens of question and answer together, if it is not served yet.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Take it from a publisher who is new here.")
def run(
    run: Run, ref: str, prompt: str | None, system: str,
    temperature: float | None, max_tokens: int | None, context: int, yes: bool,
) -> int:  # fmt: skip
    """Ask a model something, or chat with it.

    The release is fetched and served first if need be. Without a prompt it is a chat. What is piped
    in is the prompt, or goes behind it.
    """
    check_reference(ref)
    piped = _piped(wait=prompt is None)
    if piped:
        prompt = f"{prompt}\n\n{piped}" if prompt else piped
    if prompt is not None and not prompt.strip():
        raise UsageError("A question has words, but an empty one came.")
    if prompt is None and run.as_json:
        raise UsageError("A chat has no --json; give a prompt, or pipe one in.")
    knobs: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    knobs = {name: value for name, value in knobs.items() if value is not None}
    with _node(run):
        model = _serve(run, ServeParams(ref, context=context, yes=yes, ask=run.can_ask()))
        talk = Conversation(lambda: Door.of(run.config()), model, system, knobs)
        if prompt is not None:
            return _once(run, talk, prompt)
        run.note(f"{model}; /help shows what else can be typed.")
        _chat(talk)
    return 0


def _piped(*, wait: bool) -> str:
    """Return what is piped in, nothing from a terminal.

    Without ``wait`` only if it comes at once: a script's stdin may be a pipe that nobody writes to.
    """
    if sys.stdin.isatty():
        return ""
    if not wait:
        ready, _, _ = select.select([sys.stdin], [], [], PIPED_WITHIN)
        if not ready:
            return ""
    return sys.stdin.read(MAX_STDIN)


@contextmanager
def _node(run: Run) -> Iterator[None]:
    """Have a node run for the block."""
    from node.asking import started_node
    from node.presence import find_node

    if find_node(run.config().folders) is not None:
        yield
        return
    run.note("No node runs here, so this command runs one for as long as it needs it.")
    with started_node(run.config()):
        yield


def _serve(run: Run, params: ServeParams) -> str:
    """Have the model served, and loaded; its name."""
    for one in run.call("ps", only_running=True)["models"]:
        if params.ref in (one["model"], one["manifest"]):
            if params.context not in (0, one["context"]):
                run.note(f"It is served with {one['context']} tokens of context already.")
            return str(one["model"])
    try:
        found = run.call("serve", params, only_running=True)
    except Untrusted as exc:
        if not (params.ask and run.ask(exc.message, "Take it?")):
            raise
        found = run.call("serve", replace(params, yes=True), only_running=True)
    return str(found["model"])


def _once(run: Run, talk: Conversation, prompt: str) -> int:
    """Answer one question, as it comes or as one JSON object."""
    if run.as_json:
        for _ in talk.ask(prompt):
            pass
        return run.show({"ok": True, **talk.last})
    _print_answer(talk, prompt)
    return 0


def _print_answer(talk: Conversation, prompt: str) -> None:
    try:
        for piece in talk.ask(prompt):
            sys.stdout.write(plain(piece))
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    if talk.last.get("finish_reason") == "length":
        print("(cut off: the answer has reached its longest, or the context is full)")


def _chat(talk: Conversation) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() its arrow keys
    interrupted = False
    while True:
        try:
            line = _read_question()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            if interrupted:
                print()
                return
            interrupted = True
            print("\n(Ctrl-C once more, Ctrl-D or /exit ends the chat)")
            continue
        interrupted = False
        word, _, rest = line.partition(" ")
        if word in ("/exit", "/bye", "/quit"):
            return
        if word == "/help":
            print(HELP)
        elif word == "/clear":
            talk.clear()
            print("(forgotten)")
        elif word == "/system":
            talk.clear(system=rest)
            print("(forgotten; it behaves as told from now on)" if rest else "(forgotten)")
        elif line.startswith("/") and "\n" not in line:
            print(f"There is no {word}; /help shows what there is.")
        elif line.strip():
            _answer(talk, line)


def _answer(talk: Conversation, line: str) -> None:
    """Print an answer; where the conversation has grown too long, the oldest of it is forgotten."""
    while True:
        try:
            _print_answer(talk, line)
        except KeyboardInterrupt:
            print("\n(stopped)")
        except Overlong as exc:
            if not talk.forget_oldest():
                print(f"({exc.message})")
                return
            print("(the oldest question and answer are forgotten: the model's context is full)")
            continue
        except AllodError as exc:  # the chat goes on: the node may be there again in a moment
            print(plain(f"({exc.message} {exc.next})".replace(" )", ")")))
            return
        if talk.crowded() and talk.forget_oldest():
            print("(the oldest question and answer are forgotten: they left no room for this one)")
        return


def _read_question() -> str:
    line = input(">>> ")
    if not line.startswith('"""'):
        return line
    lines = [line[3:]]
    while not lines[-1].endswith('"""'):
        lines.append(input("... "))
    lines[-1] = lines[-1][:-3]
    return "\n".join(lines)
