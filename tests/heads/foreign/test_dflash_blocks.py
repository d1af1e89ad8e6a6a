"""How many tokens a block of foreign layers drafts, by what their folders say and leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from outpace.heads.foreign.doctor import examine
from tests.foreign_heads import write_block_speculators, write_dflash, write_dspark
from tests.heads.foreign.test_dflash import with_field


def test_sizes_of_blocks_that_are_not_said(tmp_path: Path) -> None:
    without = with_field(block_size=None)
    write_dflash(
        tmp_path / "a", change=lambda c, t: c.update(architectures=["DFlashDraftModel"], block_size=None)
    )
    write_block_speculators(tmp_path / "b", change=without)
    blocks = [dict(examine(tmp_path / name).facts)["block"] for name in "ab"]
    assert [block.partition(",")[0] for block in blocks] == ["15 drafted tokens", "7 drafted tokens"]


@pytest.mark.parametrize(("tokens", "root"), [(5, True), (4, False), (3, True), ("x", True), (None, True)])
def test_how_many_tokens_are_proposed_says_whether_the_root_drafts(
    tmp_path: Path, tokens: object, root: bool
) -> None:
    """Of DSpark's layers that do not say it: older folders of speculators."""

    def change(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        config.update(block_size=5, sample_from_anchor=None)
        config["speculators_config"]["proposal_methods"] = [{"speculative_tokens": tokens}]

    write_block_speculators(tmp_path / "a", dspark=True, change=change)
    facts = dict(examine(tmp_path / "a").facts)
    assert facts["block"].startswith(f"{5 if root else 4} drafted tokens") and "note" not in facts

    def says(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        change(config, tensors)
        config["sample_from_anchor"] = not root

    write_block_speculators(tmp_path / "b", dspark=True, change=says)
    assert dict(examine(tmp_path / "b").facts)["block"].startswith(f"{4 if root else 5} drafted tokens")


def test_layers_that_may_be_of_either_kind_are_told_of(tmp_path: Path) -> None:
    def named(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        config["architectures"] = ["DFlashDraftModel"]

    write_dspark(tmp_path / "a", change=named)
    report = examine(tmp_path / "a")
    notes = [text for kind, text in report.facts if kind == "note" and "sample_from_anchor" in text]
    assert len(notes) == 1 and "taken as true" in notes[0]

    def says(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        named(config, tensors)
        config["dflash_config"] = {"sample_from_anchor": False}

    write_dspark(tmp_path / "b", change=says)
    report = examine(tmp_path / "b")
    assert not [text for kind, text in report.facts if "sample_from_anchor" in text]
    assert dict(report.facts)["block"].startswith("3 drafted tokens")
