"""The page's files and the routes that send them, without a browser."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trio

from node.api import page
from node.api.loopback import loopback_app, serve_loopback
from node.api.ollama import ollama_routes
from node.api.page import page_routes
from tests.desk import PlainDesk

STATIC = Path(page.__file__).parent / "static"
SCRIPTS = sorted(STATIC.glob("*.js"))
STYLE = (STATIC / "style.css").read_text()
HTML = "text/html,application/xhtml+xml,*/*;q=0.8"  # what browsers send


@pytest.fixture
async def door() -> AsyncIterator[httpx.AsyncClient]:
    app = loopback_app([*page_routes(), *ollama_routes(PlainDesk())])
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_loopback, app, 0)
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield client
        nursery.cancel_scope.cancel()


async def test_a_browser_gets_the_page_and_ollamas_clients_their_answer(
    door: httpx.AsyncClient,
) -> None:
    """What / answers is decided by the Accept header, and caches are told so."""
    answer = await door.get("/", headers={"accept": HTML})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["vary"] == "accept"
    assert "<main" in answer.text
    for accept in ("*/*", "application/json", ""):
        answer = await door.get("/", headers={"accept": accept})
        assert answer.text == "Ollama is running"
    assert (await door.head("/")).status_code == 200


async def test_the_policy_lets_nothing_in_from_elsewhere(door: httpx.AsyncClient) -> None:
    """No inline script, no frame, no other origin; no cookie is set; other sites are refused."""
    for path in ("/", "/page/app.js", "/page/style.css", "/page/icon.svg"):
        answer = await door.get(path, headers={"accept": HTML})
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "set-cookie" not in answer.headers
    there = {"accept": HTML, "sec-fetch-site": "cross-site"}
    assert (await door.get("/", headers=there)).status_code == 403


async def test_parts_are_kept_by_browsers_until_they_change(door: httpx.AsyncClient) -> None:
    """An ETag that still holds is a 304; what is no part of the page is a 404."""
    answer = await door.get("/page/app.js")
    again = await door.get("/page/app.js", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in ("/page/index.html", "/page/../__init__.py", "/page/__init__.py", "/page/nothing"):
        assert (await door.get(path)).status_code == 404


def test_all_is_here_and_nothing_is_elsewhere() -> None:
    """Every script is imported, every import is a file, and no address of another site is named."""
    text = (STATIC / "index.html").read_text()
    named = set(re.findall(r'(?:src|href)="/page/([^"]+)"', text))
    for script in SCRIPTS:
        named |= set(re.findall(r'from "\./([^"]+)"', script.read_text()))
    assert named == {file.name for file in STATIC.iterdir()} - {"index.html"}
    for file in STATIC.iterdir():
        found = set(re.findall(r"https?://[\w./-]+", file.read_text()))
        assert found <= {"http://www.w3.org/2000/svg"}, file  # a name, not an address
        assert "@import" not in file.read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\bon\w+=|style=", text)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_no_script_writes_markup(script: Path) -> None:
    """Strangers' words become text: nothing here parses HTML, or code."""
    text = script.read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                 "new Function", "DOMParser", "srcdoc", "javascript:", "localStorage"):  # fmt: skip
        assert word not in text
    assert len(text.splitlines()) < 300


# -- contrast, by the formulas of WCAG 2.2


def colours(dark: bool) -> dict[str, str]:
    """The colours by name; those of the dark scheme stand in the second block."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    return dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6})", blocks[1 if dark else 0]))


def luminance(colour: str) -> float:
    def linear(value: float) -> float:
        return value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read(dark: bool) -> None:
    """Text on each ground that it stands on has the contrast of WCAG's AA: 4.5 to 1."""
    found = colours(dark)
    for ground in ("paper", "card", "wash"):
        for ink in ("ink", "soft", "accent"):
            assert contrast(found[ink], found[ground]) >= 4.5, (ink, ground)
    for ground in ("paper", "card"):
        for ink in ("good", "bad", "warn"):
            assert contrast(found[ink], found[ground]) >= 4.5, (ink, ground)
    assert contrast(found["on-accent"], found["accent"]) >= 4.5
