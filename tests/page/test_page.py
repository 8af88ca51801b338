"""The page in a real browser, on real nodes: what its owner sees and does."""

from pathlib import Path
from typing import Any

from tests.desk import serving_models
from tests.network.people import Person
from tests.page.chromium import Page, needs_chromium
from tests.releases import noise

Json = dict[str, Any]

pytestmark = needs_chromium

MIB = 1 << 20
MARKUP = "<img src=x onerror=\"document.title='broken'\"><b>bold</b>"
SLOW = "250KB"  # bytes a second: a fetch of 6 MiB is seen on its way


async def lineage(alice: Person, folder: Path) -> Json:
    """Publish a dataset, a model of it, and a fine-tune of that; the link of the last."""
    sources = {}
    for name, size in (("corpus", 4_000), ("base", 3_000), ("tuned", 6 * MIB)):
        sources[name] = folder / name
        sources[name].mkdir(parents=True)
        (sources[name] / "weights.bin").write_bytes(noise(size, len(name)))
    words = ("--kind", "model", "--license", "MIT")
    data = await alice.publish(sources["corpus"], "corpus", "--kind", "dataset", *words[2:])
    base = await alice.publish(sources["base"], "base", *words, "--data", data["ref"])
    more = ("--base", base["ref"], "--description", MARKUP)
    return await alice.publish(sources["tuned"], "tuned", *words, *more)


async def test_a_day_on_the_page(tmp_path: Path, page: Page) -> None:
    """Open it, see a fetch run, draw its lineage, chat, revoke a token, hear of a dead peer."""
    alice, bob = Person(tmp_path / "alice"), Person(tmp_path / "bob")
    tuned = await lineage(alice, tmp_path / "sources")
    ref, manifest = tuned["ref"], tuned["manifest"]
    async with (
        alice.node("--up", SLOW) as first,
        bob.node("--peer", first.address) as second,
        serving_models() as elsewhere,
    ):
        link = (await bob.run("page"))["url"]
        await page.open(link)
        await page.shows("Room", "Nothing. All is well.", second.peer)
        assert "token" not in await page.js("location.href")

        # a fetch, live
        await page.click("Transfers", "a")
        await page.type("Link, name or CID", ref)
        await page.shows(f"allod fetch {ref}")
        await page.click("Fetch")
        await page.shows("✕ failed")  # the publisher is new here
        await page.click("Take it all the same…")
        await page.shows(f"allod fetch {ref} --yes", where="dialog")
        await page.click("Take it", "dialog button")
        await page.shows("fetch · ", " MiB of 6.0 MiB", "/s", "1 source", "by ")
        assert first.peer[:8] in await page.text()
        jobs = (await bob.run("jobs"))["jobs"]
        assert [(one["subject"], one["state"]) for one in jobs] == [
            (ref, "running"),
            (ref, "failed"),
        ]
        await alice.run("limits", "--up", "none")
        await page.shows("✓ done")

        # its publisher gets a name
        await page.click("Trust", "a")
        await page.click(f"Name {tuned['publisher']}")
        await page.type("Called", "alice")
        await page.click("Trust", "button")
        await page.shows("Trust no longer")
        assert (await bob.run("trust", "list"))["publishers"][0]["petname"] == "alice"

        # what is held, and where it comes from
        await page.click("Releases", "a")
        await page.shows("alice/tuned", "✓ admitted", "whole", "pinned")
        await page.click("alice/tuned", "a")
        await page.until("document.querySelectorAll('svg.lineage .box').length === 3")
        await page.js("document.querySelector('svg.lineage .box').focus()")
        assert (await page.focused()).startswith("alice/tuned 1, model · MIT, admitted; made from")
        await page.press("ArrowRight")
        await page.until("document.activeElement.matches('[aria-pressed=true][data-id]')")
        assert (await page.focused()).startswith("alice/base 1")
        await page.click("The same as a list")
        await page.shows("alice/corpus 1 (admitted)", where="main details")
        await page.js("document.querySelector('.box').dispatchEvent(new Event('click'))")
        await page.shows(MARKUP)  # as text
        assert await page.js("document.querySelectorAll('main img, main b').length") == 0

        # a chat
        words = ("--upstream", f"{elsewhere.url}/v1", "--upstream-model", "alice/tiny")
        await bob.run("serve", manifest, "--as", "helper", *words)
        await page.click("Models", "a")
        await page.shows("helper", "✓ ready")
        await page.type("Question", "Say hello")
        await page.press("Enter")
        await page.shows("Say hello", "Hello!", "3 tokens")

        # a token is made, and revoked
        await page.click("Access", "a")
        await page.type("Name", "ci")
        await page.click("Make it")
        await page.shows("is shown this once", "allod-")
        await page.click("I have it")
        await page.click("Revoke ci", "button")
        await page.shows("allod token revoke ci", where="dialog")
        await page.click("Revoke", "dialog button")
        await page.shows("✕ revoked")
        [token] = (await bob.run("token", "list"))["tokens"]
        assert (token["name"], token["state"]) == ("ci", "revoked")

        # a peer dies
        await page.click("Health", "a")
        await first.running.kill()
        await page.shows(f"The peer {first.peer} went away; the configuration names it.")
        assert f"The peer {first.peer}" in str(
            await page.js("document.querySelector('#news').textContent")
        )

        # and the node itself
        await second.running.stop()
        await page.shows("The node does not answer.")
    own = second.status["http"]
    assert {url for url in page.requests if not url.startswith(f"{own}/")} == set()
    assert not [one for one in page.complaints if "ERR_CONNECTION" not in one]
    assert await page.js("document.cookie") == ""


