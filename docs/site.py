"""What mkdocs does not do by itself: pages from outside docs/, and folders in the navigation.

Pages link to each other by their places in the repository, so that the links work there too. Here README.md
becomes the front page, all others from outside docs/ keep their places below `repository/`, and links follow.
A link to a file that is no page (code, a folder) becomes its text: the site does not know where the
repository is. What leads nowhere is left alone, and `mkdocs build --strict` names it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = ("*.md", "benchmarks/*.md", "experiments/*.md", "experiments/*/*.md", "experiments/*/*.png")
LEFT_OUT = ".template.md"
LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")


def outside() -> list[str]:
    """Files of the repository that are part of the site and not in docs/."""
    found = [path.relative_to(ROOT).as_posix() for pattern in OUTSIDE for path in sorted(ROOT.glob(pattern))]
    return [path for path in found if not path.endswith(LEFT_OUT)]


def place(path: str) -> str:
    """Where a file of the repository is in the site."""
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def on_config(config: MkDocsConfig) -> None:
    """Folders of the navigation become lists of their pages, README.md first."""
    config.nav = [_expanded(entry) for entry in config.nav or ()]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add what is outside docs/."""
    for path in outside():
        files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links follow the pages from where they are in the repository to where they are here."""
    assert page.file.abs_src_path is not None
    folder = Path(page.file.abs_src_path).relative_to(ROOT).parent.as_posix()
    here = posixpath.dirname(page.file.src_uri)

    def followed(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["target"]))
        index = f"{target}/README.md"
        for path in (target, index):
            if files.get_file_from_path(place(path)) is not None:
                way = posixpath.relpath(place(path), here or ".")
                return f"{link['mark']}[{link['text']}]({way}{link['anchor'] or ''})"
        return link["text"] if (ROOT / target).exists() else link[0]

    return LINK.sub(followed, markdown)


def _expanded(entry: Any) -> Any:
    """An entry of the navigation, {title: page, folder of the site with a slash at its end, or entries}."""
    if not isinstance(entry, dict):
        return entry
    [(title, inside)] = entry.items()
    if isinstance(inside, list):
        return {title: [_expanded(one) for one in inside]}
    return {title: _pages(inside)} if inside.endswith("/") else entry


def _pages(folder: str) -> list[dict[str, str]]:
    """All pages below a folder of the site by title, README.md first."""
    docs = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    inside = [path for path in (*docs, *outside()) if place(path).startswith(folder) and path.endswith(".md")]
    inside.sort(key=lambda path: (posixpath.dirname(path), posixpath.basename(path) != "README.md", path))
    return [{_title(ROOT / path): place(path)} for path in inside]


def _title(page: Path) -> str:
    """The heading of a page up to its colon: a method's name without what it is."""
    return page.read_text().partition("\n")[0].removeprefix("# ").partition(":")[0]
