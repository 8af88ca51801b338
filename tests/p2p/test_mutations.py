"""Nothing that was changed on the way is taken for what was signed, and no reader falls over it.

Changed are bytes, or the JSON in them, of the bundle or of the statement inside; the statement is
left with its old signature or gets a true one by somebody else.
"""

import json
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from p2p import canonical
from p2p.attest import read_attestation
from p2p.bridge import check_model_signature, read_model_signature
from p2p.bundles import keep_bundles
from p2p.envelope import open_bundle
from p2p.errors import UsageError, VerificationFailed
from p2p.manifest import parse_manifest
from p2p.receipt import check_receipt, read_receipt
from tests.p2p.statements import (
    ALICE,
    BOB,
    CAROL,
    EXCHANGE,
    MODEL_SIG,
    RECEIPT,
    RELEASE,
    SIGNED,
    altered,
    payload_of,
    resigned,
    said,
)

FEW, MANY = 150, 10_000
WORD = said("evaluation", details={"configuration": [{"name": "x"}], "passedTests": ["a"]})
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.text(max_size=9),
    st.sampled_from(["", "../x", "0" * 64, str(RELEASE.root), "ipfs://", "allod:bob", "PASSED"]),
    st.just([]),
    st.just({}),
)
PIECES = st.binary(max_size=2) | st.sampled_from(
    [b'"', b"=", b"A", b"}", b",", b"null", b"\\u0041", b" ", b"0", b"\0", b"1e3", b"\xed\xa0\x80"]
)


def changed_bytes(data: st.DataObject, original: bytes) -> bytes:
    """Draw an original with one to three stretches replaced, doubled or left out."""
    value = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(value)))
        length = data.draw(st.sampled_from([0, 1, 1, 1, 4, 40]))
        piece = data.draw(PIECES | st.just(bytes(value[place : place + length]) * 2))
        value[place : place + length] = piece
    return bytes(value)


def changed_json(data: st.DataObject, original: bytes) -> bytes:
    """Draw an original with one value of its JSON replaced, moved, doubled or left out."""
    root = [json.loads(original)]
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [root]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else list(range(len(one)))
        places += [(one, key) for key in keys]
        waiting += [one[key] for key in keys if isinstance(one[key], dict | list)]
    holder, key = data.draw(st.sampled_from(places))
    match data.draw(st.sampled_from(["put", "drop", "double", "swap", "add"])):
        case "put":
            holder[key] = data.draw(SCALARS)
        case "drop" if holder is not root:
            del holder[key]
        case "double" if isinstance(holder, list):
            holder.append(holder[key])
        case "swap":
            other, place = data.draw(st.sampled_from(places))
            holder[key], other[place] = other[place], holder[key]
        case _ if isinstance(holder[key], dict):
            holder[key][data.draw(st.text(max_size=5))] = data.draw(SCALARS)
        case _:
            holder[key] = [holder[key]]
    try:
        return canonical.encode(root[0])
    except (UsageError, ValueError, RecursionError):  # a swap can put a value into itself
        assume(False)
        raise


def changed(data: st.DataObject, original: bytes) -> bytes:
    """Draw something else than the original, close to it."""
    change = data.draw(st.sampled_from([changed_bytes, changed_json]))
    mutant = change(data, original)
    assume(mutant != original)
    return mutant


def with_payload(bundle: bytes, payload: bytes) -> bytes:
    """The bundle with another statement under the same signature."""
    text = b64encode(payload).decode()
    return altered(bundle, lambda value: value["dsseEnvelope"].update(payload=text))


def changed_bundle(data: st.DataObject, bundle: bytes) -> bytes:
    """Draw a bundle that was changed outside, or inside, with the signature as it was or not."""
    how = data.draw(st.sampled_from(["outside", "inside", "signed by another"]))
    if how == "outside":
        return changed(data, bundle)
    payload = changed(data, payload_of(bundle))
    if how == "inside":
        return with_payload(bundle, payload)
    return resigned(bundle, payload, CAROL)


def refuse_manifest(data: st.DataObject) -> None:
    """A changed manifest is not the one that was signed, whatever it says."""
    payload = changed(data, RELEASE.payload)
    with suppress(VerificationFailed):
        assert parse_manifest(payload).cid != RELEASE.cid
    assert open_bundle(SIGNED).payload != payload
    assert keep_bundles(payload, [], [SIGNED, WORD, MODEL_SIG], {ALICE.public}) == ()


def refuse_signature(data: st.DataObject) -> None:
    """A changed bundle is not the publisher's signature over anything."""
    bundle = changed_bundle(data, SIGNED)
    with suppress(VerificationFailed):
        assert open_bundle(bundle).key == CAROL.public
    assert keep_bundles(RELEASE.payload, [], [bundle], {ALICE.public}) == ()


def refuse_word(data: st.DataObject) -> None:
    """A changed endorsement, evaluation or review is not by whom the original was by."""
    bundle = changed_bundle(data, WORD)
    with suppress(VerificationFailed):
        assert read_attestation(bundle).key == CAROL.public
    assert keep_bundles(RELEASE.payload, [], [bundle], (), {BOB.public}) in ((), (bundle,))


def refuse_model_signature(data: st.DataObject) -> None:
    """A changed model.sig is refused."""
    bundle = changed_bundle(data, MODEL_SIG)
    with pytest.raises(VerificationFailed):
        check_model_signature(read_model_signature(bundle), RELEASE)
    assert keep_bundles(RELEASE.payload, [], [bundle], {ALICE.public}) == ()


def refuse_receipt(data: st.DataObject) -> None:
    """A changed receipt is not for the exchange that the original was for, or not by its signer."""
    bundle = changed_bundle(data, RECEIPT)
    with pytest.raises(VerificationFailed):
        check_receipt(
            read_receipt(bundle),
            manifest=EXCHANGE.model,
            peer=BOB.public.peer_id,
            request_sha256=EXCHANGE.request.sha256,
            response_sha256=EXCHANGE.response.sha256,
            now=1795392000.0,
        )


READERS = [refuse_manifest, refuse_signature, refuse_word, refuse_model_signature, refuse_receipt]


def run(reader: Callable[[st.DataObject], None], count: int) -> None:
    """Try one reader on many mutants."""
    checks = [HealthCheck.filter_too_much, HealthCheck.too_slow]

    @settings(max_examples=count, deadline=None, suppress_health_check=checks, database=None)
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        reader(data)

    attempt()


@pytest.mark.parametrize("reader", READERS)
def test_mutants_are_refused(reader: Callable[[st.DataObject], None]) -> None:
    """No mutant is accepted, and none raises anything but VerificationFailed."""
    run(reader, FEW)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("reader", READERS)
def test_ten_thousand_mutants_are_refused(reader: Callable[[st.DataObject], None]) -> None:
    """The same for ten thousand of each kind."""
    run(reader, MANY)
