"""What the verbs take, turned into what the node is asked: the same for both kinds of code. Pure.

All but the folders: those are made absolute here, since the node works in another directory.
"""

from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import TypedDict

from allod.errors import InvalidRequest
from allod.releases import Release
from node.messages import FetchParams, FilesParams, PublishParams


class Publishing(TypedDict, total=False):
    """What a publisher may say of a release; what is left out is worked out, or left out."""

    kind: str  # "model" or "dataset"; else told from the files
    version: str
    license: str  # an SPDX expression; else from the card
    base: Iterable[str]  # references, or hf:// URIs, of base models
    data: Iterable[str]  # the same of datasets that it was trained on
    description: str
    consent_basis: str  # why the data in it may be used
    consent_expires: str  # the last day on which they may: 2030-12-31
    personal_data: str  # "none", or which there are
    allowed_uses: Iterable[str]
    redistribution: bool  # whether others may pass it on
    contact: str
    key: str  # the publisher's, if the name does not say it
    web_seeds: Iterable[str]  # https URLs that hold the same files
    profile: str  # how files are cut: tensor-1m, fixed-1m, unixfs-v1-2025
    sha256: bool  # False: no model.sig, which takes the SHA-256 of every file
    croissant: bool  # False: a dataset that describes itself by nothing is not described
    offline: bool  # announce nothing


_MANY = frozenset({"base", "data", "allowed_uses", "web_seeds"})


def fetch_params(
    ref: str | Release,
    include: Iterable[str],
    exclude: Iterable[str],
    tensors: Iterable[str],
    revision: str | None,
    local_dir: str | PathLike[str] | None,
    peers: Iterable[str],
    *,
    yes: bool,
    pin: bool,
    offline: bool,
    hf_cache: str | PathLike[str] | bool | None = None,
) -> FetchParams:
    """Return what ``fetch`` asks for."""
    return FetchParams(
        ref=text_of(ref),
        include=_texts(include),
        exclude=_texts(exclude),
        tensors=_texts(tensors),
        revision=revision or "",
        local_dir=_absolute(local_dir) if local_dir is not None else "",
        peers=_texts(peers),
        yes=yes,
        pin=pin,
        offline=offline,
        hf_cache=_cache(hf_cache),
    )


def publish_params(folder: str | PathLike[str], name: str, options: Publishing) -> PublishParams:
    """Return what ``publish`` asks for; ``InvalidRequest`` for an option that there is not."""
    unknown = set(options) - set(Publishing.__annotations__)
    if unknown:
        raise InvalidRequest(f"publish() has no option {min(unknown)!r}.", code="USAGE")
    given = {
        name: _texts(value) if name in _MANY else value  # type: ignore[arg-type]
        for name, value in options.items()
    }
    return PublishParams(folder=_absolute(folder), name=name, **given)  # type: ignore[arg-type]


def release_params(ref: str | Release, revision: str | None, peers: Iterable[str]) -> FilesParams:
    """Return what ``files`` asks for."""
    head, mark, tail = text_of(ref).partition("?")
    at = f"@{revision}" if revision else ""
    return FilesParams(f"{head}{at}{mark}{tail}", _texts(peers))


def statement_params(wanted: FilesParams) -> FetchParams:
    """Return what ``fetch`` is asked before, where yes is said to the publisher: no file comes."""
    return FetchParams(wanted.ref, wanted.peers, yes=True, pin=False, statement_only=True)


def text_of(ref: str | Release) -> str:
    """Return a reference as text."""
    return ref.ref if isinstance(ref, Release) else ref


def _texts(given: Iterable[str]) -> tuple[str, ...]:
    """Return several texts; one alone is one, and not its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def _cache(hf_cache: str | PathLike[str] | bool | None) -> str:
    """Return the cache of Hugging Face's clients that is meant: True is this user's; "" none."""
    if hf_cache is None or hf_cache is False:
        return ""
    if hf_cache is not True:
        return _absolute(hf_cache)
    from huggingface_hub.constants import HF_HUB_CACHE  # by this program's environment

    return _absolute(HF_HUB_CACHE)


def _absolute(path: str | PathLike[str]) -> str:
    return str(Path(fspath(path)).expanduser().absolute())
