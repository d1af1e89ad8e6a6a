"""What does not go together is refused by name, and everything else is not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from outpace.core.contracts import Target
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.traits import Traits
from outpace.decode.pairing import check_pairing
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.model.small_model import SmallModel
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.rules import RULES
from outpace.targets.table import TableTarget
from outpace.trees.grow import EVERY_DRAW
from tests.fakes import TableDraft, Wide

TARGET = TableTarget.random(vocab_size=4, order=1)
WITH_LAW = TableDraft(TARGET, Wide(2, 2))


@pytest.mark.parametrize("name", RULES.names())
def test_a_rule_that_needs_the_law_refuses_drafters_without(name: str) -> None:
    rule = RULES.create(name)
    assert rule.needs_law == (rule.exactness == "distribution")
    check_pairing(TARGET, WITH_LAW, rule)
    for drafter in (NGram(), NoDraft()):
        if not rule.needs_law:
            check_pairing(TARGET, drafter, rule)
            continue
        names = rf"{type(rule).__name__} .*{rule.draw}.*{type(drafter).__name__} .*accepted .*match"
        with pytest.raises(OutpaceError, match=names):
            check_pairing(TARGET, drafter, rule)
        with pytest.raises(OutpaceError, match="accepted"):
            generate(TARGET, drafter, rule, Request([1], Sampling(), 4))
    assert TARGET.num_rows == 0


@pytest.mark.parametrize("name", [name for name in RULES.names() if RULES.create(name).needs_law])
def test_a_law_of_another_draw_does_not_do(name: str) -> None:
    rule = RULES.create(name)
    served = TableDraft(TARGET, Wide(2, 2))
    served.traits = replace(served.traits, draws=EVERY_DRAW - {rule.draw})
    with pytest.raises(OutpaceError, match="needs the law"):
        check_pairing(TARGET, served, rule)


def test_trees_need_a_target_that_branches() -> None:
    chains_only = cast("Target", SimpleNamespace(traits=Traits(chains_only=True)))
    match: Any = RULES.create("match")
    check_pairing(chains_only, NGram(), match)
    with pytest.raises(OutpaceError, match=r"chains only .*TableDraft .*accepted"):
        check_pairing(chains_only, WITH_LAW, match)
    check_pairing(TARGET, WITH_LAW, match)


def test_parts_without_traits_are_refused() -> None:
    """They may be another package's, of an older version."""

    class Old:
        def __init__(self, part: Any) -> None:
            self._part = part

        def __getattr__(self, name: str) -> Any:
            if name == "traits":
                raise AttributeError(name)
            return getattr(self._part, name)

    match: Any = RULES.create("match")
    accepted = r"Old declares no traits, accepted are .*traits = outpace.Traits\(\.\.\.\)"
    pairs: list[tuple[Any, Any]] = [(Old(TARGET), NoDraft()), (TARGET, Old(NGram()))]
    for target, drafter in pairs:
        with pytest.raises(OutpaceError, match=accepted):
            check_pairing(target, drafter, match)
    with pytest.raises(OutpaceError, match=accepted):
        SmallModel.of(TARGET, tree=Old(Wide(2, 2)))
