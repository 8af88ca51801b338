"""A release's provenance as one page of HTML, to be kept beside the files or sent to somebody.

The page is whole in itself: no script, no picture, no font, no request; its one style stands in it,
and a content security policy that allows exactly that style. It is light or dark as the reader's
system is, and it prints.

Everything on it was chosen by strangers, names and reviews and licences: so every text goes through
one function that escapes it, and the tags are the only strings that don't.

Pure: from the object that ``allod provenance --json`` prints to text.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator
from html import escape
from typing import Any, Final

from p2p.errors import UsageError

Json = dict[str, Any]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2125; --soft: #5b6570; --line: #d5dae0;
  --paper: #fff; --card: #f6f8fa; --good: #0b6b3a; --bad: #b3261e; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa5b1; --line: #39424c;
  --paper: #14181c; --card: #1c2227; --good: #58c98b; --bad: #ff8a80; --warn: #f0b95a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; }
code { font: 0.85rem ui-monospace, monospace; color: var(--soft); overflow-wrap: anywhere; }
.verdict { border-left: 0.4rem solid; padding: 0.5rem 1rem; background: var(--card); }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.verdict p, .verdict li { color: var(--ink); margin: 0.2rem 0; }
.release { background: var(--card); border: 1px solid var(--line); border-radius: 0.5rem;
  padding: 0.8rem 1rem; margin: 0.8rem 0; }
ul.parents { list-style: none; margin: 0; padding-left: 1.2rem;
  border-left: 2px solid var(--line); }
.role { color: var(--soft); margin: 0.8rem 0 -0.4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1rem;
  margin: 0.5rem 0 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
footer { color: var(--soft); margin-top: 2rem; border-top: 1px solid var(--line); }
@media print { body { max-width: none; margin: 0; } .release { break-inside: avoid; } }
"""

# What a browser would not show, or would let turn other words round.
_HIDDEN: Final = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_PASSED: Final = {True: "passed", False: "failed", None: "gave no result"}


def provenance_page(found: Json, when: str) -> str:
    """Write the page of a provenance; ``when`` says when it was looked up."""
    if not found.get("chain"):
        raise UsageError("There is nothing to show: the provenance names no release.")
    first = found["chain"][0]
    policy = f"default-src 'none'; style-src 'sha256-{_digest(_STYLE)}'"
    drawn: set[str] = set()
    chain = {one["manifest"]: one for one in found["chain"]}
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{_text('Provenance of ' + _name(first))}</title>",
        f"<style>{_STYLE}</style></head><body><main>",
        f"<h1>Where {_text(_name(first))} comes from</h1>",
        *_verdict(found),
        *_release(first, chain, drawn),
        *(["<p>This lineage goes on further than is followed.</p>"] if found.get("cut") else []),
        "</main><footer><p>",
        f"Looked up {_text(when)} by <code>allod provenance</code>, from signatures alone; "
        "run it again to see whether it still holds.",
        "</p></footer></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _verdict(found: Json) -> Iterator[str]:
    if not found["rule"]:
        return
    admitted = found["verdict"] == "admitted"
    yield f'<section class="verdict {"good" if admitted else "bad"}">'
    yield f"<strong>{'Admitted' if admitted else 'Refused'}</strong>"
    yield f"<p>By the rule <code>{_text(found['rule'])}</code>. {_text(found['reason'])}</p>"
    if found["evidence"]:
        yield "<ul>" + "".join(f"<li>{_text(one)}</li>" for one in found["evidence"]) + "</ul>"
    yield "</section>"


