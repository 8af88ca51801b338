"""On what terms a release comes: its licence, the consent behind its data, what it was made from.

Checked here is only the form, so that whoever decides (a policy, a person) reads what was meant.
Fields that are not known here pass, and mean nothing.

Pure; all errors are ``VerificationFailed``.
Specification: docs/explanation/formats.md, "Licence, consent and lineage".
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from p2p.cid import Codec
from p2p.errors import VerificationFailed
from p2p.fields import Fields
from p2p.paths import check_path

MAX_LINEAGE: Final = 1024
"""What a release can name as made from: far more than any merge of models has used."""
MAX_WEB_SEEDS: Final = 32
"""Web servers a release can name: each may cost the reader a connection."""
MAX_USES: Final = 64
"""Uses that a consent can list."""

SPDX: Final = re.compile(r"[A-Za-z0-9.+():\- ]{1,512}")
"""An SPDX licence expression; whether its names exist is the policy's to say."""
ROLE: Final = re.compile("[a-z][a-z0-9_]{0,63}")
"""What a parent was to the release: base_model, dataset, ..."""
ORIGIN: Final = "origin"
"""The role of where a release was imported from: without a manifest the same work, no parent."""
URL: Final = re.compile(r"https?://[!-~]{1,2040}")
"""A web address, of the length that servers and browsers agree on."""
_DAY: Final = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")  # RFC 3339, full-date
_ANY: Final = re.compile(r"[^\x00-\x1f\x7f]{1,4096}")  # what a person wrote, on one line


def read_license(predicate: Fields) -> dict[str, Any]:
    """Return the licence: ``spdx``, and the ``file`` of the release that holds its text."""
    license = predicate.child("license")
    if "spdx" in license:
        license.text("spdx", SPDX)
    if "file" in license:
        check_path(license.get("file", str))
    for key in ("name", "link"):
        if key in license:
            license.text(key, _ANY)
    return license.value


def read_consent(predicate: Fields) -> dict[str, Any]:
    """Return on what ground the data may be used, for what, until when, and whom to ask."""
    if "consent" not in predicate:
        return {}
    consent = predicate.child("consent")
    for key in ("basis", "personalData", "contact"):
        if key in consent:
            consent.text(key, _ANY)
    if "allowedUses" in consent:
        consent.texts("allowedUses", _ANY, MAX_USES)
    if "redistribution" in consent:
        consent.get("redistribution", bool)
    if "expires" in consent:
        text = consent.text("expires", _DAY)
        try:
            date.fromisoformat(text)
        except ValueError as exc:
            raise VerificationFailed(f"{consent.name}.expires is {text}, which is no day.") from exc
    return consent.value


def expired(consent: Mapping[str, Any], today: date) -> bool:
    """Say whether a consent has ended: it holds through the day that ``expires`` names, in UTC.

    What is no day says nothing; ``read_consent`` lets none such pass.
    """
    try:
        return date.fromisoformat(consent.get("expires", "9999-12-31")) < today
    except (TypeError, ValueError):
        return False


def read_lineage(predicate: Fields) -> tuple[dict[str, Any], ...]:
    """Return what the release was made from: each a role, and a manifest, a URI or a name.

    It may have several of the three; each that is there is checked.
    """
    if "lineage" not in predicate:
        return ()
    parents = predicate.children("lineage", MAX_LINEAGE)
    for parent in parents:
        parent.text("role", ROLE)
        if "manifest" in parent:
            parent.cid("manifest", Codec.JSON)
        if "uri" in parent:
            parent.text("uri", _ANY)
        if "name" in parent or not {"manifest", "uri"} & parent.value.keys():
            parent.text("name", _ANY)
    return tuple(parent.value for parent in parents)


def is_origin(parent: Mapping[str, Any]) -> bool:
    """Say whether an entry of a lineage only tells where this very work was taken from.

    One that names a manifest is a parent, whatever it is called.
    """
    return parent.get("role") == ORIGIN and "manifest" not in parent


def read_web_seeds(predicate: Fields) -> tuple[str, ...]:
    """Return the web servers that have the release's folder."""
    if "webSeeds" not in predicate:
        return ()
    return predicate.texts("webSeeds", URL, MAX_WEB_SEEDS)


def read_docs(predicate: Fields) -> dict[str, Any]:
    """Return which files of the release describe it: ``card``, ``croissant``."""
    if "docs" not in predicate:
        return {}
    docs = predicate.child("docs")
    for key in ("card", "croissant"):
        if key in docs:
            check_path(docs.get(key, str))
    return docs.value
