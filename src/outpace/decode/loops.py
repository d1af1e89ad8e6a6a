"""Which loop body a target, a drafter and a rule run in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from outpace.core.call import Call
from outpace.core.contracts import Drafter, Looped, Rule, Target
from outpace.core.errors import OutpaceError
from outpace.core.steps import Ask, Step, StepTimes
from outpace.decode import pipelined
from outpace.decode.pairing import name_of
from outpace.decode.step import step

Loop = Callable[
    [Sequence[Any], Sequence[Ask], Sequence[Call]], tuple[Sequence[Step | None], list[Any], StepTimes]
]
"""(states, asks, reading) -> steps, new states, times. A row that has no token yet has None for a step."""


def loop_of(target: Target, drafter: Drafter, rule: Rule) -> Loop:
    """The pipelined loop for a drafter whose states are flights, the usual one for all others.

    An OutpaceError for what the pipelined loop cannot run.
    """
    if not isinstance(drafter, pipelined.Pipelined):
        return partial(step, target, drafter, rule)
    if not isinstance(target, Looped):
        raise OutpaceError(
            f"the target {name_of(target)} runs whole calls only, accepted are targets that run "
            "single loops of their layers"
        )
    if rule.exactness != "identical" or rule.needs_law:
        raise OutpaceError(f"a pipeline has the rule {name_of(rule)}, accepted is match")
    return partial(pipelined.step, target, drafter, rule)
