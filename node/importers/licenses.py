"""The SPDX names of the licences that cards name in the Hub's way.

The Hub writes SPDX's identifiers in lower case, has some that mean a family, and some that SPDX
does not know. What SPDX knows gets its name; the rest becomes a LicenseRef, which SPDX keeps for
that; ``unknown`` and a bare ``other`` become nothing. Where the Hub leaves open whether later
versions of a GNU licence are meant, the version that it names is meant.

Pure. Specification: the Hub's list of licences; SPDX 3.0 licence list and licence expressions.
"""

import re
from typing import Final

from p2p.errors import UsageError
from p2p.licenses import check_expression, spdx_id

SHORTER: Final = {
    "c-uda": "C-UDA-1.0",
    "lgpl-lr": "LGPLLR",
    "odbl": "ODbL-1.0",
    "odc-by": "ODC-By-1.0",
    "pddl": "PDDL-1.0",
}
"""The Hub's names for licences that SPDX lists under another."""
NOT_IN_SPDX: Final = (
    "apple-amlr", "apple-ascl", "bigcode-openrail-m", "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m", "bsd", "cc", "creativeml-openrail-m", "deepfloyd-if-license",
    "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "grok2-community", "h-research",
    "intel-research", "lgpl", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4",
    "openmdw-1.0", "openmdw-1.1", "openrail", "openrail++",
)  # fmt: skip
"""The Hub's names for licences, and families of licences, that SPDX does not list."""

_NOT_ALLOWED: Final = re.compile("[^A-Za-z0-9.-]+")  # in a LicenseRef
_NOTHING: Final = frozenset({"", "unknown", "other", "none"})


def stated(text: str) -> str:
    """Return the SPDX expression for what a publisher states: an expression, or a Hub's name.

    ``UsageError`` names what neither SPDX nor the Hub knows.
    """
    return _of_the_hub(text) or check_expression(text)


def on_card(name: str, other: str = "") -> str:
    """Return the SPDX expression for what a card names; empty where that says nothing.

    ``other``: what the card calls a licence that it names ``other``. Never fails: a name that
    nobody knows becomes a LicenseRef.
    """
    if name.lower() == "other":
        name = other
    if name.lower() in _NOTHING:
        return ""
    try:
        return stated(name)
    except UsageError:
        reference = _reference(name)
        return reference if reference != "LicenseRef-" else ""


def _of_the_hub(name: str) -> str:
    """Return the SPDX name of a licence that the Hub lists; empty for any other text."""
    low = name.lower()
    if low in NOT_IN_SPDX:
        return spdx_id(low) or check_expression(_reference(low))  # SPDX may list it by now
    return SHORTER.get(low, "")


def _reference(name: str) -> str:
    return "LicenseRef-" + _NOT_ALLOWED.sub("-", name).strip("-")
