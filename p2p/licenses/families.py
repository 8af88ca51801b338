"""What kind of licence each is, and what it obliges to.

A licence is in one or several families: CC-BY-NC-SA-4.0 is a data licence, non-commercial, and
asks that what is made from it stays under it. For the hundreds that SPDX lists, the category of
the licence-expression library says which; the tables here add what that leaves out: the terms of
Creative Commons and of the data licences, those that reach over a network, and the licences of
well-known models, which SPDX does not list and which are recognised by the names that model cards
use.

Pure. Knows names only, not the texts of licences.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from p2p.licenses.expressions import choices

Family = Literal[
    "permissive",
    "weak-copyleft",
    "strong-copyleft",
    "network-copyleft",
    "share-alike",
    "non-commercial",
    "no-derivatives",
    "use-restricted",
    "data",
    "unknown",
]
FAMILIES: Final[tuple[Family, ...]] = get_args(Family)

OBLIGATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "attribution": "Name the authors and pass the licence on.",
        "disclose-source": "Give the source to whoever gets a copy.",
        "disclose-source-network": "Give the source also to whoever uses it over a network.",
        "same-license-files": "Keep changed parts under the same licence.",
        "same-license": "Publish what is made from it under the same licence.",
        "non-commercial": "Use it for no commercial purpose.",
        "no-derivatives": "Publish nothing that is made from it.",
        "use-restrictions": "Keep to the uses that it allows, and bind others to them.",
        "ask": "Find out what it asks: its terms are not known here.",
    }
)
"""What licences oblige to, in a sentence each."""

_OBLIGES: Final[Mapping[Family, tuple[str, ...]]] = {
    "permissive": ("attribution",),
    "weak-copyleft": ("attribution", "same-license-files"),
    "strong-copyleft": ("attribution", "disclose-source", "same-license"),
    "network-copyleft": ("attribution", "disclose-source-network", "same-license"),
    "share-alike": ("attribution", "same-license"),
    "non-commercial": ("attribution", "non-commercial"),
    "no-derivatives": ("attribution", "no-derivatives"),
    "use-restricted": ("attribution", "use-restrictions"),
    "data": (),
    "unknown": ("ask",),
}
# How much a family asks, to find the choice of an OR that asks the least.
_WEIGHT: Final[Mapping[Family, int]] = {
    "data": 0,
    "permissive": 1,
    "weak-copyleft": 2,
    "share-alike": 4,
    "strong-copyleft": 5,
    "network-copyleft": 8,
    "use-restricted": 16,
    "non-commercial": 32,
    "no-derivatives": 64,
    "unknown": 128,
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a licence expression means.

    ``known``: it could be read, and no licence in it is unknown. Of several choices (OR) the one
    that asks the least is described, since that is the one to take.
    """

    expression: str
    known: bool
    obligations: tuple[str, ...]
    families: frozenset[Family]


def read_terms(expression: str) -> Terms:
    """Say what an expression means; of one that nobody can read, that it is unknown. Never fails.

    An empty expression is one as well: nothing stated is nothing granted.
    """
    weighed = choices(expression)
    if weighed is None:
        return Terms(expression, False, ("ask",), frozenset({"unknown"}))
    choice = min(weighed, key=lambda one: (weight(families_of(one)), not one <= _FREE))
    families = families_of(choice)
    asked = {one for family in families for one in _OBLIGES[family]} if choice - _FREE else set()
    obligations = tuple(one for one in OBLIGATIONS if one in asked)
    return Terms(expression, "unknown" not in families, obligations, families)


def families_of(licenses: frozenset[str]) -> frozenset[Family]:
    """Return the families of licences that all hold together."""
    found: set[Family] = set()
    for license in licenses:
        found |= family(license)
    if len(found) > 1:
        found.discard("permissive")  # says nothing where another asks more
    if found == {"data"}:
        found.add("permissive")
    return frozenset(found)


def weight(families: frozenset[Family]) -> int:
    """Return how much these families ask together: more is stricter."""
    return sum(_WEIGHT[family] for family in families)


@lru_cache(maxsize=1024)  # names come from strangers too
def family(license: str) -> frozenset[Family]:
    """Return the families of one licence, as ``choices`` writes it."""
    name, _, exception = license.partition(" WITH ")
    name = name.rpartition(":")[2].removesuffix("+")  # DocumentRef-...:LicenseRef-...
    found = _listed(name) or _of_a_model(name.removeprefix("LicenseRef-").lower())
    if exception in _LINKING and "strong-copyleft" in found:
        return frozenset({"weak-copyleft"})
    return frozenset(found)


