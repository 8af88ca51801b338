"""A release's provenance as a tree, for a terminal.

It is drawn from the object that ``--json`` prints, so that both say the same. A release that is an
ancestor by two ways is drawn once and named the second time.
"""

from collections.abc import Iterator
from typing import Any

from node.cli.text import size_text

Json = dict[str, Any]

_PASSED = {True: "passed", False: "failed", None: "no result"}


def draw(found: Json) -> list[str]:
    """Return the lines of the tree, the verdict first."""
    lines = [f"{found['verdict']}, by the rule {found['rule']}" if found["rule"] else ""]
    lines += [f"  {one}" for one in found["evidence"]]
    if not found["rule"]:
        lines = []
    chain = {one["manifest"]: one for one in found["chain"]}
    drawn: set[str] = set()
    lines += _release(found["chain"][0], chain, drawn)
    if found["cut"]:
        lines.append("This lineage goes on further than is followed.")
    return lines


def _release(one: Json, chain: dict[str, Json], drawn: set[str]) -> Iterator[str]:
    """Yield a release and all that hangs on it."""
    drawn.add(one["manifest"])
    yield title(one)
    yield from (f"│ {line}" for line in facts(one))
    parents = one["parents"]
    for number, parent in enumerate(parents, 1):
        last = number == len(parents)
        head, rest = ("└─ ", "   ") if last else ("├─ ", "│  ")
        begin = f"{role(parent)}: "
        below = chain.get(parent["manifest"] or "")
        if below is None:
            yield f"{head}{begin}{elsewhere(parent)}"
        elif below["manifest"] in drawn:
            yield f"{head}{begin}{title(below)}, as above"
        else:
            lines = _release(below, chain, drawn)
            yield f"{head}{begin}{next(lines)}"
            yield from (rest + line for line in lines)


def title(one: Json) -> str:
    """Name a release: what a person calls it, or its address where nothing of it is here."""
    if not one["here"]:
        return f"{one['manifest']}, of which this machine knows nothing"
    owner = one["petname"] or one["publisher"]
    return f"{owner}/{one['name']} {one['version']}"


def role(parent: Json) -> str:
    """Say what a parent was: base model (finetune)."""
    text = parent["role"].replace("_", " ")
    return f"{text} ({parent['relation']})" if parent["relation"] else text


def elsewhere(parent: Json) -> str:
    """Name a parent that is no release of this network, or was cut off."""
    if parent["manifest"]:
        return f"{parent['manifest']}, not followed"
    return f"{parent['uri'] or parent['name']}, which nothing here proves"


def facts(one: Json) -> Iterator[str]:
    """Yield what is known of a release, a line each; what is wrong begins in capitals."""
    if not one["here"]:
        yield f"`allod fetch {one['manifest']}` gets it"
        return
    license = one["license"] or "no licence stated"
    held = "held" if one["complete"] else "files not held"
    yield f"{one['kind']}, {license}, {size_text(one['size'])}, {held}, made {one['created']}"
    yield one["manifest"]
    yield signed(one)
    if one["names"] and one["names"]["stale"]:
        yield f"STALE: what its publisher says expired on {one['names']['expires']}"
    if one["status"]:
        status = one["status"]
        yield f"{status['state'].upper()} on {status['at']}: {status['reason']}"
    verdict = one["verdict"]
    if verdict and not verdict["admitted"]:
        yield f"REFUSED by {verdict['rule']}: {verdict['reason']}"
    for finding in one["findings"]:
        yield f"{finding['level'].upper()} ({finding['rule']}): {finding['text']}"
    yield from map(statement, one["statements"])
    if one["consent"]:
        yield "consent: " + "; ".join(f"{key} {_word(word)}" for key, word in _consent(one))


def signed(one: Json) -> str:
    """Say who signed a release."""
    if not one["signatures"]["ok"]:
        return f"NOT SIGNED by its publisher: {one['signatures']['reason']}"
    return "signed by " + ", ".join(one["signatures"]["keys"])


def statement(said: Json) -> str:
    """Say what somebody says of a release."""
    who = said["petname"] or said["publisher"]
    proof = "" if said["known"] else f", a key that nothing here ties to that name: {said['key']}"
    words = f": {said['text']}" if said["text"] else ""
    return f"{said['kind']} by {who}, {_PASSED[said['passed']]}, {said['at']}{proof}{words}"


def _consent(one: Json) -> list[tuple[str, Any]]:
    return sorted(one["consent"].items())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
