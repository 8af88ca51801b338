"""Commands that carry a release, with everything that proves it, where there is no network."""

from dataclasses import replace
from pathlib import Path

import click

from node.cli.run import Run, verb
from node.cli.text import count_text, size_text
from node.messages import BundleExportParams, BundleImportParams
from p2p.errors import Untrusted


@click.group(epilog="\b\nExample:\n  allod bundle export alice/tiny-llm tiny.car")
def bundle() -> None:
    """Carry releases, with all that proves them, in one file."""


@verb(example="allod bundle export alice/tiny-llm /media/disk/tiny.car", group=bundle)
@click.argument("ref")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--lean", is_flag=True, help="Of its ancestors take the statements alone.")
@click.option("--partial", is_flag=True, help="Leave out what this machine does not hold.")
def export(run: Run, ref: str, file: Path, lean: bool, partial: bool) -> int:
    """Write a release into one file, with its ancestors and all signatures.

    The last word printed is the file's own address: who reads the same one has the same bytes.
    """
    params = BundleExportParams(ref, str(file.absolute()), lean, partial)
    found = run.call("bundle.export", params)
    lines = []
    if not run.quiet:
        count = count_text(len(found["releases"]), "release")
        lines.append(f"wrote {found['file']}: {count}, {size_text(found['size'])}")
        lines += [f"left out {cid}: not held here" for cid in found["missing"]]
    return run.show(found, [*lines, found["bundle"]])


@verb(example="allod bundle import /media/disk/tiny.car", group=bundle)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--pin/--no-pin", default=True, help="Whether gc leaves it alone (it does).")
@click.option("--lean", is_flag=True, help="Of its ancestors keep the statements alone.")
@click.option("--dry-run", is_flag=True, help="Check the whole file, keep nothing.")
@click.option("-y", "--yes", is_flag=True, help="Trust a publisher who is new here.")
def import_(run: Run, file: Path, pin: bool, lean: bool, dry_run: bool, yes: bool) -> int:
    """Take in a file that `bundle export` wrote, with no network at all.

    Every byte is verified; one wrong bit, and the file is refused by the name of what it is in.
    The last line printed is the folder that the files lie in.
    """
    params = BundleImportParams(str(file.absolute()), pin, dry_run, lean, yes, run.can_ask())
    try:
        found = run.call("bundle.import", params)
    except Untrusted as exc:
        if not params.ask or not run.ask(exc.message.partition(": ")[2], "Trust this publisher?"):
            raise
        found = run.call("bundle.import", replace(params, yes=True))
    lines = []
    if not run.quiet:
        did = "is whole:" if dry_run else "is in this store:"
        count = count_text(len(found["releases"]), "release")
        lines.append(
            f"{file} {did} {count}, {size_text(found['bytes']['total'])}, "
            f"of which {size_text(found['bytes']['new'])} are new here"
        )
        lines += [f"not in it: the ancestor {cid}" for cid in found["missing"]]
    return run.show(found, [*lines, *([found["path"]] if found["path"] else [])])
