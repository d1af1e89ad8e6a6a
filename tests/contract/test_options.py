"""Every option of every drafter, tree and rule refuses what is not of its type, before anything is made."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.core.registry import Registry
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask
from outpace.drafters import DRAFTERS
from outpace.pricing.costs import straight
from outpace.rules import RULES
from outpace.trees import TREES
from outpace.trees.grow import grow_trees
from tests.trees.growing import Paths

WRONG: dict[str, list[Any]] = {
    "int": [1.5, True, "3", [3], np.float64(3), 2**70, -(10**400)],
    "float": ["0.5", True, float("nan"), [0.5], 1j, 10**400],
    "bool": [1, "true", np.int8(1)],
    "str": [3, b"a", ["a"]],
}
MADE_WITHOUT_A_MODEL = ("bigram", "consensus", "copy", "jacobi", "lookahead", "mix", "ngram", "recycling")
CASES = [
    (registry, name, option)
    for registry in (DRAFTERS, TREES, RULES)
    for name in sorted(registry._table)
    for option in registry.options(name)
]


@pytest.mark.parametrize(
    ("registry", "name", "option"), CASES, ids=lambda case: getattr(case, "kind", str(case))
)
def test_wrong_types_name_the_option(registry: Registry, name: str, option: str) -> None:
    annotation = inspect.formatannotation(registry.options(name)[option].annotation)
    kind, _, none = annotation.partition(" | ")
    for value in [*WRONG[kind], *([] if none else [None])]:
        with pytest.raises(OutpaceError) as caught:
            registry.factory(name)(**{option: value})
        message = str(caught.value)
        assert message.startswith(f"{option} is ") and ", accepted are " in message and "\n" not in message


GIVEN = {"target": SimpleNamespace(vocab_size=9), "memo": None, "costs": lambda: straight(0.1)}
SIZES = [
    (registry, f"{name}:{option}=")
    for registry in (TREES, DRAFTERS)
    for name in sorted(set(registry._table) & {*TREES.names(), *MADE_WITHOUT_A_MODEL})
    for option, parameter in registry.options(name).items()
    if inspect.formatannotation(parameter.annotation) == "int" and option != "min_n"
]


@pytest.mark.parametrize("size", [65_537, 10**9, 10**12, 2**64 - 1])
@pytest.mark.parametrize(("registry", "spec"), SIZES, ids=lambda one: getattr(one, "kind", str(one)))
def test_sizes_that_no_draft_has_are_refused(registry: Registry, spec: str, size: int) -> None:
    """Of some of these memory is made, and others are counted up to."""
    with pytest.raises(OutpaceError, match=f"{spec.partition(':')[2]}{size}.*, accepted are ") as caught:
        registry.create(f"{spec}{size}", **GIVEN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["survival:beta=auto,k=65536,depth=65536", "opt_tree:size=65536,k=65536"])
def test_the_largest_sizes_work(spec: str) -> None:
    policy = TREES.create(spec, costs=lambda: straight(0.1))
    [tree] = grow_trees([Ask(1, 9, Sampling(), 40, 2)], policy, Paths(6, seed=0).step)
    assert 1 < tree.num_nodes <= 41


def test_chances_beyond_the_size_are_not_looked_at() -> None:
    few, many = (
        TREES.create(f"sequoia:auto=false,size=2,depth=2,acceptance=[{','.join(['1e-6'] * count)}]")
        for count in (2, 100_000)
    )
    assert many.width == few.width == 2 and many._shape.values == few._shape.values
