"""What `make quick` runs for a change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.quick import ALWAYS, CONTRACT, DOCS, ROOT, changed_since, chosen_for

DRAFTERS = (f"{CONTRACT}/test_drafters.py", f"{CONTRACT}/test_options.py")
OTHERS = (f"{CONTRACT}/test_drafters.py", f"{CONTRACT}/test_targets.py")
FILES = (
    "tests/drafters/lookup/test_ngram.py",
    "tests/drafters/model/test_small_model.py",
    "tests/drafters/model/test_small_model_foreign.py",
    "tests/core/test_tree.py",
    "tests/native/test_product.py",
    "tests/targets/test_native_top.py",
    "tests/targets/test_table.py",
    "tests/experiments/test_superres.py",
    "tests/fuzz/test_fuzz.py",
    "tests/benchmarks/test_busy.py",
    "tests/contract/test_rules.py",
    *DRAFTERS,
    *OTHERS,
    "tests/models/test_text.py",
    "tests/fakes.py",
    *ALWAYS,
    *DOCS,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(
            "from tests.fakes import x\n" if "table" in name or "superres" in name else ""
        )
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "chosen"),
    [
        ("src/outpace/drafters/lookup/ngram.py", ["tests/drafters/lookup/test_ngram.py", *DRAFTERS]),
        (
            "src/outpace/drafters/model/small_model.py",
            [
                "tests/drafters/model/test_small_model.py",
                "tests/drafters/model/test_small_model_foreign.py",
                *DRAFTERS,
            ],
        ),
        ("src/outpace/drafters/new.py", ["tests/drafters", *DRAFTERS]),
        ("src/outpace/models/text.py", ["tests/models/test_text.py"]),
        ("src/outpace/other.py", [*OTHERS]),
        ("native/engine/call.cpp", ["tests/native", "tests/targets/test_native_top.py", *OTHERS]),
        ("docs/cli.md", [*DOCS]),
        ("README.md", [*DOCS]),
        ("benchmarks/busy.py", ["tests/benchmarks"]),
        ("tests/core/test_tree.py", ["tests/core/test_tree.py"]),
        ("tests/fakes.py", ["tests/targets/test_table.py"]),
        ("tests/contract/rows.py", [CONTRACT]),
        ("tests/contract/test_rules.py", [CONTRACT]),
        ("tests/experiments/test_superres.py", []),
        ("experiments/superres/run.py", []),
        ("src/outpace/gone/away.py", [*OTHERS]),
        ("src/outpace/rules/match.py", [f"{CONTRACT}/test_drafters.py", f"{CONTRACT}/test_rules.py"]),
        ("src/outpace/cli/chat.py", []),
    ],
)
def test_a_change_is_tested_by(root: Path, changed: str, chosen: list[str]) -> None:
    assert chosen_for([changed], root) == sorted({*ALWAYS, *chosen})


def test_files_inside_of_a_chosen_folder_are_not_named_twice(root: Path) -> None:
    chosen = chosen_for(["src/outpace/drafters/new.py", "src/outpace/drafters/lookup/ngram.py"], root)
    assert chosen == sorted({*ALWAYS, "tests/drafters", *DRAFTERS})


def test_every_module_has_tests() -> None:
    """None falls through the names: each has a file, or its folder."""
    for module in sorted((ROOT / "src/outpace").glob("*/*.py")):
        assert set(chosen_for([module.relative_to(ROOT).as_posix()])) - {*ALWAYS, *DRAFTERS, *OTHERS}, module


def test_what_git_does_not_know_is_refused_in_a_line() -> None:
    with pytest.raises(SystemExit, match=r"error: git diff.*no-such-commit"):
        changed_since("no-such-commit")


@pytest.mark.parametrize("every", [1, 2, 3, 29])
def test_of_each_contract_test_the_first_and_every_nth_case_are_run(every: int) -> None:
    from tests.contract import conftest

    def case(file: str, name: str) -> Any:
        return SimpleNamespace(nodeid=f"{file}::{name}", path=ROOT / file)

    many = [case("tests/contract/test_a.py", f"test_many[{number}]") for number in range(7)]
    few = [case("tests/contract/test_a.py", "test_one"), case("tests/contract/test_b.py", "test_many[0]")]
    others = [case("tests/core/test_c.py", f"test_many[{number}]") for number in range(3)]
    items, left_out = [*many, *few, *others], []
    config = SimpleNamespace(
        getoption=lambda name: every,
        hook=SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items)),
    )
    conftest.pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
    assert items == [*many[::every], *few, *others]
    assert left_out == [one for one in many if one not in many[::every]]
