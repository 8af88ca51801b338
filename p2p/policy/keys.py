"""Every key that a policy can have: what it takes, what holds without it, what it means.

The reader refuses keys that are not here, and the reference page is compared with this table.
``x[]`` is a table that may come several times, ``x.*`` one whose keys the owner chooses.
Pure data.
"""

from dataclasses import dataclass
from typing import Final

from p2p.policy.model import FORMATS
from p2p.policy.web import HUB_HOSTS


@dataclass(frozen=True, slots=True)
class Key:
    """A key: its full name, what it expects, its default as written, and its meaning."""

    name: str
    expects: str
    default: str
    meaning: str
    community: bool = True
    """Whether the policy of a community may have it."""


_NEED: Final = (
    ("count", "a whole number from 1 to 64", "1", "how many different ones"),
    ("by", "a list of names of [publishers], publisher ids or did:keys", "all who are trusted",
     "whose word counts"),
)  # fmt: skip
_AGE: Final = (
    "max_age", "an age such as 90d, 12h, 4w or 1y", "any age", "how old the newest may be"
)  # fmt: skip


def _needs(name: str, what: str, *, aged: bool) -> tuple[Key, ...]:
    rows = [*_NEED, _AGE] if aged else [*_NEED]
    return tuple(
        Key(f"rules[].require.{name}.{key}", expects, default, f"{what}: {meaning}")
        for key, expects, default, meaning in rows
    )


KEYS: Final = (
    Key("publishers.*", "a publisher id", "none",
        "petnames: whom you trust, and by which name"),
    Key("tofu", "ask, never or always", "ask",
        "what to do about a publisher who is new here", community=False),
    Key("stale", "refuse or warn", "refuse",
        "what to do when a name leads through metadata that has expired", community=False),
    Key("deny", "a list of files", "none", "deny lists, from the folder of this file on"),
    Key("subscribe[].ref", "a reference", "required",
        "a dataset whose policy.toml is a community's policy", community=False),
    Key("subscribe[].endorsers", "true or false", "true",
        "whether its publishers count where a rule of yours names nobody", community=False),
    Key("web.seeds", "allow or never", "allow",
        "whether web servers that a release names are asked for its files, where no node has them",
        community=False),
    Key("web.hosts", "a list of names such as example.org or *.example.org",
        ", ".join(HUB_HOSTS), "which of them, if all their addresses are public", community=False),
    Key("web.local_hosts", "a list of names or addresses, each with :port unless that is 443",
        "none", "servers that may also have private addresses", community=False),
    Key("rules[].kind", "model, dataset, or a list", "all", "releases of this kind"),
    Key("rules[].publisher", "a name of [publishers], a publisher id, or a list", "all",
        "releases of these publishers"),
    Key("rules[].name", "a pattern such as llama-*, or a list", "all",
        "releases whose name matches"),
    Key("rules[].refuse", "a reason", "none", "refuse all that the rule matches"),
    Key("rules[].licenses.allow", "a list of SPDX ids, patterns or families", "all",
        "every licence of a choice must be one of these"),
    Key("rules[].licenses.deny", "a list of SPDX ids, patterns or families", "none",
        "no licence of a choice may be one of these"),
    Key("rules[].formats", f"a list of {', '.join(FORMATS)}",
        "models: safetensors, gguf; datasets: all but pickle",
        "the formats that may be there besides plain data"),
    *_needs("signatures", "signatures of the release", aged=False),
    *_needs("endorsements", "endorsements that passed", aged=True),
    *_needs("evaluations", "evaluations that passed", aged=True),
    Key("rules[].lineage.depth", "a whole number from 0 to 64", "any",
        "how many generations of ancestors there may be"),
    Key("rules[].lineage.unknown", "allow or refuse", "allow",
        "what to do about ancestors whose statements are not here"),
    Key("rules[].lineage.revoked", "allow or refuse", "allow",
        "what to do about ancestors that were revoked or withdrawn"),
    Key("rules[].stale", "refuse or warn", "as `stale`",
        "as the key `stale`, for what the rule matches"),
)  # fmt: skip
