"""What the owner wrote: config.toml, policy.toml, deny lists, subscriptions.

All functions block for some disk accesses; a deny list of many megabytes takes seconds to read.
"""

from collections.abc import Iterator

from node.config import Config, load_config
from node.doctor.finding import Finding, count_text
from node.rulebook import POLICY, Rulebook
from node.settings import settings
from p2p.errors import ConfigError


def look_at_config(config: Config, *, running: bool) -> Iterator[Finding]:
    """Read the configuration again; with a running node, say what it does not know yet."""
    file = config.folders.config_file
    try:
        written = load_config()
    except ConfigError as exc:
        fix = exc.next or f"Mend {file} with an editor."
        yield Finding("config", "problem", exc.message, fix)
        return
    differ = [
        one.key
        for one in settings()
        if config.origins.get(one.key) != "on the command line"
        and config.value(one.key) != written.value(one.key)
    ]
    if running and differ:
        text = f"The running node does not know yet what changed: {', '.join(differ)}."
        yield Finding("config", "note", text, "Start it again to have that hold.")
    else:
        chosen = sum(one != "default" for one in config.origins.values())
        where = str(file) if file.exists() else f"{file} is not there, and need not be"
        yield Finding("config", "ok", f"{count_text(chosen, 'key')} set; {where}.")


def look_at_policy(config: Config) -> Iterator[Finding]:
    """Read the policy with its deny lists and communities, as the node does."""
    communities = config.folders.data / "trust" / "communities"
    rulebook = Rulebook(config.folders.config_file.parent, communities)
    try:
        policy = rulebook.load()
    except ConfigError as exc:
        fix = exc.next or f"Mend {rulebook.file} with an editor."
        yield Finding("policy", "problem", f"{exc.message} Nothing is let in until then.", fix)
        return
    lists = [*policy.lists, *(one for each in policy.communities for one in each.policy.lists)]
    text = f"{count_text(len(policy.publishers), 'publisher')} trusted, "
    text += f"{count_text(len(policy.subscriptions), 'subscription')}, "
    text += f"{count_text(sum(map(len, lists)), 'line')} in {count_text(len(lists), 'deny list')}."
    wrong = sum(one.wrong for one in lists)
    if wrong:
        names = ", ".join(one.name for one in lists if one.wrong)
        said = f"{text} {count_text(wrong, 'line')} could not be read, in {names}."
        yield Finding("policy", "warning", said, "Mend these lines: they deny nothing.")
    else:
        yield Finding("policy", "ok", text)
    for one in policy.subscriptions:
        if not (rulebook.community(one.ref) / POLICY).exists():
            text = f"The policy of {one.ref} was never fetched, so it says nothing here yet."
            yield Finding("policy", "warning", text, f"allod trust subscribe {one.ref}")
