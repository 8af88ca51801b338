"""A node's receipts: each for the bytes that went by, for a while, and never too many."""

import hashlib
from pathlib import Path

import pytest

from node import receipts as module
from node.messages import ReceiptParams
from node.receipts import KEEP, MAX_RECEIPTS, Receipts, check_file
from p2p.errors import NotFound, VerificationFailed
from p2p.keys import SecretKey
from p2p.receipt import MAX_RECEIPT, Body, check_receipt, read_receipt
from tests.node.test_accounts import Clock, served
from tests.p2p.statements import ALICE, ANSWERED, ASKED, BOB, EXCHANGE, RECEIPT

MODEL = served()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def receipts(clock: Clock) -> Receipts:
    return Receipts(ALICE, clock)


def test_a_receipt_is_for_what_went_by(receipts: Receipts, clock: Clock) -> None:
    """Fed piece by piece it names the whole answer, what was asked, when, and both nodes."""
    draft = receipts.begin(MODEL, "chat/completions", b"hello?")
    assert receipts.get(draft.id) is None
    for piece in (b"he", b"", b"llo", b"!"):
        draft.feed(piece)
    assert receipts.get(draft.id) is None
    draft.finish(200, BOB.public.peer_id)
    data = receipts.get(draft.id)
    assert data is not None
    assert receipts.get(draft.id) == data
    receipt = read_receipt(data)
    said = receipt.exchange
    assert (receipt.signed_by, receipt.served_by) == (ALICE.public.peer_id, BOB.public.peer_id)
    assert (said.model, said.publisher) == (MODEL.manifest, MODEL.publisher)
    assert (said.endpoint, said.status, said.at) == (
        "chat/completions", 200, "2024-10-04T12:00:00Z",
    )  # fmt: skip
    assert said.request == Body(hashlib.sha256(b"hello?").hexdigest(), 6)
    assert said.response == Body(hashlib.sha256(b"hello!").hexdigest(), 6)


def test_a_peers_receipt_is_checked_by_who_asked(clock: Clock) -> None:
    """What one node's door signs passes another's check of the same exchange."""
    draft = Receipts(BOB, clock).begin(MODEL, "embeddings", b"ask")
    receipts = draft._receipts
    draft.feed(b"answer")
    draft.finish(200, BOB.public.peer_id)
    data = receipts.get(draft.id)
    assert data is not None
    check_receipt(
        read_receipt(data),
        manifest=MODEL.manifest,
        peer=BOB.public.peer_id,
        request_sha256=hashlib.sha256(b"ask").hexdigest(),
        response_sha256=hashlib.sha256(b"answer").hexdigest(),
        now=clock(),
    )


def test_ids_are_nobodys_guess(receipts: Receipts) -> None:
    """Each draft has its own id of 128 random bits; others find nothing."""
    ids = {receipts.begin(MODEL, "responses", b"").id for _ in range(100)}
    assert len(ids) == 100
    assert {len(id) for id in ids} == {22}
    for id in (*ids, "", "x" * 10_000):
        assert receipts.get(id) is None


def finished(receipts: Receipts) -> str:
    draft = receipts.begin(MODEL, "completions", b"")
    draft.finish(200, ALICE.public.peer_id)
    return draft.id


def test_a_receipt_is_kept_an_hour(receipts: Receipts, clock: Clock) -> None:
    """An hour after its answer it is gone, and one that came later is not."""
    first = finished(receipts)
    clock.now += KEEP / 2
    second = finished(receipts)
    clock.now += KEEP / 2 - 1
    assert receipts.get(first)
    clock.now += 1
    assert receipts.get(first) is None
    assert receipts.get(second)
    clock.now -= 10 * KEEP
    assert receipts.get(second) is None


def test_the_newest_are_kept(receipts: Receipts) -> None:
    """Of more than a thousand the oldest go; drafts that nobody finishes take no room."""
    ids = [finished(receipts) for _ in range(MAX_RECEIPTS + 2)]
    for _ in range(10):
        receipts.begin(MODEL, "completions", b"").feed(b"x")
    assert [receipts.get(id) is None for id in ids[:4]] == [True, True, False, False]
    assert receipts.get(ids[-1])
    assert len(receipts._kept) == MAX_RECEIPTS


def test_nobody_pays_for_what_nobody_asks_for(
    receipts: Receipts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is signed before somebody asks for it."""
    signed: list[object] = []

    def sign(exchange: object, key: SecretKey) -> bytes:
        signed.append(exchange)
        return b"signed"

    monkeypatch.setattr(module, "sign_receipt", sign)
    id = finished(receipts)
    assert not signed
    assert receipts.get(id) == b"signed"
    assert len(signed) == 1


# -- a receipt in a file


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A receipt with the request and the response that it is for."""
    for name, data in (("receipt", RECEIPT), ("request", ASKED), ("response", ANSWERED)):
        (tmp_path / name).write_bytes(data)
    return tmp_path


async def test_a_file_is_checked(files: Path) -> None:
    """The signature always, the bytes that were named; and said is what the receipt says."""
    file, request, response = (str(files / name) for name in ("receipt", "request", "response"))
    found = await check_file(ReceiptParams(file, request, response))
    peer = BOB.public.peer_id
    assert found == {
        "ok": True,
        "checked": ["signature", "request", "response"],
        "model": str(EXCHANGE.model),
        "publisher": "alice",
        "endpoint": "chat/completions",
        "status": 200,
        "time": "2026-11-23T00:00:00Z",
        "servedBy": peer,
        "signedBy": peer,
        "did": BOB.public.did,
    }
    assert (await check_file(ReceiptParams(file)))["checked"] == ["signature"]
    assert (await check_file(ReceiptParams(file, "", response)))["checked"][1:] == ["response"]


@pytest.mark.parametrize("name", ["request", "response"])
async def test_other_bytes_are_told(files: Path, name: str) -> None:
    """A request or a response that is not the receipt's is refused with both hashes."""
    other = files / "other"
    other.write_bytes(b"x" * 14)
    words = {"request": "", "response": ""} | {name: str(other)}
    with pytest.raises(VerificationFailed) as caught:
        await check_file(ReceiptParams(str(files / "receipt"), **words))
    message = caught.value.message
    assert message.startswith(f"The receipt is for a {name} of ")
    assert hashlib.sha256(b"x" * 14).hexdigest() in message


async def test_wrong_files(files: Path) -> None:
    """A file that is no receipt, too long or not there is one clear error."""
    (files / "long").write_bytes(b" " * (MAX_RECEIPT + 1))
    for name, error in (("request", "bundle"), ("long", "at most 65536 bytes")):
        with pytest.raises(VerificationFailed, match=error):
            await check_file(ReceiptParams(str(files / name)))
    gone = str(files / "gone")
    for params in (ReceiptParams(gone), ReceiptParams(str(files / "receipt"), gone)):
        with pytest.raises(NotFound, match="There is no file"):
            await check_file(params)
