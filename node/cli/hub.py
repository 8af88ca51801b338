"""Commands about the Hugging Face Hub: import. Also where its clients keep their cache here.

The environment of the command counts, and not that of a node that runs: which Hub, which cache,
whether there is a network. So the command asks huggingface_hub for them and hands them on.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from node.cli.run import Run, verb
from node.cli.text import count_text, size_text, table
from node.messages import ImportParams


def hub_cache() -> str:
    """Return the folder in which Hugging Face's clients of this user keep what they download."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(Path(HF_HUB_CACHE).expanduser().absolute())


def _endpoint(run: Run) -> str:
    """Return the Hub that the user's clients ask, or the Hub itself if that is this node."""
    from huggingface_hub.constants import ENDPOINT

    from node.hub.origin import HUB
    from node.presence import find_node

    presence = find_node(run.config().folders)
    if presence is not None and urlsplit(presence.http).netloc == urlsplit(ENDPOINT).netloc:
        run.note(f"HF_ENDPOINT is this node, so {HUB} is asked.")
        return HUB
    return ENDPOINT


@verb(example="allod import hf:org/tiny-llm@main")
@click.argument("ref", metavar="hf:[datasets/]ORG/REPO[@REVISION]")
@click.option("--as", "name", default="", metavar="NAME",
              help="The release's name; ORG--REPO if left out.")  # fmt: skip
@click.option("--include", multiple=True, metavar="GLOB", help="Only files that match.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="No files that match.")
@click.option("--license", default="", metavar="SPDX",
              help="The licence; read from the card if left out.")  # fmt: skip
@click.option("--description", default="", metavar="TEXT", help="What it is, in a sentence.")
@click.option("--key", default="", metavar="NAME", help="The publisher key that signs.")
@click.option("--profile", default="", metavar="PROFILE",
              help="How files are cut: tensor-1m, fixed-1m or unixfs-v1-2025.")  # fmt: skip
@click.option("--no-sha256", is_flag=True,
              help="Make no model.sig, which takes the SHA-256 of every file.")  # fmt: skip
@click.option("--dry-run", is_flag=True,
              help="Say what would be imported and downloaded, no more.")  # fmt: skip
@click.option("--offline", is_flag=True,
              help="Touch no network: import what Hugging Face's cache holds.")  # fmt: skip
def import_(run: Run, no_sha256: bool, **given: Any) -> int:
    """Import a model or dataset from the Hugging Face Hub.

    Taken from the cache of Hugging Face's clients as far as it is there, checked against the Hub's
    hashes, and published as with `allod publish`. The last line printed is the link to share.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    given["offline"] |= run.config().p2p.offline
    params = ImportParams(
        sha256=not no_sha256,
        cached_only=given["offline"] or HF_HUB_OFFLINE,
        cache=hub_cache(),
        endpoint=_endpoint(run),
        **given,
    )
    flags = {"p2p.offline": "true"} if params.offline else {}
    try:
        found = run.call("import", params, flags=flags)
    except KeyboardInterrupt:
        run.note("Interrupted. The same command goes on with the files that are not there yet.")
        raise
    moved = found["bytes"]
    if params.dry_run:
        rows = [
            (one["path"], size_text(one["size"]), "cached" if one["cached"] else "to download")
            for one in found["files"]
        ]
        text = f"would download {size_text(moved['download'])}"
        last = f"{text}; {size_text(moved['cached'])} are in the cache already"
        return run.show(found, [*table(("PATH", "SIZE", "STATE"), rows), last])
    lines = []
    if not run.quiet:
        lines.append(
            f"imported {found['origin']}: {count_text(len(found['files']), 'file')}, "
            f"{size_text(moved['total'])}, of which {size_text(found['downloaded'])} were "
            "downloaded"
        )
    return run.show(found, [*lines, found["ref"]])
