"""The commands on tokens, usage and receipts, with a running node and without one."""

import csv
import io
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.accounts import LOCAL, Accounts, open_accounts
from node.api.control import control_routes
from node.api.loopback import loopback_app, serve_loopback
from node.config import load_config
from node.grant import Grant
from node.node import open_node
from node.presence import announce_node
from p2p.errors import BadToken, OverLimit
from tests.node.conftest import Said
from tests.node.test_accounts import MANIFEST, TINY, used
from tests.p2p.statements import ANSWERED, ASKED, BOB, EXCHANGE, RECEIPT

ALLOD = str(Path(sys.executable).with_name("allod"))
CONTROL = "the-control-token-of-this-test"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node of its own for every test."""
    for name in [name for name in os.environ if name.startswith("ALLOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def use(home: Path, *uses: tuple[str, Any]) -> None:
    """Have tokens, each with its word or none, used."""

    async def run() -> None:
        async with open_accounts(home) as accounts:
            for secret, one in uses:
                await accounts.record(await accounts.identify(secret), one)

    trio.run(run)


def test_a_token_from_new_to_revoked(allod: Said, home: Path) -> None:
    """Made, shown once, listed with what it is good for, used, revoked; all without a node."""
    code, out, err = allod("token", "list")
    assert (code, out) == (0, "")
    assert "None yet" in err
    code, out, err = allod(
        "token", "new", "ci", "--model", "alice/tiny", "--model", "bob/*", "--rpm", "60",
        "--tpd", "100000", "--expires", "30d", "--via-peers",
    )  # fmt: skip
    [secret] = out.splitlines()
    assert (code, secret[:6], "shown this once" in err) == (0, "allod-", True)
    assert allod("token", "new")[0] == 0
    assert allod("token", "new", "ci")[0] == 2
    use(home, (secret, used(10, 5)))

    code, out, _ = allod("token", "list")
    assert secret[6:] not in out
    head, ci, other = (line.split() for line in out.splitlines())
    assert head == ["NAME", "ID", "STATE", "MODELS", "RPM", "TPD", "TODAY", "UNTIL", "PROMPTS"]
    until = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 30 * 86_400))
    assert ci[0] == "ci"
    assert ci[2:] == ["good", "alice/tiny", "bob/*", "60", "100000", "15", until, "peers", "too"]
    assert other[0] == other[1]
    assert other[2:] == ["good", "all", "-", "-", "0", "never", "here"]
    code, out, _ = allod("token", "list", "--json")
    [first, _] = json.loads(out)["tokens"]
    assert secret[6:] not in out
    assert first.keys() == {
        "id", "name", "models", "rpm", "tpd", "via_peers", "created", "expires", "state",
        "used_today",
    }  # fmt: skip

    code, out, _ = allod("token", "revoke", "ci")
    assert (code, out) == (0, f"revoked ci ({first['id']})\n")
    code, _, err = allod("token", "revoke", "ci")
    assert (code, "no token 'ci'" in err) == (3, True)
    assert json.loads(allod("token", "list", "--json")[1])["tokens"][0]["state"] == "revoked"
    with pytest.raises(BaseExceptionGroup) as caught:
        use(home, (secret, used(1, 1)))
    assert caught.group_contains(BadToken)


def test_an_expired_token_is_listed_as_such(allod: Said, home: Path) -> None:
    """A token whose time is over stays in the list until it is revoked."""

    async def make() -> None:
        async with open_accounts(home, clock=lambda: time.time() - 100) as accounts:
            await accounts.issue(Grant("old", expires=50))

    trio.run(make)
    [old] = json.loads(allod("token", "list", "--json")[1])["tokens"]
    assert (old["name"], old["state"]) == ("old", "expired")
    assert allod("token", "revoke", "old")[0] == 0


def test_json_of_a_new_token(allod: Said) -> None:
    """With --json one object has the token and what it is good for."""
    code, out, _ = allod("token", "new", "ci", "--local", "--json")
    found = json.loads(out)
    assert code == 0
    assert found.pop("token").startswith("allod-")
    assert found | {"id": "", "created": ""} == {
        "ok": True, "id": "", "name": "ci", "models": [], "rpm": None, "tpd": None,
        "via_peers": False, "created": "", "expires": None, "state": "good", "used_today": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--expires", "soon"], "expires is a time from now such as 12h or 30d"),
        (["--rpm", "0"], "rpm is a number from 1"),
        (["--rpm", "many"], "Invalid value for '--rpm'"),
        (["--model", "a b"], "A model is a name"),
        (["local"], "cannot be called local"),
    ],
)
def test_wrong_tokens(allod: Said, words: list[str], reason: str) -> None:
    """What cannot be is exit code 2 and one sentence."""
    code, out, err = allod("token", "new", *words)
    assert (code, out) == (2, "")
    assert reason in err


def test_usage_of_days(allod: Said, home: Path) -> None:
    """A table for people, CSV for spreadsheets, JSON for programs; by token, model and day."""
    assert "Nothing since" in allod("usage")[2]
    secret = allod("token", "new", "ci")[1].strip()
    more = used(1, 2, status=500, seconds=1.25)
    use(home, (secret, used(10, 5)), (secret, more), ("", used(7, 0)))
    today = time.strftime("%Y-%m-%d", time.gmtime())

    code, out, _ = allod("usage", "--csv")
    assert code == 0
    assert out.splitlines()[0] == (
        "date,token,model,manifest,requests,prompt_tokens,completion_tokens,errors,seconds"
    )
    assert list(csv.reader(io.StringIO(out)))[1:] == [
        [today, "ci", "alice/tiny", str(MANIFEST), "2", "11", "7", "1", "1.75"],
        [today, "local", "alice/tiny", str(MANIFEST), "1", "7", "0", "0", "0.5"],
    ]
    code, out, _ = allod("usage", "--token", "ci", "--model", "alice/*", "--days", "1")
    assert [line.split() for line in out.splitlines()][1:] == [
        [today, "ci", "alice/tiny", "2", "11", "7", "1", "1.8"]
    ]
    found = json.loads(allod("usage", "--json", "--model", str(MANIFEST))[1])
    assert (found["ok"], found["cut"], len(found["usage"])) == (True, False, 2)
    assert allod("usage", "--token", "nobody")[1] == ""
    for days in ("0", "36501"):
        assert allod("usage", "--days", days)[0] == 2


def test_what_is_cut_is_told(allod: Said, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than are answered at once are not left out in silence."""
    use(home, ("", used(1, 1)), ("", used(1, 1)))
    monkeypatch.setattr("node.ledger.MAX_ROWS", 1)
    monkeypatch.setattr("node.tokens.MAX_ROWS", 1)
    assert "more than is shown" in allod("usage")[2]


