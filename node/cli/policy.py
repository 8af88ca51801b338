"""Commands about whom this machine trusts, and what it takes and gives."""

import click

from node.cli.run import Run, verb
from node.cli.text import count_text, table
from node.messages import TrustAddParams, TrustDenyParams, TrustRmParams, TrustSubscribeParams


@click.group(epilog="\b\nExample:\n  allod trust list")
def trust() -> None:
    """Say whom this machine trusts, and what it denies."""


@verb(example="allod trust add bagaaiera... --as alice", group=trust)
@click.argument("publisher")
@click.option("--as", "petname", required=True, metavar="PETNAME",
              help="What you call the publisher.")  # fmt: skip
def add(run: Run, publisher: str, petname: str) -> int:
    """Trust a publisher, and give it a name that this machine knows it by.

    It is named by its id, by a share link, or by a release of it that is held here.
    """
    found = run.call("trust.add", TrustAddParams(publisher, petname))
    word = "is" if found["changed"] else "was already"
    return run.show(found, [f"{petname} {word} {found['publisher']}"])


@verb(example="allod trust rm alice", group=trust)
@click.argument("name")
def rm(run: Run, name: str) -> int:
    """Take a publisher's name, or a subscription, away again.

    What is here stays here; `allod rm` forgets a release.
    """
    found = run.call("trust.rm", TrustRmParams(name))
    if found["ref"]:
        return run.show(found, [f"no longer followed: {found['ref']}"])
    return run.show(found, [f"no longer trusted: {found['petname']}, {found['publisher']}"])


@verb(example="allod trust list", group=trust)
def list_(run: Run) -> int:
    """Show whom this machine trusts, what it follows and what it denies."""
    found = run.call("trust.list")
    publishers = [(one["petname"], one["publisher"], "trusted") for one in found["publishers"]]
    publishers += [("-", one["publisher"], f"seen {one['since']}") for one in found["seen"]]
    followed = [
        (one["ref"], one.get("version", "-"), one.get("manifest", "not fetched yet"))
        for one in found["subscriptions"]
    ]
    denied = [
        (one["file"], str(one["entries"]), f"{one['wrong']} unreadable" if one["wrong"] else "")
        for one in found["deny"]
    ]
    lines = [
        *table(("NAME", "PUBLISHER", "STATE"), publishers),
        *table(("SUBSCRIPTION", "VERSION", "MANIFEST"), followed),
        *table(("DENY LIST", "ENTRIES", ""), denied),
    ]
    rules = count_text(found["rules"], "rule")
    run.note(f"{found['file']}: {rules}; publishers who are new here: {found['tofu']}")
    return run.show(found, lines)


@verb(example="allod trust subscribe alice/policy", group=trust)
@click.argument("ref")
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR",
              help="Ask this node first; may be given several times.")  # fmt: skip
def subscribe(run: Run, ref: str, peers: tuple[str, ...]) -> int:
    """Follow the policy of a community: a dataset with a policy.toml in it.

    It can forbid more than you do, and name endorsers; it trusts nobody for you.
    """
    found = run.call("trust.subscribe", TrustSubscribeParams(ref, peers))
    rules = count_text(found["rules"], "rule")
    return run.show(found, [f"following {found['name']} {found['version']}: {rules}"])


@verb(example='allod trust deny bagaaiera... --reason "leaks personal data"', group=trust)
@click.argument("what")
@click.option("--reason", default="", metavar="TEXT",
              help="Why; whoever asks for it is told.")  # fmt: skip
def deny(run: Run, what: str, reason: str) -> int:
    """Neither take nor give this any more, whoever has signed it.

    It is named by its CID, by a release that is held, by a publisher's id or a did:key.
    """
    found = run.call("trust.deny", TrustDenyParams(what, reason))
    return run.show(found, [f"denied {found['denied']}"])
