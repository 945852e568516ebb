"""Headless Chromium for tests of pages: found on the machine, driven through its DevTools pipe, reaching no network."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
CODES = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36, "PageDown": 34}
ANSWER_S = 60.0


def chromium() -> str | None:
    """The browser's program: `BIOMNI_CHROMIUM`, or what is on the PATH; None where there is none."""
    return os.environ.get("BIOMNI_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. `errors`: what scripts threw and what the content policy refused; `requests`: addresses asked for."""

    def __init__(self, browser: "_Browser", session: str) -> None:
        self.browser, self.session = browser, session
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.send(method, params, self.session, self._event)

    def open(self, address: str) -> None:
        self.send("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.errors.clear()
        self.requests.clear()
        self.send("Page.navigate", url=address)
        here = json.dumps(address.partition("#")[0])
        self.wait(f"location.href.startsWith({here}) && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Value of an expression; a promise is awaited. Raises: AssertionError with what it threw."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        thrown = done.get("exceptionDetails")
        assert thrown is None, thrown["exception"].get("description", thrown)
        return done["result"].get("value")

    def wait(self, condition: str, seconds: float = 20.0) -> Any:
        """The condition's value once it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(condition):
                return value
            time.sleep(0.03)
        raise AssertionError(f"still false after {seconds} s: {condition}; errors: {self.errors}")

    def press(self, key: str, *, shift: bool = False) -> None:
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        common = {"key": key, "modifiers": 8 if shift else 0, "windowsVirtualKeyCode": CODES.get(key, 0)}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def size(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def _event(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif event["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


class _Browser:
    """The pipe: one JSON message after another, each ended by a NUL."""

    def __init__(self, write_fd: int, read_fd: int) -> None:
        self.write_fd, self.read_fd = write_fd, read_fd
        self.numbers, self.buffer = itertools.count(1), b""

    def send(self, method: str, params: dict[str, Any], session: str = "", event: Any = None) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self.write_fd, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            if event is not None and "method" in answer:
                event(answer)
        raise AssertionError("unreachable")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" in self.buffer:
                text, _, self.buffer = self.buffer.partition(b"\0")
                yield json.loads(text)
            ready, _, _ = select.select([self.read_fd], [], [], ANSWER_S)
            assert ready, f"Chromium said nothing for {ANSWER_S} s"
            more = os.read(self.read_fd, 1 << 20)
            assert more, "Chromium ended"
            self.buffer += more


@contextmanager
def open_page(program: str) -> Iterator[Page]:
    """A tab of a browser of its own, with an empty profile; the browser ends with the block."""
    ours_read, theirs_write = os.pipe()
    theirs_read, ours_write = os.pipe()
    command = f'exec "$0" "$@" 3<&{theirs_read} 4>&{theirs_write}'
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["bash", "-c", command, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_read, theirs_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_read)
        os.close(theirs_write)
        try:
            browser = _Browser(ours_write, ours_read)
            target = browser.send("Target.createTarget", {"url": "about:blank"})["targetId"]
            session = browser.send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
            yield Page(browser, session)
        finally:
            os.close(ours_write)
            os.close(ours_read)
            process.terminate()
            process.wait(30)
