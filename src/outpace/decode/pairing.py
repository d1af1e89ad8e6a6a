"""What does not go together is refused here, before anything runs."""

from __future__ import annotations

from typing import Any

from outpace.core.contracts import Drafter, Rule, Target
from outpace.core.errors import OutpaceError
from outpace.core.traits import check_traits


def check_pairing(target: Target, drafter: Drafter, rule: Rule) -> None:
    """Raise an OutpaceError that names what would be accepted, if these three cannot work together."""
    for part in (target, drafter):
        check_traits(part)
    if rule.needs_law and rule.draw not in drafter.traits.draws:
        raise OutpaceError(
            f"the rule {name_of(rule)} needs the law of the drafts (draw {rule.draw!r}) and the drafter "
            f"{name_of(drafter)} gives none; accepted are drafters made of a model with a tree that "
            "does not look at what was drawn (chain, static, sequoia), or the rule match"
        )
    if drafter.traits.branches and target.traits.chains_only:
        raise OutpaceError(
            f"the target {name_of(target)} scores chains only and the drafter {name_of(drafter)} may propose "
            "trees; accepted are drafters of chains (such as ngram, or small_model with tree=chain)"
        )


def name_of(part: Any) -> str:
    """What an error calls a drafter, rule or target."""
    return type(part).__name__
