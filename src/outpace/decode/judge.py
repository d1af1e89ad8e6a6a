"""The verdicts of a call: what the rule makes of every row."""

from __future__ import annotations

from outpace.core.contracts import Rule
from outpace.core.sampling import NO_CHOICE, no_choice
from outpace.core.steps import ScoredCall, Step


def judge(rule: Rule, scored: ScoredCall) -> list[Step]:
    """The rule's verdict on every row of a call. Raises an OutpaceError where the target has no choice."""
    steps = [
        Step(tree, scores, rule.judge(tree, scores, ask.sampling, ask.position))
        for tree, scores, ask in zip(scored.trees, scored.rows(), scored.asks, strict=True)
    ]
    if any(step.verdict.token == NO_CHOICE for step in steps):
        raise no_choice()
    return steps