async def test_a_page_without_a_token_says_how_to_get_one(tmp_path: Path, page: Page) -> None:
    """It shows nothing of the node, takes the link by hand, and says when a token is stale."""
    bob = Person(tmp_path / "bob")
    async with bob.node("--offline") as node:
        await page.open(node.status["http"])
        await page.shows("This page wants a token", "allod page")
        assert not [url for url in page.requests if "/control/" in url]
        await page.type("Or paste the link, or the token, here", "a-wrong-token")
        await page.click("Open", "button")
        await page.shows("no longer good")
        link = (await bob.run("page"))["url"]
        await page.type("Or paste the link, or the token, here", link)
        await page.click("Open", "button")
        await page.shows("Room", node.peer)


async def test_it_is_operated_by_keyboard_and_read_aloud(tmp_path: Path, page: Page) -> None:
    """Landmarks, one heading, names for everything; a dialog gives the focus back.

    No view is wider than the window of a telephone: what is wide scrolls by itself.
    """
    bob = Person(tmp_path / "bob")
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(noise(5_000, 1))
    tiny = await bob.publish(folder, "tiny", "--kind", "model", "--license", "MIT")
    views = ["releases", "transfers", "peers", "models", "access", "trust", "health"]
    async with bob.node("--offline"):
        await bob.run("token", "new", "ci")
        await page.look("dark", 400)
        await page.open((await bob.run("page"))["url"])
        await page.shows("Room")
        await page.press("Tab")
        assert await page.focused() == "Skip to the content"
        await page.press("Enter")
        assert await page.js("document.activeElement.id") == "main"
        for view in (*views, f"release/{tiny['manifest']}", ""):
            await page.js(f"location.hash = '#/{view}'")
            await page.until("document.activeElement.id === 'title'")
            await page.until("!document.querySelector('main').innerText.includes('Asking')")
            assert await page.js("document.documentElement.scrollWidth") <= 400, view
            nodes = await page.nodes()
            roles = [one["role"]["value"] for one in nodes]
            assert {"banner", "navigation", "main", "contentinfo"} <= set(roles), view
            levels = [
                value["value"]["value"]
                for one in nodes
                if one["role"]["value"] == "heading"
                for value in one["properties"]
                if value["name"] == "level"
            ]
            assert levels.count(1) == 1, view
            for one in nodes:
                if one["role"]["value"] in ("button", "link", "textbox", "combobox", "checkbox",
                                            "table", "progressbar", "meter", "region"):  # fmt: skip
                    assert one["name"]["value"].strip(), (view, one)
        await page.js("location.hash = '#/access'")
        await page.until("document.querySelector('[aria-label=\"Revoke ci\"]')")
        await page.js("document.querySelector('[aria-label=\"Revoke ci\"]').focus()")
        await page.press("Enter")
        await page.until("document.querySelector('dialog[open]')")
        assert await page.focused() == "Keep it"
        await page.press("Escape")
        await page.until("!document.querySelector('dialog[open]')")
        assert await page.focused() == "Revoke ci"
        [token] = (await bob.run("token", "list"))["tokens"]
        assert token["state"] == "good"
