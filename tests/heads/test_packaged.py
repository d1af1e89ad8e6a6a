"""The heads that come with the package: whole, small, for models that it knows, with how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outpace.files.catalog import CATALOG
from outpace.heads.file import read_heads
from outpace.heads.packaged import PACKAGED

READ: dict[str, Any] = {"blockwise": read_heads}
FOLDERS = [(method, config.parent) for method in READ for config in PACKAGED.glob(f"{method}/*/config.json")]


def test_there_are_some_of_each_method() -> None:
    assert {path.name for path in PACKAGED.iterdir()} == READ.keys()
    assert [(method, folder.name) for method, folder in FOLDERS] == [
        (method, "smollm2-135m-instruct") for method in READ
    ]


@pytest.mark.parametrize(("method", "folder"), FOLDERS)
def test_they_say_whose_they_are_and_how_they_were_made(method: str, folder: Path) -> None:
    heads = READ[method](folder)
    made = json.loads((folder / "run.json").read_text())
    assert folder.name == heads.config.model == made["settings"]["model"] and folder.name in CATALOG
    assert heads.config.target == made["settings"]["target"]
    if method == "blockwise":
        assert heads.config.first == "identity"  # they change no output
    assert heads.token_ids is not None and len(heads.token_ids) == made["settings"]["num_tokens"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20_000_000
