"""The SPDX names of the licences that model cards name in the Hub's way.

The Hub writes SPDX's identifiers in lower case, has some that mean a family, and some that SPDX
does not know. What SPDX knows gets its name; the rest becomes a LicenseRef, which SPDX keeps for
that; ``unknown`` and a bare ``other`` become nothing. Where the Hub leaves open whether later
versions of a GNU licence are meant, the version that it names is meant.

Pure. Specification: SPDX 3.0 licence list and licence expressions.
"""

import re
from typing import Final

_NAMES: Final = (
    "AFL-3.0", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear",
    "BSL-1.0", "C-UDA-1.0", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-2.0",
    "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-2.0",
    "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0",
    "CC0-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "ECL-2.0",
    "EPL-1.0", "EPL-2.0", "EUPL-1.1", "EUPL-1.2", "ISC", "LPPL-1.3c", "MIT", "MPL-2.0", "MS-PL",
    "NCSA", "ODbL-1.0", "ODC-By-1.0", "OFL-1.1", "OSL-3.0", "PDDL-1.0", "PostgreSQL", "Unlicense",
    "WTFPL", "Zlib", "etalab-2.0", "LGPLLR",
)  # fmt: skip
_GNU: Final = ("AGPL-3.0", "GPL-2.0", "GPL-3.0", "LGPL-2.1", "LGPL-3.0")
_KNOWN: Final = (
    {name.lower(): name for name in _NAMES}
    | {f"{name}{end}".lower(): name + end for name in _GNU for end in ("-only", "-or-later")}
    | {name.lower(): f"{name}-only" for name in _GNU}
    | {"c-uda": "C-UDA-1.0", "lgpl-lr": "LGPLLR", "odbl": "ODbL-1.0"}
    | {"odc-by": "ODC-By-1.0", "pddl": "PDDL-1.0"}
)
_NOT_ALLOWED: Final = re.compile("[^A-Za-z0-9.-]+")  # in a LicenseRef
_NOTHING: Final = frozenset({"", "unknown", "other", "none"})


def spelled(name: str) -> str:
    """Return a licence in SPDX's spelling where it is known, else as it is."""
    return _KNOWN.get(name.lower(), name)


def on_card(name: str, other: str = "") -> str:
    """Return the SPDX expression for what a card names; empty where that says nothing.

    ``other``: what the card calls a licence that it names ``other``.
    """
    if name.lower() == "other":
        name = other
    if name.lower() in _NOTHING:
        return ""
    known = _KNOWN.get(name.lower())
    if known is not None or name.startswith("LicenseRef-"):
        return known or name
    reference = _NOT_ALLOWED.sub("-", name).strip("-")
    return f"LicenseRef-{reference}" if reference else ""
