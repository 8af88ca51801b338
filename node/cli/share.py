"""Commands that put models and datasets into the network, get them, and tidy the store."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from node.cli.explained import explained
from node.cli.run import Run, verb
from node.cli.text import count_text, size_text, table
from node.messages import FetchParams, GcParams, PublishParams, RefParams, VerifyParams
from p2p.errors import Untrusted

_offline = click.option("--offline", is_flag=True, help="Touch no network.")
_ref = click.argument("ref")


@verb(example="allod publish ./tiny-llm --as tiny-llm --license Apache-2.0")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--as", "name", required=True, metavar="NAME", help="The release's name.")
@click.option("--kind", type=click.Choice(["model", "dataset"]),
              help="What it is; told from the content if left out.")  # fmt: skip
@click.option("--version", default="", metavar="VERSION", help="The release's version.")
@click.option("--license", default="", metavar="SPDX",
              help="The licence; read from the model card if left out.")  # fmt: skip
@click.option("--base", multiple=True, metavar="REF", help="A model that it was made from.")
@click.option("--data", multiple=True, metavar="REF", help="A dataset that it was trained on.")
@click.option("--consent-basis", default="", metavar="TEXT",
              help="Why the data in it may be used.")  # fmt: skip
@click.option("--personal-data", default="", metavar="TEXT",
              help="Which personal data are in it; none if there are none.")  # fmt: skip
@click.option("--allowed-use", "allowed_uses", multiple=True, metavar="TEXT",
              help="A use that is allowed; may be given several times.")  # fmt: skip
@click.option("--redistribution/--no-redistribution", default=None,
              help="Whether others may pass it on.")  # fmt: skip
@click.option("--contact", default="", metavar="TEXT", help="Whom to ask about it.")
@click.option("--consent-expires", default="", metavar="DATE",
              help="The last day on which the data may be used, such as 2030-12-31.")  # fmt: skip
@click.option("--description", default="", metavar="TEXT", help="What it is, in a sentence.")
@click.option("--croissant/--no-croissant", default=True,
              help="Whether a dataset that has no croissant.json gets one.")  # fmt: skip
@click.option("--profile", default="", metavar="PROFILE",
              help="How files are cut: tensor-1m, fixed-1m or unixfs-v1-2025.")  # fmt: skip
@click.option("--key", default="", metavar="NAME", help="The publisher key that signs.")
@click.option("--web-seed", "web_seeds", multiple=True, metavar="URL",
              help="A web folder that holds the same files.")  # fmt: skip
@click.option("--no-sha256", is_flag=True,
              help="Make no model.sig, which takes the SHA-256 of every file.")  # fmt: skip
@_offline
def publish(run: Run, folder: Path, kind: str | None, no_sha256: bool, **given: Any) -> int:
    """Publish a folder, or a single file.

    It is hashed where it lies, signed, listed by its publisher and announced. The last line printed
    is the link to share.
    """
    given["offline"] |= run.config().p2p.offline  # by ALLOD_OFFLINE, or in the file
    params = PublishParams(
        folder=str(folder.absolute()), kind=kind or "", sha256=not no_sha256, **given
    )
    found = run.call("publish", params, flags=_flags(params.offline))
    moved = found["bytes"]
    lines = []
    if not run.quiet:
        lines.append(
            f"published {given['name'].partition('@')[0]} {found['version']}: "
            f"{count_text(len(found['files']), 'file')}, {size_text(moved['total'])}, "
            f"of which {size_text(moved['new'])} are new here"
        )
    return run.show(found, [*lines, found["ref"]])


@verb(example="allod fetch alice/tiny-llm --include '*.safetensors'")
@_ref
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR",
              help="Ask this node first; may be given several times.")  # fmt: skip
@click.option("--include", multiple=True, metavar="GLOB", help="Only files that match.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="No files that match.")
@click.option("--tensor", "tensors", multiple=True, metavar="GLOB",
              help="Only tensors that match, as a smaller safetensors file.")  # fmt: skip
@click.option("--local-dir", type=click.Path(path_type=Path), metavar="DIR",
              help="Put the files into this folder too.")  # fmt: skip
@click.option("--hf-cache", is_flag=False, flag_value="", metavar="[DIR]", type=click.Path(),
              help="Put them into Hugging Face's cache too.")  # fmt: skip
@click.option("--revision", default="", metavar="VERSION", help="This version, or manifest CID.")
@click.option("--dry-run", is_flag=True, help="Say how many bytes would be fetched, no more.")
@click.option("--pin/--no-pin", default=True, help="Whether gc leaves it alone (it does).")
@click.option("-y", "--yes", is_flag=True, help="Trust a publisher who is new here.")
@click.option("--explain", is_flag=True, help="Say afterwards who sent what, and what was slow.")
@_offline
def fetch(run: Run, local_dir: Path | None, hf_cache: str | None, **given: Any) -> int:
    """Fetch a release, or a part of it.

    By name it is the newest version, and the same command again fetches what changed since. Every
    byte is verified; what was interrupted goes on where it was. The last line printed is the folder
    that the files lie in.
    """
    folder = str(local_dir.absolute()) if local_dir else ""
    given["offline"] |= run.config().p2p.offline
    if hf_cache is not None:
        from node.cli.hub import hub_cache

        given["hf_cache"] = str(Path(hf_cache).absolute()) if hf_cache else hub_cache()
    params = FetchParams(local_dir=folder, ask=run.can_ask(), **given)
    try:
        try:
            found = run.call("fetch", params, flags=_flags(params.offline))
        except Untrusted as exc:
            if not params.ask or not run.ask(
                exc.message.partition(": ")[2], "Trust this publisher?"
            ):
                raise
            found = run.call("fetch", replace(params, yes=True), flags=_flags(params.offline))
    except KeyboardInterrupt:
        run.note("Interrupted. The same command goes on where it was.")
        raise
    moved = found["bytes"]
    lines = explained(found["explain"]) if "explain" in found else []
    if params.dry_run:
        text = f"would fetch {size_text(moved['total'] - moved['local'])}"
        return run.show(found, [*lines, f"{text}; {size_text(moved['local'])} are here already"])
    if not run.quiet:
        sources = count_text(len(found["sources"]), "source")
        lines.append(
            f"fetched {size_text(moved['fetched'])} from {sources}; "
            f"{size_text(moved['local'])} were here already"
            if found["sources"]
            else f"nothing to fetch; {size_text(moved['local'])} were here already"
        )
        lines += [f"banned {one['peer']}: {one['reason']}" for one in found["banned"]]
        if "hfCache" in found:
            lines.append(f"in the Hugging Face cache as {found['hfCache']['repo']}")
    return run.show(found, [*lines, *([found["path"]] if found.get("path") else [])])


def _flags(offline: bool) -> dict[str, str]:
    return {"p2p.offline": "true"} if offline else {}


@verb(example="allod ls --json")
def ls(run: Run) -> int:
    """List the releases that this machine holds.

    A `?` stands for a publisher whom you call nothing: `allod trust add` gives a name.
    """
    found = run.call("ls")
    if not found["releases"]:
        run.note("Nothing yet: `allod publish` or `allod fetch` brings the first release.")
    rows = [
        (
            f"{one.get('petname') or '?'}/{one['name']}", one["version"], one["kind"],
            size_text(one["size"]), one["license"] or "-", one.get("verdict", ""),
            ("" if one["complete"] else "partial ") + ("pinned" if one["pinned"] else ""),
            one["manifest"],
        )
        for one in found["releases"]
    ]  # fmt: skip
    head = ("NAME", "VERSION", "KIND", "SIZE", "LICENCE", "VERDICT", "STATE", "MANIFEST")
    return run.show(found, table(head, rows))


@verb(example="allod rm alice/tiny-llm@1.2.0")
@_ref
def rm(run: Run, ref: str) -> int:
    """Forget a release.

    `allod gc` then frees what no other release needs.
    """
    found = run.call("rm", RefParams(ref))
    return run.show(found, [f"removed {found['ref']}"])


@verb(example="allod pin alice/tiny-llm")
@_ref
def pin(run: Run, ref: str) -> int:
    """Keep a release, whatever gc does."""
    found = run.call("pin", RefParams(ref))
    return run.show(found, [f"pinned {found['ref']}"])


@verb(example="allod unpin alice/tiny-llm")
@_ref
def unpin(run: Run, ref: str) -> int:
    """Let gc have a release when room is needed."""
    found = run.call("unpin", RefParams(ref))
    return run.show(found, [f"unpinned {found['ref']}"])


@verb(example="allod gc --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, no more.")
def gc(run: Run, dry_run: bool) -> int:
    """Delete every file that no pinned release needs."""
    found = run.call("gc", GcParams(dry_run))
    did = "would free" if dry_run else "freed"
    files = count_text(found["files"], "file")
    return run.show(found, [f"{did} {size_text(found['bytes'])} in {files}"])


@verb(example="allod verify alice/tiny-llm")
@click.argument("ref", required=False, default="")
def verify(run: Run, ref: str) -> int:
    """Hash a release, or the whole store, again.

    What is damaged is set aside; the next fetch repairs just that.
    """
    found = run.call("verify", VerifyParams(ref))
    lines = [f"damaged {one['path']} at byte {one['offset']}" for one in found["damaged"]]
    leaves = found["leaves"]
    lines.append(f"{leaves['checked']} leaves checked, {leaves['bad']} bad")
    return run.show(found, lines)
