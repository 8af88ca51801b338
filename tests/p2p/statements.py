"""Statements for tests: releases of a few bytes, and what others say of them."""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any

from p2p import canonical
from p2p.attest import Kind, write_attestation
from p2p.bridge import write_model_signature
from p2p.chunking import Profile
from p2p.cid import CID, Codec, Hash
from p2p.envelope import sign_bundle, signed_bytes
from p2p.keys import SecretKey
from p2p.manifest import FileEntry, Manifest, build_manifest
from p2p.receipt import Body, Exchange, sign_receipt

ALICE, BOB, CAROL = (SecretKey.from_seed(letter * 32) for letter in (b"a", b"b", b"c"))
FILES = {"LICENSE": b"MIT", "a/b.bin": b"w" * 99, "a.bin": b"", "a-b.bin": b"-", "ä ö.txt": b"x"}


def release(files: Mapping[str, bytes] = FILES, profile: Profile = Profile.FIXED_1M) -> Manifest:
    """A release of files of one leaf, by somebody called alice."""
    entries = [
        FileEntry(path, len(data), CID.of(data, Codec.RAW, profile.hash), len(data))
        for path, data in files.items()
    ]
    return build_manifest(
        kind="model",
        publisher="alice",
        name="tiny",
        version="1",
        created="2026-11-22T00:00:00Z",
        files=entries,
        profile=profile,
        license={"spdx": "MIT"},
    ).manifest


def sums(files: Mapping[str, bytes] = FILES, hash: Hash = Hash.BLAKE3) -> dict[CID, str]:
    """The SHA-256 of the files by their CIDs."""
    return {
        CID.of(data, Codec.RAW, hash): hashlib.sha256(data).hexdigest() for data in files.values()
    }


def said(
    kind: Kind = "endorsement",
    *,
    key: SecretKey = BOB,
    about: CID | None = None,
    publisher: str = "bob",
    at: str = "2026-11-23T00:00:00Z",
    passed: bool | None = True,
    text: str = "It works.",
    **more: Any,
) -> bytes:
    """A bundle of what somebody says of ``RELEASE``."""
    payload = write_attestation(
        kind,
        manifest=about or RELEASE.cid,
        release="tiny@1",
        publisher=publisher,
        at=at,
        passed=passed,
        text=text,
        **more,
    )
    return sign_bundle(payload, key)


def body(data: bytes) -> Body:
    """What a receipt says of a request or an answer."""
    return Body(hashlib.sha256(data).hexdigest(), len(data))


def altered(bundle: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A bundle with a change made to its JSON, in canonical form."""
    value = json.loads(bundle)
    change(value)
    return canonical.encode(value)


def payload_of(bundle: bytes) -> bytes:
    """What a bundle is a signature over."""
    return b64decode(json.loads(bundle)["dsseEnvelope"]["payload"])


def resigned(bundle: bytes, payload: bytes, key: SecretKey) -> bytes:
    """The bundle with another payload, and a true signature of ``key`` over it."""

    def change(value: dict[str, Any]) -> None:
        value["dsseEnvelope"]["payload"] = b64encode(payload).decode()
        signature = b64encode(key.sign(signed_bytes(payload))).decode()
        value["dsseEnvelope"]["signatures"] = [{"keyid": key.public.did, "sig": signature}]
        value["verificationMaterial"] = {"publicKey": {"hint": key.public.did}}

    return altered(bundle, change)


RELEASE = release()
SIGNED = sign_bundle(RELEASE.payload, ALICE)
ASKED, ANSWERED = b'{"model":"alice/tiny"}', b'{"choices":[]}'
EXCHANGE = Exchange(
    model=RELEASE.cid,
    publisher="alice",
    endpoint="chat/completions",
    request=body(ASKED),
    response=body(ANSWERED),
    status=200,
    at="2026-11-23T00:00:00Z",
    served_by=BOB.public.peer_id,
)
RECEIPT = sign_receipt(EXCHANGE, BOB)
MODEL_SIG = write_model_signature(RELEASE, sums(), ALICE)
