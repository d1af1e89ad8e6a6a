"""A headless Chromium for tests of the page: $CHROMIUM, or what is on PATH.

On Debian: apt-get install chromium.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = "chromium", "chromium-browser", "google-chrome"


def chromium() -> str | None:
    """The program's path, if there is one."""
    if given := os.environ.get("CHROMIUM"):
        return shutil.which(given)
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser(program: str) -> Iterator[Browser]:
    """A browser without a window. In a container there is no sandbox inside the sandbox."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def page(opened: Browser, url: str, **context: Any) -> Iterator[Page]:
    """The page at a server; whatever its console calls an error fails the block."""
    place = opened.new_context(**context)
    try:
        made = place.new_page()
        errors: list[str] = []
        made.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        made.on("pageerror", lambda error: errors.append(str(error)))
        made.goto(url)
        made.wait_for_selector("#model option", state="attached")
        yield made
        assert errors == []
    finally:
        place.close()
