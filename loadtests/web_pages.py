"""How soon the web page can be used, in Chromium."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

_BAR_S = 1.0
_NUM_VISITS = 5
_PAGES = {
    "catalogue": ("web/#/catalogue", "article h1"),
    "a board to play": ("web/#/play/verl_env/sokoban_small-v0?seed=3", ".stage img"),
    "list of episodes": ("web/#/episodes", ".rows tbody tr"),
    "list of a run": ("web/#/episodes?run=run-3", ".rows tbody tr"),
    "an episode": ("web/#/episodes/{episode}", ".turn"),
    "cluster": ("web/#/cluster", "[aria-label^='Slots by worker']"),
    "API": ("docs", "h1"),
}
"""Address, and what is there when the page can be used."""
_DRAWN = (
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
)
"""Milliseconds since the navigation began, as soon as the page has drawn twice: then it answers."""


async def show_usable(url: str, episode: str, console: Console) -> bool:
    """Visit each page with an empty cache, print when it could be used, and tell whether that is within the bar.

    Args:
        url: Of the server, with a slash at its end.
        episode: Id of an episode that is kept.
        console: Takes the table.
    """
    chromium = shutil.which("chromium")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        console.print(
            "Pages in Chromium: not measured; make web-test installs it, and .venv-web/bin/python has Playwright"
        )
        return True
    api: Any = importlib.import_module("playwright.async_api")
    table = Table(title="Seconds from the beginning of the navigation until a page can be used, empty cache")
    for column in ("page", "median", "most", "bar"):
        table.add_column(column, justify="left" if column == "page" else "right")
    are_soon = True
    async with api.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=chromium)
        for name, (address, there) in _PAGES.items():
            visits = [
                await _usable_s(browser, url + address.format(episode=episode), there)
                for _ in range(_NUM_VISITS)
            ]
            median = statistics.median(visits)
            table.add_row(name, f"{median:.2f}", f"{max(visits):.2f}", f"{_BAR_S:.0f}")
            are_soon &= median <= _BAR_S
        await browser.close()
    console.print(table)
    return are_soon


async def _usable_s(browser: Any, address: str, there: str) -> float:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(address, wait_until="commit")
    await page.locator(there).first.wait_for(timeout=120_000)
    milliseconds: float = await page.evaluate(_DRAWN)
    await context.close()
    return milliseconds / 1e3
