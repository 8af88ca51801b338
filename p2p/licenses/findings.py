"""What does not fit between a release and what it was made from.

A parent's licence may oblige whatever is made from it; a finding is an obligation that the child's
licence does not keep. It is a *problem* where the child is plainly made from the parent (a
fine-tune, a merge, a quantised model, data made from data), and a *notice* where people disagree,
as they do about models and the data that those were trained on, or where nothing is known.

Where a parent leaves a choice (OR) the child may take the best; where the child does, whoever gets
it may take any, so each has to fit.

Pure. No legal advice; see the package's docstring.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from p2p.licenses.expressions import choices
from p2p.licenses.families import Family, Terms, families_of, family

TRAINED_ON: Final = "dataset"
"""The role of data that a model was trained on: whether that makes it a derivative is unsettled."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not fit: the rule, a sentence, the child's licence, the parent's name."""

    level: Literal["problem", "notice"]
    rule: str
    text: str
    child: str
    parent: str


def findings(child: Terms, parents: Sequence[tuple[str, str, Terms]]) -> tuple[Finding, ...]:
    """Return what does not fit between a licence and those of its parents: (role, name, terms).

    Problems come first, then notices, each in the order of the parents.
    """
    found: list[Finding] = []
    for role, name, parent in parents:
        found += _between(child, role, name, parent)
    return tuple(sorted(found, key=lambda one: one.level != "problem"))


def _between(child: Terms, role: str, name: str, parent: Terms) -> list[Finding]:
    """Return what does not fit between a child and one parent."""

    def finding(level: Literal["problem", "notice"], rule: str, text: str) -> Finding:
        return Finding(level, rule, text, child.expression, name)

    if not parent.expression:
        text = f"{name} states no licence, so nothing says that this may be made from it."
        return [finding("notice", "unlicensed", text)]
    offered, taken = choices(parent.expression), choices(child.expression)
    if offered is None or not parent.known:
        text = f"The terms of {parent.expression} ({name}) are not known here: read them."
        return [finding("notice", "unknown", text)]
    if taken is None:
        text = f"{name} is under {parent.expression}, and this states no licence that keeps to it."
        asks = parent.families - {"permissive", "data"}
        return [finding("notice", "unlicensed", text)] if asks else []
    worst = max(
        (min((_breaks(mine, theirs) for theirs in offered), key=_count) for mine in taken),
        key=_count,
    )
    found = [
        finding(level, rule, text.format(parent=f"{name} ({parent.expression})",
                                         child=child.expression))
        for rule, (level, text) in worst.items()
    ]  # fmt: skip
    if role == TRAINED_ON:
        found = [replace(one, level="notice") for one in found]
    return found


_Level = Literal["problem", "notice"]
_Broken = Mapping[str, tuple[_Level, str]]


def _breaks(mine: frozenset[str], theirs: frozenset[str]) -> _Broken:
    """Return the rules that a child under ``mine`` breaks, of a parent under ``theirs``."""
    child, parent = families_of(mine), families_of(theirs)
    found: dict[str, tuple[_Level, str]] = {}
    if "no-derivatives" in parent:
        found["no-derivatives"] = (
            "problem",
            "{parent} may be passed on, but nothing that is made from it may be published.",
        )
    if "non-commercial" in parent and "non-commercial" not in child:
        found["non-commercial"] = (
            _certain(child),
            "{parent} allows no commercial use, and {child} does not keep to that.",
        )
    for license in sorted(theirs):
        kinds = family(license)
        if kinds & _SAME and not _keeps(license, mine):
            found["share-alike"] = (
                _certain(child),
                "What is made from {parent} has to stay under the same terms, "
                "and {child} are others.",
            )
        elif "weak-copyleft" in kinds and not _keeps(license, mine):
            found["same-files"] = (
                "notice",
                "Parts that come from {parent} stay under its terms, which {child} does not name.",
            )
        if "use-restricted" in kinds and "use-restricted" not in child:
            found["use-restrictions"] = (
                _certain(child),
                "{parent} binds whoever gets what is made from it to its list of uses, "
                "and {child} binds them to none.",
            )
        elif "use-restricted" in kinds and not _keeps(license, mine):
            found["use-restrictions"] = (
                "notice",
                "{parent} and {child} both restrict uses: see that the one contains the other.",
            )
    return found


_SAME: Final[frozenset[Family]] = frozenset({"strong-copyleft", "network-copyleft", "share-alike"})


def _certain(child: frozenset[Family]) -> _Level:
    """Return how sure a contradiction is: the child's licence may say more than is known of it."""
    return "notice" if "unknown" in child else "problem"


def _count(broken: _Broken) -> tuple[int, int]:
    problems = sum(level == "problem" for level, _ in broken.values())
    return problems, len(broken)


# Licences under which what comes under another may be published too, by the licences' own words.
_ALSO: Final[Mapping[str, tuple[str, ...]]] = {
    "GPL": ("AGPL",),
    "LGPL": ("GPL", "AGPL"),
    "CC-BY-SA": ("GPL",),
    "EUPL": ("GPL", "AGPL", "LGPL", "MPL", "OSL", "EPL", "CC-BY-SA"),
    "MPL": ("GPL", "LGPL", "AGPL"),
}
_LATER: Final = ("CC-BY-SA", "CC-BY-NC-SA", "OSL", "EPL", "MPL", "CDLA-Sharing", "ODbL")
"""Licences that let what is made under them move to a later version, without saying "or later"."""
_VERSION: Final = re.compile(r"-(\d+(?:\.\d+)*)")


def _keeps(license: str, mine: frozenset[str]) -> bool:
    """Say whether a child under ``mine`` keeps what came under ``license`` under its terms."""
    return any(_same(license.partition(" WITH ")[0], one.partition(" WITH ")[0]) for one in mine)


def _same(theirs: str, mine: str) -> bool:
    """Say whether one licence is another, or one that it lets itself be replaced by."""
    if theirs == mine:
        return True
    if theirs.startswith("LicenseRef-") or mine.startswith("LicenseRef-"):
        return False
    stem, version, later = _split(theirs)
    other, others, _ = _split(mine)
    if stem == other:
        return version == others or (others > version and (later or stem in _LATER))
    if other not in _ALSO.get(stem, ()):
        return False
    # GPL-2.0-only goes into no other; version 3 of the three GNU licences goes together.
    if stem in ("GPL", "LGPL"):
        return others >= (3,) and (later or version >= (3,))
    return stem != "CC-BY-SA" or (version >= (4,) and others >= (3,))


def _split(license: str) -> tuple[str, tuple[int, ...], bool]:
    """Return the stem of a licence's name, its version, and whether later ones are meant too."""
    later = license.endswith(("-or-later", "+"))
    match = _VERSION.search(license)
    if match is None:
        return license, (), later
    version = tuple(int(part) for part in match[1].split("."))
    while version and not version[-1]:
        version = version[:-1]
    return license[: match.start()], version, later
