"""The page's files: who gets them, with which headers, and that they need nothing from elsewhere."""

from __future__ import annotations

import re

import pytest

from outpace.server.pages import FILES, FOLDER
from tests.server.living import Living, living


def test_every_file_is_served_and_no_other(server: Living) -> None:
    assert {name for name, _ in FILES.values()} == {path.name for path in FOLDER.iterdir()}
    for path, (name, kind) in FILES.items():
        status, headers, text = server.ask("GET", path)
        assert (status, text) == (200, (FOLDER / name).read_text("utf-8"))
        assert headers["content-type"].partition(";")[0] == kind
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
    for path in ("/index.html", "/page", "/page.js/", "/../pages.py", "/%2e%2e/pages.py"):
        assert server.ask("GET", path)[0] in (307, 404)


def test_the_page_needs_no_key_and_what_it_asks_does(tmp_path_factory: pytest.TempPathFactory) -> None:
    with living(tmp_path_factory.mktemp("keys"), keys=["secret"]) as server:
        assert all(server.ask("GET", path)[0] == 200 for path in FILES)
        assert server.ask("GET", "/v1/models")[0] == 401
        assert server.ask("GET", "/page")[0] == 401


@pytest.mark.parametrize("name", [name for name, _ in FILES.values()])
def test_nothing_comes_from_elsewhere_and_no_text_becomes_markup(name: str) -> None:
    text = (FOLDER / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|url\(", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text
    )
    assert not re.search(r"\son\w+=|style=|<style|<script(?! type=\"module\" src=)", text)
    assert len(text.splitlines()) <= 400


def test_files_that_the_files_name_are_there() -> None:
    named = set()
    for path in FOLDER.iterdir():
        named |= set(re.findall(r"(?:from \"\./|src=\"|href=\")([\w.]+)\"", path.read_text("utf-8")))
    assert len(named) > 5 and named <= {name for name, _ in FILES.values()}


def test_ids_that_the_scripts_ask_for_are_on_the_page() -> None:
    there = re.findall(r" id=\"([\w-]+)\"", (FOLDER / "index.html").read_text("utf-8"))
    asked = {
        name for path in FOLDER.glob("*.js") for name in re.findall(r"\bat\(\"([\w-]+)\"\)", path.read_text())
    }
    assert len(there) == len(set(there)) and len(asked) > 20 and asked <= set(there)


def test_the_description_of_the_api_leaves_it_out(server: Living) -> None:
    paths = server.ask("GET", "/openapi.json")[2]["paths"]
    assert "/v1/chat/completions" in paths and not set(FILES) & set(paths)
