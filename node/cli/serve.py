"""Commands about models that answer: serve, ps, stop."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.run import Json, Run, verb
from node.cli.text import duration_text, size_text, table
from node.messages import ModelParams, ServeParams
from p2p.errors import Untrusted, UsageError

if TYPE_CHECKING:
    from node.node import Node


@verb(example="allod serve alice/tiny-llm")
@click.argument("ref")
@click.option("--as", "name", default="", metavar="NAME",
              help="What clients call it; petname/name if left out.")  # fmt: skip
@click.option("--file", default="", metavar="PATH", help="Which of several GGUF files.")
@click.option("--context", default=0, metavar="TOKENS", type=click.IntRange(0, 1 << 20),
              help="Tokens of one request, prompt and answer.")  # fmt: skip
@click.option("--slots", default=0, metavar="COUNT", type=click.IntRange(0, 256),
              help="Requests that are answered at the same time.")  # fmt: skip
@click.option("--engine", default="", metavar="NAME",
              type=click.Choice(["", "auto", "llama-server", "xllamacpp", "transformers", "vllm"]),
              help="What runs it; the first that can if left out.")  # fmt: skip
@click.option("--share/--no-share", default=None,
              help="Whether it is offered to the peers that serve.peers names.")  # fmt: skip
@click.option("--via-peers/--no-via-peers", default=None,
              help="Whether peers answer when this node cannot; they see the prompt.")  # fmt: skip
@click.option("--upstream", default="", metavar="URL",
              help="Have an OpenAI-compatible server answer in an engine's place.")  # fmt: skip
@click.option("--upstream-model", default="", metavar="NAME", help="What it is called there.")
@click.option("--upstream-key-file", default="", metavar="FILE",
              help="File with the secret that that server wants.")  # fmt: skip
@click.option("--lazy", is_flag=True, help="Load it when somebody asks, not now.")
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR",
              help="Fetch it from this node first; may be given several times.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Take it from a publisher who is new here.")
def serve(run: Run, ref: str, upstream_key_file: str, **given: Any) -> int:
    """Serve a release behind an OpenAI-compatible endpoint.

    It is fetched first if it is not here. Where no node runs, one runs until Ctrl-C. What is served
    already keeps the options that are not given.
    """
    check_reference(ref)
    from node.presence import find_node

    key_file = str(Path(upstream_key_file).absolute()) if upstream_key_file else ""
    params = ServeParams(ref, upstream_key_file=key_file, ask=run.can_ask(), **given)
    if find_node(run.config().folders) is None:
        return _serve_here(run, params)
    try:
        found = run.call("serve", params, only_running=True)
    except Untrusted as exc:
        if not (run.can_ask() and run.ask(exc.message, "Take it?")):
            raise
        found = run.call("serve", replace(params, yes=True), only_running=True)
    return run.show(found, _served(found))


def check_reference(ref: str) -> None:
    """Tell who names a folder that it has to be published first; UsageError."""
    if ref.startswith((".", "/", "~")):
        raise UsageError(
            f"What is served is a release, and {ref[:80]!r} is a path.",
            next="Publish it first: `allod publish FOLDER --as NAME` prints the reference.",
        )


def _busy(model: Json) -> str:
    waiting = f" +{model['waiting']}" if model["waiting"] else ""
    return f"{model['busy']}/{model['slots']}{waiting}"


def _peers(model: Json) -> list[str]:
    """Say what peers have to do with a model."""
    words = {"shared": "may ask", "via_peers": "may answer"}
    return [text for key, text in words.items() if model[key]]


def _serve_here(run: Run, params: ServeParams) -> int:
    """Run a node for it, in this process, until Ctrl-C or SIGTERM."""
    from node.cli.start import run_node, start_logging

    run.note("No node runs here, so this command runs one; Ctrl-C ends it.")
    config = run.config()
    start_logging(config)

    async def then(node: "Node") -> None:
        from node.operations import OPERATIONS, perform

        found = await perform(node, OPERATIONS["serve"], params, run.listen)
        run.show(found, _served(found))

    return run_node(config, lambda status: None, then)


def _served(found: Json) -> list[str]:
    return [
        f"{found['model']} is served by {found['engine'] or 'peers'}, {found['state']}",
        f"manifest  {found['manifest']}",
        f"endpoint  {found['url']}",
        f'Now: eval "$(allod env)" for programs, or `allod run {found["model"]}` for you.',
    ]


@verb(example="allod ps")
def ps(run: Run) -> int:
    """List the models that are served, and what each takes."""
    import time

    found = run.call("ps", only_running=True)
    if not found["models"]:
        run.note("Nothing yet. `allod serve REF` serves a release.")
    rows = [
        (
            one["model"],
            one["state"],
            one["engine"],
            size_text(one["memory"]) if one["memory"] else "",
            str(one["context"] or ""),
            "" if one["state"] == "remote" else _busy(one),
            duration_text(max(0, one["until"] - time.time())) if one["until"] else "",
            ", ".join(_peers(one)),
        )
        for one in found["models"]
    ]
    lines = table(
        ("MODEL", "STATE", "ENGINE", "MEMORY", "CONTEXT", "BUSY", "IDLE IN", "PEERS"), rows
    )
    failed = [f"{one['model']}: {one['failure']}" for one in found["models"] if one["failure"]]
    failed += [f"{one['model']} cannot be served now: {one['failure']}" for one in found["lost"]]
    return run.show(found, [*lines, *failed])


@verb(example="allod stop alice/tiny-llm")
@click.argument("model")
def stop(run: Run, model: str) -> int:
    """Serve a model no longer, and end its engine.

    What peers may answer for they still do; stopped once more, it is gone.
    """
    found = run.call("stop", ModelParams(model), only_running=True)
    left = "is answered for by peers alone" if found["remote"] else "is served no longer"
    return run.show(found, [f"{found['model']} {left}"])
