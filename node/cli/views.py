"""Commands that look at releases: search, files, provenance, why, impact."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from node.cli.lineage import draw
from node.cli.run import Run, verb
from node.cli.text import size_text, table
from node.messages import FilesParams, ProvenanceParams, RefParams, SearchParams

_ref = click.argument("ref")


@verb(example="allod provenance alice/tiny-llm --html tiny-llm.html")
@_ref
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE",
              help="Write it as one page that needs nothing else.")  # fmt: skip
@click.option("--save", type=click.Path(path_type=Path), metavar="DIR",
              help="Put the signed statements there, for other tools to verify.")  # fmt: skip
def provenance(run: Run, ref: str, html: Path | None, save: Path | None) -> int:
    """Show where a release comes from, and who signed it.

    The whole lineage is worked out anew from signatures, without the network.
    """
    params = ProvenanceParams(ref, str(save.absolute()) if save else "")
    found = run.call("provenance", params)
    lines = draw(found)
    if html is not None:
        from node.page import provenance_page

        page = provenance_page(found, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        html.write_text(page, encoding="utf-8")
        run.note(f"wrote {html}")
    if save is not None:
        saved = found["saved"]
        lines += ["", *(f"wrote {Path(saved['folder'], name)}" for name in saved["files"])]
        lines += ["", saved["command"]] if saved["command"] else []
    return run.show(found, lines)


@verb(example="allod files alice/tiny-llm")
@_ref
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR",
              help="Ask this peer first; may be given several times.")  # fmt: skip
def files(run: Run, ref: str, peers: tuple[str, ...]) -> int:
    """List what files a release has, here or elsewhere.

    Nothing of them is fetched. HERE says which are in this store already.
    """
    found = run.call("files", FilesParams(ref, peers))
    for warning in found["warnings"]:
        run.note(warning)
    rows = [
        (one["path"], size_text(one["size"]), "yes" if one["held"] else "-", one["cid"])
        for one in found["files"]
    ]
    return run.show(found, table(("PATH", "SIZE", "HERE", "CID"), rows))


@verb(example="allod why alice/tiny-llm")
@_ref
def why(run: Run, ref: str) -> int:
    """Name the rule and the evidence behind a yes or a no.

    The rule is named as it stands in policy.toml; `default` is what holds where nothing does.
    """
    found = run.call("why", RefParams(ref))
    lines = [f"{found['verdict']}, by the rule {found['rule']}", found["reason"]]
    lines += [f"  {one}" for one in found["evidence"]]
    lines += [found["next"]] if found.get("next") else []
    return run.show(found, lines)


@verb(example="allod impact alice/words")
@_ref
def impact(run: Run, ref: str) -> int:
    """List the releases that are known to descend from one.

    Looked through are the releases that are held here, and the lists of all publishers known here.
    """
    found = run.call("impact", RefParams(ref))
    if not found["releases"]:
        run.note("Nothing that this machine knows of descends from it.")
    rows = [
        (
            "  " * (one["depth"] - 1) + _called(one), one["version"], one["kind"],
            "held" if one["held"] else "-", one["status"]["state"] if one["status"] else "-",
            one["manifest"],
        )
        for one in found["releases"]
    ]  # fmt: skip
    head = ("RELEASE", "VERSION", "KIND", "HERE", "STATUS", "MANIFEST")
    return run.show(found, table(head, rows))


@verb(example="allod search tiny llm --kind model")
@click.argument("words", nargs=-1, required=True)
@click.option("--kind", type=click.Choice(["model", "dataset"]), help="Only these.")
@click.option("--all", "everything", is_flag=True,
              help="Earlier versions too, and what was taken back.")  # fmt: skip
def search(run: Run, words: tuple[str, ...], kind: str | None, everything: bool) -> int:
    """Find releases by words, among the publishers known to this machine.

    The network is not asked: searched are names, descriptions, and the cards of what is held.
    """
    found = run.call("search", SearchParams(words, kind or "", everything))
    if not found["results"]:
        run.note("Nothing. `allod trust add ID --as NAME` makes another publisher known.")
    rows = [
        (
            _called(one), one["version"], one["kind"], one["license"] or "-",
            "held" if one["held"] else "-", one["description"][:60], one["ref"],
        )
        for one in found["results"]
    ]  # fmt: skip
    head = ("RELEASE", "VERSION", "KIND", "LICENCE", "HERE", "DESCRIPTION", "REF")
    return run.show(found, table(head, rows))


def _called(one: dict[str, Any]) -> str:
    return f"{one['petname'] or one['publisher'][:16]}/{one['name']}"