def _of_a_model(name: str) -> set[Family]:
    """Return the families of a licence that cards call so; of one that nobody knows, unknown."""
    for form, families in _MODELS:
        if form.search(name):
            return set(families)
    return {"unknown"}


def _listed(name: str) -> set[Family]:
    """Return the families of a licence that SPDX, or the library, lists; none of another."""
    found: set[Family] = set()
    if name in _DATA or name.startswith(("CC-BY", "CC0-", "CC-PDDC")):
        found.add("data")
    if _NON_COMMERCIAL.search(name):
        found.add("non-commercial")
    if re.search(r"-ND(-|$)", name):
        found.add("no-derivatives")
    if re.search(r"^CC-.*-SA(-|$)", name) or name.startswith(_SHARE_ALIKE):
        found.add("share-alike")
    if found - {"data"}:
        return found
    if name.startswith(_NETWORK):
        return {"network-copyleft"}
    kind = _CATEGORIES.get(_categories().get(name, ""))
    if name.startswith("C-UDA"):  # for computing only
        kind = "use-restricted"
    return found | {kind} if kind else set()


_FREE: Final = frozenset({"CC0-1.0", "CC-PDDC", "PDDL-1.0", "Unlicense", "0BSD", "WTFPL", "MIT-0"})
_DATA: Final = frozenset(
    {
        "C-UDA-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0",
        "DL-DE-BY-2.0", "DL-DE-ZERO-2.0", "LGPLLR", "ODC-By-1.0", "ODbL-1.0", "OGL-UK-3.0",
        "PDDL-1.0", "etalab-2.0",
    }
)  # fmt: skip
_SHARE_ALIKE: Final = ("ODbL-", "CDLA-Sharing-", "GFDL-")
_NETWORK: Final = ("AGPL-", "SSPL-", "OSL-", "NPOSL-", "CPAL-", "RPL-")
_NON_COMMERCIAL: Final = re.compile(r"-NC(-|$)|Noncommercial|NonCommercial|^NPOSL-|^Prosperity-")
_LINKING: Final = frozenset(
    {
        "Classpath-exception-2.0", "GCC-exception-2.0", "GCC-exception-3.1",
        "Linux-syscall-note", "LGPL-3.0-linking-exception", "GPL-3.0-linking-exception",
        "Font-exception-2.0", "u-boot-exception-2.0", "WxWindows-exception-3.1",
    }
)  # fmt: skip
"""Exceptions that let a work of other terms stand beside, which is what a weak copyleft does."""

_CATEGORIES: Final[Mapping[str, Family]] = {
    "Permissive": "permissive",
    "Public Domain": "permissive",
    "Copyleft Limited": "weak-copyleft",
    "Copyleft": "strong-copyleft",
    "Free Restricted": "use-restricted",
    "Source-available": "use-restricted",
    "Proprietary Free": "use-restricted",
    "Commercial": "use-restricted",
}


def _names(pattern: str, *families: Family) -> tuple[re.Pattern[str], tuple[Family, ...]]:
    return re.compile(pattern), families


_MODELS: Final = (
    # Before all others: a licence of one of the families below, for research only.
    _names(r"non-?commercial|non-?production|research|amlr|\bnc\b|deepfloyd|mnpl|\bmrl\b",
           "non-commercial", "use-restricted"),
    _names(r"\brail\b|openrail|bloom", "use-restricted"),
    _names(r"llama|gemma|falcon|qwen|tongyi|deepseek|hunyuan|grok|jamba|stab(le|ility)-?ai",
           "use-restricted"),
    _names(r"nvidia-open-model|nvidia-nemotron|kimi|minimax|exaone|glm-?4|yi-license|dbrx|phi-",
           "use-restricted"),
    # What asks less is matched whole: a longer name may add to it.
    _names(r"^(bsd|openmdw-1\.[01]|apple-ascl)$", "permissive"),
    _names(r"^lgpl$", "weak-copyleft"),
    _names(r"^gpl$", "strong-copyleft"),
    _names(r"^gfdl$", "share-alike"),
)  # fmt: skip
"""Licences that SPDX does not list, by the names that cards give them; the first that fits."""


@cache
def _categories() -> Mapping[str, str]:
    """Return the library's category of every licence, by its SPDX name."""
    from license_expression import get_license_index

    found: dict[str, str] = {}
    rows: list[dict[str, Any]] = get_license_index()
    for row in rows:
        for name in (row.get("spdx_license_key"), *row.get("other_spdx_license_keys", ())):
            if name:
                found.setdefault(name, row.get("category") or "")
    return found
