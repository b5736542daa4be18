"""ComfyUI's page in a real browser."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from types import ModuleType

from playwright.sync_api import (
    APIResponse,
    Browser,
    ConsoleMessage,
    Page,
    Route,
    expect,
    sync_playwright,
)

from .comfy import Comfy

ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
PATIENCE_MS = 120_000
"""So long is waited for what has to come, on a machine with other things to do."""


@contextlib.contextmanager
def launched(dev: ModuleType, gpu: bool = False) -> Iterator[Browser]:
    """The system's Chromium, without a window, which finds no host but this machine: otherwise it
    depends on the network when, and of what, a page complains. Where there is no GPU it imitates
    one, at several times the processor time, unless it is told to use none.
    """
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, dev.CHROMIUM)), None)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", ALONE, *(() if gpu else ("--disable-gpu",))]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        expect.set_options(timeout=PATIENCE_MS)
        yield browser
        browser.close()


def open_page(browser: Browser, server: Comfy) -> tuple[Page, set[str]]:
    """ComfyUI's page when it is ready to be used, and the set that its complaints go to."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    complaints: set[str] = set()

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.add(general(f"{message.location['url']} {message.text}"))

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.add(general(str(error))))
    page.goto(server.url)
    page.get_by_test_id("queue-button").wait_for()
    page.wait_for_load_state("networkidle")
    return page, complaints


def press_run(page: Page) -> None:
    """Queue what the page shows, by its button: alone in newer pages, in a group in older ones."""
    page.get_by_test_id("queue-button").click()


def general(complaint: str) -> str:
    """A complaint without what differs between two servers: port, and which node types the page
    looks up on the web.
    """
    complaint = re.sub(r"127\.0\.0\.1:\d+", "SERVER", complaint.splitlines()[0])
    return re.sub(r"https://api\.comfy\.org/[^' ]*", "https://api.comfy.org/", complaint)


class Held:
    """The answer of the server to the next request of this address, kept from the page until
    `let_go`; it is as old then as the request.
    """

    def __init__(self, page: Page, address: re.Pattern[str]) -> None:
        self.page, self.address = page, address
        self.kept: list[tuple[Route, APIResponse]] = []
        page.route(address, self._keep, times=1)

    def _keep(self, route: Route) -> None:
        self.kept.append((route, route.fetch()))

    def wait(self) -> None:
        """Until it is asked for, and answered."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not self.kept:
            assert time.monotonic() < deadline, "it was not asked for"
            self.page.wait_for_timeout(10)

    def let_go(self) -> None:
        """Returns when the page has had it, and time to do something about it."""
        self.wait()
        ((route, answer),) = self.kept
        with self.page.expect_response(self.address) as arrived:
            route.fulfill(response=answer)
        arrived.value.finished()
        self.page.evaluate(
            """async () => {
                for (let frames = 0; frames < 3; frames++) await new Promise(requestAnimationFrame);
            }"""
        )
