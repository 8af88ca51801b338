"""Headless Chromium for tests, driven over its DevTools protocol.

Debian's package will do; where no Chromium is found the tests that want one are skipped. Nothing
here waits by the clock: a condition is looked at again whenever the page changes.
"""

import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, Final

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

Json = dict[str, Any]

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE: Final = 30.0
"""Seconds that a condition may take to hold; only stops a hang."""
MAX_MESSAGE: Final = 64 << 20
KEYS: Final = {"Enter": ("\r", 13), "Tab": ("", 9), "Escape": ("", 27), "ArrowRight": ("", 39),
               "ArrowLeft": ("", 37), "ArrowDown": ("", 40), "ArrowUp": ("", 38)}  # fmt: skip

# Resolves when the expression is true; looked at again at every change of the document.
_UNTIL: Final = """new Promise((resolve) => {
  const holds = () => { try { return EXPRESSION; } catch { return false; } };
  const look = () => { const found = holds(); if (found) { watcher.disconnect(); resolve(true); } };
  const watcher = new MutationObserver(look);
  watcher.observe(document, {subtree: true, childList: true, attributes: true,
                             characterData: true});
  document.addEventListener("close", look, true);
  look();
})"""


def find_chromium() -> str | None:
    """Return the program, if there is one on this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


needs_chromium = pytest.mark.skipif(
    find_chromium() is None,
    reason="wants a Chromium (`apt-get install chromium`), and none is found",
)


class Page:
    """One tab, and what it asked for and complained of so far."""

    def __init__(self, connection: "Connection", session: str) -> None:
        self._connection = connection
        self._session = session
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def command(self, method: str, **params: Any) -> Json:
        """Send a command of the protocol to this tab."""
        return await self._connection.command(method, params, self._session)

    async def open(self, url: str) -> None:
        """Go to a URL, and wait until it has loaded."""
        loaded = self._connection.expect("Page.loadEventFired", self._session)
        await self.command("Page.navigate", url=url)
        with trio.fail_after(PATIENCE):
            await loaded.wait()

    async def js(self, expression: str) -> Any:
        """The value of an expression, awaited."""
        found = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        with trio.move_on_after(PATIENCE) as scope:
            await self.js(_UNTIL.replace("EXPRESSION", expression))
        if scope.cancelled_caught:
            text = await self.text()
            raise AssertionError(f"never held: {expression}\n{self.complaints}\n{text}")

    async def text(self, selector: str = "body") -> str:
        """What a person reads there."""
        return str(await self.js(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def shows(self, *words: str, where: str = "main") -> None:
        """Wait until a part of the page has all these words."""
        place = f"document.querySelector({json.dumps(where)}).innerText"
        told = " && ".join(f"{place}.includes({json.dumps(word)})" for word in words)
        await self.until(told)

    async def click(self, name: str, kind: str = "button, a, summary") -> None:
        """Click what has this accessible name, as soon as it is there and takes clicks."""
        found = (
            f"[...document.querySelectorAll({json.dumps(kind)})].find((one) => !one.disabled && "
            f"(one.getAttribute('aria-label') ?? one.textContent.trim()) === {json.dumps(name)} && "
            "one.checkVisibility() && "
            "(!document.querySelector('dialog[open]') || one.closest('dialog')))"
        )
        await self.until(found)
        await self.js(f"({found}).click()")

    async def type(self, label: str, text: str) -> None:
        """Type into the field of this label."""
        found = (
            "[...document.querySelectorAll('label')].find((one) => "
            f"one.textContent.trim() === {json.dumps(label)})"
        )
        await self.until(found)
        await self.js(f"({found}).control.focus()")
        await self.command("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press a key, as a person does."""
        text, code = KEYS[key]
        names = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        await self.command("Input.dispatchKeyEvent", **down, **names)
        await self.command("Input.dispatchKeyEvent", type="keyUp", **names)

    async def focused(self) -> str:
        """The accessible name of what has the focus."""
        return str(
            await self.js(
                "(document.activeElement.getAttribute('aria-label') ?? "
                "document.activeElement.innerText ?? '').trim()"
            )
        )

    async def nodes(self) -> list[Json]:
        """The accessibility tree: role, name and properties of what a screen reader finds."""
        found: list[Json] = (await self.command("Accessibility.getFullAXTree"))["nodes"]
        return [one for one in found if not one.get("ignored")]

    async def look(self, scheme: str, width: int = 1280, height: int = 900) -> None:
        """Be light or dark, in a window of this size."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.command("Emulation.setEmulatedMedia", features=features)
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    async def picture(self, file: Path) -> None:
        """Save what a person sees as a PNG."""
        found = await self.command("Page.captureScreenshot", format="png")
        await trio.Path(file).write_bytes(base64.b64decode(found["data"]))


class Connection:
    """The browser's side of the protocol."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket
        self._count = 0
        self._answers: dict[int, tuple[trio.Event, list[Json]]] = {}
        self._expected: dict[tuple[str, str], trio.Event] = {}
        self._pages: dict[str, Page] = {}

    async def command(self, method: str, params: Json, session: str = "") -> Json:
        """Send a command and return its result."""
        self._count += 1
        number, done, answer = self._count, trio.Event(), list[Json]()
        self._answers[number] = done, answer
        message = {"id": number, "method": method, "params": params}
        await self._socket.send_message(
            json.dumps(message | ({"sessionId": session} if session else {}))
        )
        await done.wait()
        assert "error" not in answer[0], (method, answer[0]["error"])
        result: Json = answer[0]["result"]
        return result

    def expect(self, method: str, session: str) -> trio.Event:
        """What is set when an event comes."""
        return self._expected.setdefault((method, session), trio.Event())

    async def new_page(self) -> Page:
        """Open a tab."""
        target = (await self.command("Target.createTarget", {"url": "about:blank"}))["targetId"]
        attach = {"targetId": target, "flatten": True}
        session = (await self.command("Target.attachToTarget", attach))["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            await page.command(f"{domain}.enable")
        return page

    async def listen(self) -> None:
        """Read what the browser says until it ends."""
        with suppress(ConnectionClosed):
            while True:
                message = json.loads(await self._socket.get_message())
                if "id" in message:
                    done, answer = self._answers.pop(message["id"])
                    answer.append(message)
                    done.set()
                else:
                    self._hear(message["method"], message["params"], message.get("sessionId", ""))

    def _hear(self, method: str, params: Json, session: str) -> None:
        expected = self._expected.pop((method, session), None)
        if expected is not None:
            expected.set()
        page = self._pages.get(session)
        if page is None:
            return
        if method == "Network.requestWillBeSent":
            page.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            page.complaints.append(json.dumps(params["exceptionDetails"])[:800])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            page.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


@asynccontextmanager
async def browser() -> AsyncIterator[Connection]:
    """Run Chromium, with a profile of its own, for as long as the block lasts."""
    program = find_chromium()
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [
            program, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}",
            "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--no-default-browser-check", "--disable-features=Translate,OptimizationHints",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank",
        ]  # fmt: skip
        process = await trio.lowlevel.open_process(
            words, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
        )
        try:
            assert process.stderr is not None
            with trio.fail_after(PATIENCE):
                url = await _address(process.stderr)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_drain, process.stderr)
                async with open_websocket_url(url, max_message_size=MAX_MESSAGE) as socket:
                    connection = Connection(socket)
                    nursery.start_soon(connection.listen)
                    yield connection
                    nursery.cancel_scope.cancel()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            if process.stderr is not None:
                await process.stderr.aclose()


async def _address(stream: trio.abc.ReceiveStream) -> str:
    said = b""
    async for data in stream:
        said += data
        _, found, rest = said.partition(b"DevTools listening on ")
        if found and b"\n" in rest:
            return rest.partition(b"\n")[0].decode().strip()
    raise AssertionError(f"Chromium did not start: {said[-2000:]!r}")


async def _drain(stream: trio.abc.ReceiveStream) -> None:
    with suppress(trio.ClosedResourceError):
        async for _ in stream:
            pass
