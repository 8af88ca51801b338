"""Commands about what a publisher allows with its data, and takes back."""

from typing import Any

import click

from node.cli.run import Run, verb
from node.messages import RefParams, WithdrawParams

_ref = click.argument("ref")
_reason = click.option("--reason", required=True, metavar="TEXT", help="Why; others will read it.")
_all = click.option("--all-versions", is_flag=True, help="All versions of it, and not one.")


@click.group(epilog="\b\nExample:\n  allod consent show alice/voices")
def consent() -> None:
    """Show the consent that a release states, or withdraw it."""


@verb(example="allod consent show alice/voices", group=consent)
@_ref
def show(run: Run, ref: str) -> int:
    """Show the consent that a release states."""
    found = run.call("consent.show", RefParams(ref))
    said = found["consent"]
    if not said:
        run.note(f"{found['name']} {found['version']} states no consent.")
    keys = [*(key for key in _NAMES if key in said), *(key for key in said if key not in _NAMES)]
    rows = [(_NAMES.get(key, key), _text(said[key])) for key in keys]
    rows.append(("licence", found["license"] or "none stated"))
    if found["expired"]:
        rows.append(("ended", "yes: the day that it names has passed"))
    status = found["status"]
    if status is not None:
        rows.append((status["state"], f"{status['at'][:10]}: {status['reason']}"))
    return run.show(found, [f"{name:<15}{text}" for name, text in rows])


@verb(example="allod consent withdraw alice/voices@2 --reason 'A speaker asked for it.'",
      group=consent)  # fmt: skip
@_ref
@_reason
@_all
def withdraw(run: Run, **given: Any) -> int:
    """Say that the data in a release may no longer be used.

    It is signed, spreads with your names, and stays. Copies on other people's machines cannot be
    recalled.
    """
    return _take_back(run, "consent.withdraw", given)


@verb(example="allod revoke alice/tiny-llm@1.2.0 --reason 'The weights are broken.'")
@_ref
@_reason
@_all
def revoke(run: Run, **given: Any) -> int:
    """Say that a release of yours is bad.

    It is signed, spreads with your names, and stays. Copies on other people's machines cannot be
    recalled.
    """
    return _take_back(run, "revoke", given)


def _take_back(run: Run, operation: str, given: dict[str, Any]) -> int:
    found = run.call(operation, WithdrawParams(**given))
    lines = []
    for one in found["releases"]:
        status = one["status"]
        text = f"{status['state']}: {status['reason']}" if status else "is as it was"
        lines.append(f"{one['name']}@{one['version']} {text}")
    lines += [
        f"needs {one['missing']} more of its keys: send {one['file']} round, for `allod key sign`"
        for one in found["waiting"]
    ]
    if not run.quiet:
        lines.append(found["limits"])
    return run.show(found, lines)


_NAMES = {
    "basis": "basis",
    "personalData": "personal data",
    "allowedUses": "allowed uses",
    "redistribution": "redistribution",
    "contact": "contact",
    "expires": "until",
}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "allowed" if value else "not allowed"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