def test_a_broken_ledger_is_told(allod: Said, home: Path) -> None:
    """Exit code 8, and what to do; the file stays."""
    home.mkdir()
    (home / "ledger.db").write_bytes(b"no database " * 1000)
    for words in (("token", "list"), ("usage",), ("token", "new")):
        code, _, err = allod(*words)
        assert code == 8
        assert "The ledger is damaged" in err
        assert f"move {home / 'ledger.db'} away" in err
    assert (home / "ledger.db").read_bytes() == b"no database " * 1000


def test_commands_that_need_no_ledger_make_none(allod: Said, home: Path) -> None:
    """`ls` opens the store alone."""
    assert allod("ls")[0] == 0
    assert not (home / "ledger.db").exists()


# -- beside a node that runs


@asynccontextmanager
async def running() -> AsyncIterator[Accounts]:
    """A node without a network but with its control API; its accounts."""
    config = load_config()
    async with (
        open_node(config, network=False, control_token=CONTROL) as node,
        trio.open_nursery() as nursery,
    ):
        app = loopback_app(control_routes(node, CONTROL))
        url = await nursery.start(serve_loopback, app, 0)
        with announce_node(config, http=url, token=CONTROL):
            assert node.accounts is not None
            yield node.accounts
        nursery.cancel_scope.cancel()


async def ask(*words: str) -> tuple[int, str, str]:
    """Run the installed command beside the node."""
    done = await trio.run_process(
        [ALLOD, *words], capture_stdout=True, capture_stderr=True, check=False
    )
    assert b"Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_a_running_node_hears_at_once(home: Path) -> None:
    """A token made by a command is good in the node, and one revoked by a command is not."""
    async with running() as accounts:
        assert await accounts.identify(CONTROL) == LOCAL
        code, out, _ = await ask("token", "new", "ci", "--model", "alice/*", "--rpm", "1")
        assert code == 0
        account = await accounts.identify(out.strip())
        accounts.admit(account, TINY)
        with pytest.raises(OverLimit):
            accounts.admit(account, TINY)
        await accounts.record(account, used(10, 5))
        rows = json.loads((await ask("usage", "--json"))[1])["usage"]
        assert [(row["token"], row["prompt_tokens"]) for row in rows] == [("ci", 10)]
        assert (await ask("token", "revoke", account.id))[0] == 0
        with pytest.raises(BadToken):
            await accounts.identify(out.strip())
        assert (await ask("token", "revoke", "ci"))[0] == 3
        assert (await ask("token", "new", "x", "--expires", "soon"))[0] == 2
    code, out, _ = await ask("token", "list", "--json")
    assert [one["state"] for one in json.loads(out)["tokens"]] == ["revoked"]


async def test_the_door_may_want_a_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """serve.auth reaches the accounts of a node that runs."""
    monkeypatch.setenv("ALLOD_SERVE_AUTH", "token")
    async with running() as accounts:
        assert await accounts.identify(CONTROL) == LOCAL
        with pytest.raises(BadToken):
            await accounts.identify("")


# -- receipts


def test_a_receipt_is_checked_without_a_node(allod: Said, home: Path, tmp_path: Path) -> None:
    """Words for people, JSON for programs, exit code 4 where it does not hold; nothing is made."""
    for name, data in (("receipt", RECEIPT), ("request", ASKED), ("response", ANSWERED)):
        (tmp_path / name).write_bytes(data)
    words = ("receipt", "check", str(tmp_path / "receipt"))
    both = ("--request", str(tmp_path / "request"), "--response", str(tmp_path / "response"))
    code, out, err = allod(*words, *both)
    assert (code, err) == (0, "Verified: signature, request, response.\n")
    assert f"model      {EXCHANGE.model}" in out
    assert f"signed by  {BOB.public.peer_id}" in out
    assert json.loads(allod(*words, "--json")[1])["checked"] == ["signature"]
    code, _, err = allod(*words, "--response", str(tmp_path / "request"))
    assert (code, "is for a response of 14 bytes" in err) == (4, True)
    (tmp_path / "receipt").write_bytes(RECEIPT[:-1])
    assert allod(*words)[0] == 4
    assert allod("receipt", "check", str(tmp_path / "gone"))[0] == 3
    assert not home.exists()
