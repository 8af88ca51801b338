"""Commands about copies that this node helps to keep: pledge."""

import time
from typing import Any

import click

from node.cli.run import Run, verb
from node.cli.text import count_text, duration_text, exact_size_text, size_text, table
from node.messages import PledgeParams, RefParams


class Pledge(click.Group):
    """A group of which ``add`` is what is meant where none of its commands is named."""

    default = "add"

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the words name."""
        words = args if args[0] in self.commands else [self.default, *args]
        return super().resolve_command(ctx, words)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let the options of ``add`` stand before what is pledged, too."""
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


@click.group(cls=Pledge, epilog="\b\nExample:\n  allod pledge alice --keep 3 --max 200GB")
def pledge() -> None:
    """Help to keep healthy copies of releases.

    `allod pledge REF` is short for `allod pledge add REF`.
    """


@verb(example="allod pledge add alice --keep 3 --max 200GB", group=pledge)
@click.argument("ref", metavar="PUBLISHER|REF")
@click.option("--keep", type=int, default=3, metavar="COPIES",
              help="How many healthy copies there are to be.")  # fmt: skip
@click.option("--max", "max_", default="200GB", metavar="SIZE",
              help="The most that may be taken for it, such as 200GB, or none.")  # fmt: skip
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR",
              help="Ask this peer first; may be given several times.")  # fmt: skip
def add(run: Run, ref: str, keep: int, max_: str, peers: tuple[str, ...]) -> int:
    """Promise to help keep copies of a release, or of all releases of a publisher.

    The node that runs looks how many there are, and fetches where they are too few.
    """
    found = run.call("pledge.add", PledgeParams(ref, keep, max_, peers))
    most = "no limit" if found["max"] is None else f"at most {exact_size_text(found['max'])}"
    what = "all releases of " if found["kind"] == "publisher" else ""
    line = f"{what}{found['ref']}: {keep} {'copy' if keep == 1 else 'copies'}, {most}"
    return run.show(found, [line])


@verb(example="allod pledge list", group=pledge)
def list_(run: Run) -> int:
    """List what this node has pledged, and how each release stands.

    COPIES are those that lately proved that they have the bytes.
    """
    found = run.call("pledge.list")
    if not found["pledges"]:
        run.note("None yet: `allod pledge REF` makes one.")
    elif not found["running"]:
        run.note("No node runs, so nobody looks after them.")
    rows = [
        (
            f"{one['name'] or one['manifest']}{'@' + one['version'] if one['version'] else ''}",
            f"{'?' if one['healthy'] is None else one['healthy']}/{pledged['keep']}",
            "taken" if one["taken"] and one["held"] else "held" if one["held"] else "",
            "" if one["size"] is None else size_text(one["size"]),
            pledged["ref"],
            one["trouble"],
        )
        for pledged in found["pledges"]
        for one in pledged["releases"]
    ]
    empty = [one["ref"] for one in found["pledges"] if not one["releases"]]
    rows += [("nothing is known yet", "", "", "", ref, "") for ref in empty]
    head = ("RELEASE", "COPIES", "HERE", "SIZE", "PLEDGE", "")
    return run.show(found, [*table(head, rows), *map(_taken, found["pledges"])])


def _taken(pledged: dict[str, Any]) -> str:
    most = "" if pledged["max"] is None else f" of {exact_size_text(pledged['max'])}"
    return f"{pledged['ref']}: {size_text(pledged['taken'])}{most} taken"


@verb(example="allod pledge rm alice", group=pledge)
@click.argument("ref", metavar="PUBLISHER|REF")
def rm(run: Run, ref: str) -> int:
    """Take a pledge back.

    What was taken for it stays until `allod gc`, or until it is pinned.
    """
    found = run.call("pledge.rm", RefParams(ref))
    freed = f"{count_text(found['releases'], 'release')}, {size_text(found['bytes'])}"
    return run.show(found, [f"{found['ref']}: {freed} may go now"])


def show_copies(run: Run, ref: str) -> int:
    """Show how many healthy copies of a release there are: ``allod status REF``."""
    found = run.call("copies", RefParams(ref))
    now, here = time.time(), found["here"]
    of = "" if found["keep"] is None else f"/{found['keep']}"
    mine = "yes" if here["whole"] else "on its way" if here["fetching"] else "no"
    mine += ", for a pledge" if here["taken"] else ""
    rows = [
        (
            one["peer"],
            "healthy" if one["healthy"] else "not counted" if one["whole"] else "in part",
            one["why"] or (f"proved {_ago(now, one['proved'])}" if one["proved"] else ""),
        )
        for one in found["copies"]
    ]
    lines = [
        f"{found['name']}@{found['version']}",
        f"copies     {found['healthy']}{of}, as seen {_ago(now, found['checked'])}",
        f"here       {mine}",
        *([f"trouble    {found['trouble']}"] if found["trouble"] else []),
        *table(("PEER", "COPY", ""), rows),
    ]
    return run.show(found, lines)


def _ago(now: float, at: float | None) -> str:
    return "never" if at is None else f"{duration_text(max(0.0, now - at))} ago"
