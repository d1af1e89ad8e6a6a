"""The pictures of docs/server.md: a real conversation with the default model, in a headless Chromium.

python -m tests.server.pictures
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from outpace.models.text import load
from outpace.server.app import create_app
from outpace.server.run import bound, open_house
from outpace.server.serving import Settings
from tests.server.browsing import browser, chromium, page

if TYPE_CHECKING:
    from playwright.sync_api import Page

DOCS = Path(__file__).parents[2] / "docs"
MODEL = "smollm2-135m-instruct"
MESSAGE = "Why are there tides? Explain it to a child."


@contextmanager
def served() -> Iterator[str]:
    """The address of a server of the default model."""
    house, metrics = open_house([MODEL], [MODEL], load, Settings())
    with bound("127.0.0.1", 0) as place:
        server = uvicorn.Server(uvicorn.Config(create_app(house, metrics), log_config=None))
        thread = threading.Thread(target=server.run, args=([place],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{place.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def main() -> None:
    """Draw both."""
    if (program := chromium()) is None:
        sys.exit("there is no chromium, accepted is one on PATH or in $CHROMIUM")
    size = {"width": 1180, "height": 880}
    with served() as url, browser(program) as opened, page(opened, url, viewport=size) as shown:
        shown.fill("#max-tokens", "96")
        shown.fill("#message", MESSAGE)
        shown.press("#message", "Enter")
        shown.get_by_role("button", name="Beside plain").click()
        shown.wait_for_selector(".verdict")
        shown.check("#show-dropped")
        _take(shown, "server_chat.png")
        shown.get_by_role("button", name="Trace", exact=True).click()
        _find_a_tree(shown)
        _take(shown, "server_trace.png")


def _take(shown: Page, name: str) -> None:
    shown.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    shown.mouse.move(0, 0)
    shown.screenshot(path=DOCS / name, full_page=True)


def _find_a_tree(shown: Page) -> None:
    """Go to a step with kept tokens beside dropped ones, as many as there are."""
    best, found = -1, "1"
    for step in range(1, int(shown.get_attribute("#step", "max") or 1) + 1):
        shown.fill("#step", str(step))
        kept = shown.locator("#tree .node.kept").count()
        dropped = shown.locator("#tree .node.dropped").count()
        if min(kept, 4) + min(dropped, 6) > best and kept and dropped:
            best, found = min(kept, 4) + min(dropped, 6), str(step)
    shown.fill("#step", found)


if __name__ == "__main__":
    main()
