"""Which bundles of a release a node keeps and passes on.

Three kinds of bundle travel with a manifest: signatures over it, the publisher's ``model.sig``, and
what others say of it. Anybody can make any number of the last kind, so there is an order of who
comes first, and a bound:

    1  signatures of the publisher, one for each of his keys
    2  his model.sig, one for each of his keys
    3  what keys say that this node knows, the latest on each topic
    4  the same of strangers, and their signatures over the manifest: those that were here first

So a flood of strangers' bundles can keep other strangers out, but takes nothing from a node that it
has, and nothing from the publisher and from whom its owner knows.
Every bundle that is kept was verified; whether a key is to be believed is the policy's to say.

Pure.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from p2p.attest import MAX_ATTESTATION_BUNDLE, Attestation, read_attestation
from p2p.cid import CID, Codec, Hash
from p2p.envelope import MAX_BUNDLE, MAX_BUNDLES, open_bundle
from p2p.errors import VerificationFailed
from p2p.keys import PublicKey

if TYPE_CHECKING:
    from p2p.bridge import ModelSignature

MAX_TOTAL: Final = 4 * MAX_BUNDLE
"""Bytes of all bundles of a release, with a line end each: most have a thousandth of that."""
MAX_TOPICS: Final = 8
"""Statements of one key about one release: each on a topic of its own, the latest ones stay."""
_CHAIN: Final = 4096  # bytes at the end of a model.sig in which its two certificates begin


def keep_bundles(
    payload: bytes,
    held: Iterable[bytes],
    came: Iterable[bytes],
    owners: Collection[PublicKey],
    known: Collection[PublicKey] = (),
) -> tuple[bytes, ...]:
    """Return the bundles of the manifest ``payload`` that are to be kept, the first first.

    ``held`` are here already, ``came`` came from anywhere, at most ``MAX_BUNDLES`` are looked at.
    ``owners``: the publisher's keys. ``known``: others whose word is wanted. What does not verify,
    and what is about something else, is left out.
    """
    cid = CID.of(payload, Codec.JSON, Hash.BLAKE3)
    first: dict[PublicKey, bytes] = {}
    second: dict[PublicKey, bytes] = {}
    rest: dict[object, bytes] = {}
    said: dict[object, Attestation] = {}
    for data in dict.fromkeys(chain(held, islice(came, MAX_BUNDLES))):
        try:
            if is_model_signature(data):
                model = read_model_signature(data)
                if model.manifest == cid and model.key in owners:
                    second.setdefault(model.key, data)
            elif (key := _signer(payload, data)) is not None:
                (first if key in owners else rest).setdefault(key, data)
            else:
                one = read_attestation(data)
                if one.manifest == cid:
                    newest = max(said.get(one.topic, one), one, key=_age)
                    said[one.topic], rest[one.topic] = newest, newest.bundle
        except VerificationFailed:
            continue
    for topic in _too_many(said):
        del said[topic], rest[topic]
    third = [one.bundle for one in said.values() if one.key in known]
    return tuple(_fitting([*first.values(), *second.values(), *third, *rest.values()]))


def is_model_signature(data: bytes) -> bool:
    """Say whether a bundle is a ``model.sig``, by the look of it; nothing is checked."""
    return b'"verificationMaterial":{"x509CertificateChain":' in data[-_CHAIN:]


def read_attestations(bundles: Iterable[bytes]) -> tuple[Attestation, ...]:
    """Return what others say, of all bundles of a release; the rest is passed over."""
    found = []
    for data in bundles:
        if len(data) <= MAX_ATTESTATION_BUNDLE and not is_model_signature(data):
            with suppress(VerificationFailed):
                found.append(read_attestation(data))
    return tuple(found)


def find_model_signature(
    cid: CID, bundles: Iterable[bytes], owners: Collection[PublicKey]
) -> "ModelSignature | None":
    """Return the ``model.sig`` of this manifest that one of its publisher's keys signed."""
    for data in filter(is_model_signature, bundles):
        with suppress(VerificationFailed):
            model = read_model_signature(data)
            if model.manifest == cid and model.key in owners:
                return model
    return None


def read_model_signature(data: bytes) -> "ModelSignature":
    """Do what the bridge does; it brings X.509, which only the few who need it shall wait for."""
    from p2p import bridge

    return bridge.read_model_signature(data)


def _signer(payload: bytes, data: bytes) -> PublicKey | None:
    """Return whose signature over this very payload the bundle is; None if it is over another."""
    signed = open_bundle(data)
    return signed.key if signed.payload == payload else None


def _too_many(said: Mapping[object, Attestation]) -> list[object]:
    """Return the topics that are to go: of each key all but the latest ``MAX_TOPICS``."""
    count = Counter[PublicKey]()
    gone = []
    for topic, one in sorted(said.items(), key=lambda item: _age(item[1]), reverse=True):
        count[one.key] += 1
        if count[one.key] > MAX_TOPICS:
            gone.append(topic)
    return gone


def _age(one: Attestation) -> tuple[str, bytes]:
    """Order statements by their time, and where that is the same somehow."""
    return one.at, one.bundle


def _fitting(ranked: Iterable[bytes]) -> Iterator[bytes]:
    """Yield bundles, each once, for as long as they fit."""
    count = total = 0
    for data in dict.fromkeys(ranked):
        if count < MAX_BUNDLES and total + len(data) + 1 <= MAX_TOTAL:
            count, total = count + 1, total + len(data) + 1
            yield data
