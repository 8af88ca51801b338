"""sigstore's own JavaScript library reads the bundles, and accepts and refuses what we do."""

import json
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from p2p.envelope import open_bundle, sign_bundle
from p2p.errors import VerificationFailed
from p2p.keys import SecretKey
from tests.compat.npm import NODE, install_or_skip
from tests.p2p.statements import ALICE, BOB, RECEIPT, RELEASE, SIGNED, altered, said

FOLDER = Path(__file__).parent / "sigstore_js"
KEYS = {key.public.did: key.public.pem for key in (ALICE, BOB)}


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    """The npm packages are there."""
    install_or_skip(FOLDER)


def problems(*bundles: bytes, keys: dict[str, str] = KEYS) -> list[str | None]:
    """What the library has against each bundle; None where it accepts it."""
    lines = [json.dumps({"bundle": json.loads(bundle), "keys": keys}) for bundle in bundles]
    done = subprocess.run(
        [NODE, "verify.mjs"],
        input="".join(line + "\n" for line in lines),
        cwd=FOLDER,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return [json.loads(line)["error"] for line in done.stdout.splitlines()]


def test_accepts_every_kind_of_bundle() -> None:
    """Releases, large ones too, what others say of them, receipts; signed by other keys too."""
    bundles = [
        SIGNED,
        sign_bundle(RELEASE.payload, BOB),
        sign_bundle(b"{}" + b" " * (3 << 20), ALICE),
        *(said(kind) for kind in ("endorsement", "evaluation", "review")),
        RECEIPT,
    ]
    assert problems(*bundles) == [None] * len(bundles)


def flipped(value: dict[str, Any], *path: Any) -> None:
    """Flip a bit of what lies there in base64."""
    *way, last = path
    for key in way:
        value = value[key]
    raw = bytearray(b64decode(value[last]))
    raw[len(raw) // 2] ^= 1
    value[last] = b64encode(raw).decode()


def test_refuses_what_we_refuse() -> None:
    """A flipped bit in statement or signature, another type, another key: both say no."""

    def envelope(value: dict[str, Any]) -> Any:
        return value["dsseEnvelope"]

    def swap(value: dict[str, Any]) -> None:
        value["verificationMaterial"]["publicKey"]["hint"] = BOB.public.did

    bundles = [
        altered(SIGNED, lambda b: flipped(b, "dsseEnvelope", "payload")),
        altered(SIGNED, lambda b: flipped(b, "dsseEnvelope", "signatures", 0, "sig")),
        altered(SIGNED, lambda b: envelope(b).update(payloadType="text/plain")),
        altered(SIGNED, lambda b: envelope(b).update(signatures=[])),
        altered(SIGNED, lambda b: envelope(b)["signatures"].append(envelope(b)["signatures"][0])),
        altered(SIGNED, lambda b: b.update(mediaType="x")),
        altered(SIGNED, swap),
    ]
    assert None not in problems(*bundles)
    for bundle in bundles:
        with pytest.raises(VerificationFailed):
            open_bundle(bundle)


def test_asks_for_the_key_that_we_name() -> None:
    """The hint is the did:key by which we know the signer; a key that nobody has is no key."""
    other = SecretKey.from_seed(b"o" * 32)
    [problem] = problems(sign_bundle(b"{}", other))
    assert problem is not None
    assert other.public.did in problem
