"""The command by which a publisher says something of a release, of anybody's."""

from typing import Any, TextIO

import click

from node.cli.run import Run, verb
from node.messages import EndorseParams


@verb(example="allod endorse alice/tiny-llm@1.2.0 --result passed --note 'Runs as described.'")
@click.argument("ref")
@click.option("--result", type=click.Choice(["passed", "failed"]), default=None,
              help="What you found.")  # fmt: skip
@click.option("--policy", default="", metavar="URI", help="What you checked it by.")
@click.option("--note", default="", metavar="TEXT", help="A line for people.")
@click.option("--evaluation", type=click.File(encoding="utf-8"), metavar="FILE",
              help="Sign this in-toto test result instead, in JSON.")  # fmt: skip
@click.option("--review", default="", metavar="TEXT", help="Sign a review instead.")
@click.option("--as", "key", default="", metavar="PUBLISHER", help="The publisher key that signs.")
def endorse(run: Run, result: str | None, evaluation: TextIO | None, **given: Any) -> int:
    """Say of a release that it passed or failed.

    What you say is signed, kept with the release, and passed on with it.
    """
    text = evaluation.read() if evaluation is not None else ""
    found = run.call("endorse", EndorseParams(result=result or "", evaluation=text, **given))
    said = found["kind"] + (f", {found['result']}" if found["result"] else "")
    return run.show(found, [f"signed as {found['did']}: {said}", found["ref"]])