def _release(one: Json, chain: dict[str, Json], drawn: set[str]) -> Iterator[str]:
    drawn.add(one["manifest"])
    yield f'<article class="release" id="{_text(one["manifest"])}">'
    yield f"<h2>{_text(_name(one))}</h2>"
    if one.get("description"):
        yield f"<p>{_text(one['description'])}</p>"
    yield "<dl>"
    for term, classes, text in _facts(one):
        mark = f' class="{classes}"' if classes else ""
        yield f"<dt>{_text(term)}</dt><dd{mark}>{_text(text)}</dd>"
    yield f"<dt>address</dt><dd><code>{_text(one['manifest'])}</code></dd>"
    yield "</dl></article>"
    if one["parents"]:
        yield '<ul class="parents">'
        for parent in one["parents"]:
            yield "<li>"
            yield f'<p class="role">{_text(_role(parent))}</p>'
            yield from _parent(parent, chain, drawn)
            yield "</li>"
        yield "</ul>"


def _parent(parent: Json, chain: dict[str, Json], drawn: set[str]) -> Iterator[str]:
    below = chain.get(parent["manifest"] or "")
    if below is None:
        what = parent["manifest"] or parent["uri"] or parent["name"]
        why = "not followed" if parent["manifest"] else "elsewhere; nothing here proves it"
        yield f'<article class="release"><h2>{_text(what)}</h2><p>{why}</p></article>'
    elif below["manifest"] in drawn:
        anchor = f"#{_text(below['manifest'])}"
        yield f'<p><a href="{anchor}">{_text(_name(below))}</a>, as above</p>'
    else:
        yield from _release(below, chain, drawn)


def _facts(one: Json) -> Iterator[tuple[str, str, str]]:
    """Yield term, class and text of everything that is known of a release."""
    if not one["here"]:
        yield "missing", "warn", "Nothing of it is on this machine, so nothing of it was checked."
        return
    yield "kind", "", one["kind"]
    yield "licence", "" if one["license"] else "warn", one["license"] or "none stated"
    yield "publisher", "", one["publisher"]
    signatures = one["signatures"]
    if signatures["ok"]:
        yield "signed by", "good", ", ".join(signatures["keys"])
    else:
        yield "signature", "bad", f"Not signed by its publisher: {signatures['reason']}"
    yield "made", "", one["created"]
    yield "bytes", "", f"{one['size']:,}" + ("" if one["complete"] else ", not all of them here")
    if one["names"] and one["names"]["stale"]:
        text = f"What its publisher says expired on {one['names']['expires']}."
        yield "stale", "warn", text
    if one["status"]:
        status = one["status"]
        yield status["state"], "bad", f"{status['at']}: {status['reason']}"
    verdict = one["verdict"]
    if verdict and not verdict["admitted"]:
        yield "refused", "bad", f"{verdict['rule']}: {verdict['reason']}"
    for finding in one["findings"]:
        yield finding["level"], "bad" if finding["level"] == "problem" else "warn", finding["text"]
    for said in one["statements"]:
        yield said["kind"], _mark(said), _statement(said)
    for key, value in sorted(one["consent"].items()):
        yield f"consent, {key}", "", _word(value)


def _mark(said: Json) -> str:
    if said["passed"] is False:
        return "bad"
    return "good" if said["passed"] and said["known"] else "warn"


def _statement(said: Json) -> str:
    who = said["petname"] or said["publisher"]
    proof = "" if said["known"] else f" (by the key {said['key']}, which nothing ties to that name)"
    words = f" {said['text']}" if said["text"] else ""
    return f"{who}{proof}: {_PASSED[said['passed']]}, {said['at']}.{words}"


def _name(one: Json) -> str:
    if not one["here"]:
        return str(one["manifest"])
    return f"{one['petname'] or one['publisher']}/{one['name']} {one['version']}"


def _role(parent: Json) -> str:
    text = str(parent["role"]).replace("_", " ")
    return f"{text}, {parent['relation']}" if parent["relation"] else text


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _text(value: object) -> str:
    """Escape a text for HTML, inside tags and inside quotes; show what would be hidden."""
    shown = _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], str(value))
    return escape(shown, quote=True)


def _digest(style: str) -> str:
    """Return what a content security policy calls a style by."""
    return b64encode(hashlib.sha256(style.encode()).digest()).decode()
