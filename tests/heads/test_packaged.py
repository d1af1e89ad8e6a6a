"""The heads that come with the package: whole, small, for models that it knows, with how they were made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outpace.files.catalog import CATALOG
from outpace.heads.file import read_heads
from outpace.heads.proposals import PACKAGED

FOLDERS = sorted(config.parent for config in PACKAGED.glob("*/config.json"))


def test_there_are_some() -> None:
    assert "smollm2-135m-instruct" in [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_they_say_whose_they_are_and_how_they_were_made(folder: Path) -> None:
    heads = read_heads(folder)
    made = json.loads((folder / "run.json").read_text())
    assert folder.name == heads.config.model == made["settings"]["model"] and folder.name in CATALOG
    assert heads.config.target == made["settings"]["target"]
    assert heads.config.first == "identity"  # they change no output
    assert heads.token_ids is not None and len(heads.token_ids) == made["settings"]["num_tokens"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20_000_000
