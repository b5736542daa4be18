"""The panel of runs as a person at ComfyUI's page uses it."""

from __future__ import annotations

from playwright.sync_api import Browser, Locator, Page, expect

from .comfy import Comfy
from .pages import open_page

TAB = ":is(.cocktail-runs-tab-button, [data-testid=cocktail-runs-tab-button])"
"""The button of the panel, as older and newer pages of ComfyUI mark it."""
PALETTE = "name => window.app.extensionManager.setting.set('Comfy.ColorPalette', name)"


def ready(comfy: Comfy, browser: Browser, nodes_2: bool = False) -> Page:
    """ComfyUI's page with an empty graph."""
    comfy.post("/settings/Comfy.TutorialCompleted", True)
    comfy.post("/settings/Comfy.VueNodes.Enabled", nodes_2)
    page, _ = open_page(browser, comfy)
    page.evaluate("() => window.app.graph.clear()")
    return page


def open_panel(page: Page) -> None:
    page.locator(TAB).click()
    page.locator(".cocktail-runs .runs button").first.wait_for()


def close_panel(page: Page) -> None:
    page.locator(TAB).click()
    page.locator(".cocktail-runs").wait_for(state="detached")


def item(page: Page, name: str) -> Locator:
    """A run in the list."""
    return page.locator(".cocktail-runs .runs button").filter(
        has=page.locator(f".name[title='{name}']")
    )


def show(page: Page, name: str) -> None:
    """Open a run from the list."""
    item(page, name).click()
    expect(page.locator(".cocktail-runs h2")).to_have_attribute("title", name)


def part(page: Page, title: str) -> Locator:
    """Open a part of the run that is shown; by key, as what is above may still grow and move it."""
    page.get_by_role("tab", name=title).press("Enter")
    return page.get_by_role("tabpanel", name=title)


def press(page: Page, name: str) -> None:
    page.locator(".cocktail-runs .buttons").get_by_role("button", name=name).click()


def told(page: Page) -> Locator:
    """What the panel says about what was asked of it."""
    return page.locator(".cocktail-runs .message")


def widen(page: Page, width: int) -> None:
    page.evaluate(
        """width => document.querySelector(".cocktail-runs").style.width = `${width}px`""", width
    )
