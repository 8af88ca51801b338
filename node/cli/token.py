"""Commands about who may ask the models, what was used, and what a receipt proves."""

import csv
import io
from pathlib import Path
from typing import Any

import click

from node.cli.run import Run, verb
from node.cli.text import plain, table
from node.messages import ReceiptParams, TokenNewParams, TokenParams, UsageParams

_COLUMNS = (
    "date", "token", "model", "manifest", "requests", "prompt_tokens", "completion_tokens",
    "errors", "seconds",
)  # fmt: skip
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(epilog="\b\nExample:\n  allod token new ci --model alice/tiny-llm --rpm 60")
def token() -> None:
    """Give others access to the models, within limits, and take it back."""


@verb(example="allod token new ci --model alice/tiny-llm --rpm 60 --tpd 100000", group=token)
@click.argument("name", default="")
@click.option(
    "--model", "models", multiple=True, help="A model that it is for, or a pattern; repeatable."
)
@click.option("--rpm", type=int, metavar="N", help="Requests a minute.")
@click.option("--tpd", type=int, metavar="N", help="Tokens a day, of prompts and answers.")
@click.option("--expires", metavar="TIME", default="", help="A time from now, such as 12h or 30d.")
@click.option(
    "--via-peers/--local",
    default=False,
    help="Whether its prompts may go to peers, where the model may (local).",
)
def new(
    run: Run,
    name: str,
    models: tuple[str, ...],
    rpm: int | None,
    tpd: int | None,
    expires: str,
    via_peers: bool,
) -> int:
    """Make a token, the API key of a person or a program.

    Without --model it is for every model. It is printed this once, and kept nowhere.
    """
    params = TokenNewParams(name, models, rpm, tpd, expires, via_peers)
    found = run.call("token.new", params)
    run.note(f"This token, called {found['name']}, is shown this once; keep it where keys are.")
    return run.show(found, [found["token"]])


@verb(example="allod token list", group=token)
def list_(run: Run) -> int:
    """List the tokens and what they are good for; none is shown itself."""
    found = run.call("token.list")
    if not found["tokens"]:
        run.note("None yet: `allod token new NAME` makes one.")
    rows = [
        (
            one["name"],
            one["id"],
            one["state"],
            " ".join(one["models"]) or "all",
            _limit(one["rpm"]),
            _limit(one["tpd"]),
            str(one["used_today"]),
            (one["expires"] or "never")[:10],
            "peers too" if one["via_peers"] else "here",
        )
        for one in found["tokens"]
    ]
    head = ("NAME", "ID", "STATE", "MODELS", "RPM", "TPD", "TODAY", "UNTIL", "PROMPTS")
    return run.show(found, table(head, rows))


@verb(example="allod token revoke ci", group=token)
@click.argument("name")
def revoke(run: Run, name: str) -> int:
    """Make a token, named by name or id, good for nothing at once."""
    found = run.call("token.revoke", TokenParams(name))
    return run.show(found, [] if run.quiet else [f"revoked {found['name']} ({found['id']})"])


@verb(example="allod usage --days 7 --csv > usage.csv")
@click.option("--token", "token_", default="", metavar="NAME", help="Only this token's.")
@click.option("--model", default="", help="Only this model's: its name, a pattern, its manifest.")
@click.option("--days", type=int, default=30, metavar="N", help="How many days, up to today (30).")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated, for spreadsheets.")
def usage(run: Run, token_: str, model: str, days: int, as_csv: bool) -> int:
    """Show what was used of the models, by day, token and model.

    Days are those of UTC. What programs of this machine used without a token is under `local`,
    what a peer used under `peer:` and its id.
    """
    found = run.call("usage", UsageParams(token_, model, days))
    rows = found["usage"]
    if found["cut"]:
        run.note("There is more than is shown: ask for fewer days.")
    if as_csv:
        return run.show(found, _csv(rows))
    if not rows:
        run.note(f"Nothing since {found['since']}.")
    cells = [
        (
            one["date"],
            one["token"],
            one["model"],
            str(one["requests"]),
            str(one["prompt_tokens"]),
            str(one["completion_tokens"]),
            str(one["errors"]),
            f"{one['seconds']:.1f}",
        )
        for one in rows
    ]
    head = ("DATE", "TOKEN", "MODEL", "REQUESTS", "PROMPT", "COMPLETION", "ERRORS", "SECONDS")
    return run.show(found, table(head, cells))


@click.group(epilog="\b\nExample:\n  allod receipt check answer.receipt --response answer.json")
def receipt() -> None:
    """Check what a node signed about an answer."""


@verb(
    example="allod receipt check answer.receipt --request ask.json --response answer.json",
    group=receipt,
)
@click.argument("file", type=_FILE)
@click.option("--request", type=_FILE, help="The request's body, to be compared.")
@click.option("--response", type=_FILE, help="The answer's body, to be compared.")
def check(run: Run, file: Path, request: Path | None, response: Path | None) -> int:
    """Verify a receipt, without any node: who signed it, and for which bytes.

    It proves who says that the model gave this answer; it does not prove the computation.
    """
    paths = ("" if one is None else str(one.absolute()) for one in (request, response))
    found = run.call("receipt.check", ReceiptParams(str(file.absolute()), *paths), here_only=True)
    run.note(f"Verified: {', '.join(found['checked'])}.")
    lines = [
        f"model      {found['model']}",
        f"publisher  {found['publisher']}",
        f"endpoint   {found['endpoint']}, status {found['status']}",
        f"time       {found['time']}",
        f"served by  {found['servedBy']}",
        f"signed by  {found['signedBy']}",
    ]
    return run.show(found, lines)


def _limit(number: int | None) -> str:
    return "-" if number is None else str(number)


def _csv(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows as CSV, a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([plain(str(row[column])) for column in _COLUMNS] for row in rows)
    return text.getvalue().splitlines()
