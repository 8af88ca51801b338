"""Whether a licence is one that a rule lets in.

An expression leaves choices (OR); it is let in if there is one in which every licence is allowed
and none is denied. A rule names licences by SPDX id, by pattern (``CC-BY-NC-*``), or by family
(``non-commercial``).
What cannot be read may name what is denied, so no rule lets it in.

Pure.
"""

from fnmatch import fnmatchcase

from p2p.licenses.expressions import choices
from p2p.licenses.families import family
from p2p.policy.model import Licenses


def check_license(expression: str, wanted: Licenses) -> str:
    """Return what is wrong with an expression by this rule; empty if nothing is."""
    weighed = choices(expression) if expression else None
    if weighed is None:
        if not expression:
            return "it states no licence" if wanted.allow is not None else ""
        return f"it states the licence {expression!r}, which cannot be weighed"
    problems = [_problem(choice, wanted) for choice in weighed]
    return "" if "" in problems else problems[0]


def _problem(licenses: frozenset[str], wanted: Licenses) -> str:
    for license in sorted(licenses):
        denied = _named(license, wanted.deny)
        if denied:
            return f"its licence {license} is denied as {denied}"
        if wanted.allow is not None and not _named(license, wanted.allow):
            return f"its licence {license} is none of {', '.join(wanted.allow) or 'the allowed'}"
    return ""


def _named(license: str, patterns: tuple[str, ...]) -> str:
    """Return the first of the patterns that names this licence."""
    name = license.lower()
    bare = name.partition(" with ")[0]
    for pattern in patterns:
        lower = pattern.lower()
        if lower in family(license) or fnmatchcase(name, lower) or fnmatchcase(bare, lower):
            return pattern
    return ""
