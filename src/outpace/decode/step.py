"""One step of decoding for any number of rows: propose, score, judge, keep, observe."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from outpace.core.contracts import Drafter, Rule, Target
from outpace.core.sampling import NO_CHOICE, no_choice
from outpace.core.stats import StepTimes
from outpace.core.steps import Ask, ScoredCall, Step


def step(
    target: Target,
    drafter: Drafter,
    rule: Rule,
    states: Sequence[Any],
    asks: Sequence[Ask],
) -> tuple[list[Step], list[Any], StepTimes]:
    """Commit one token or more to every row (its `Step.tokens`); returns steps, new states and times."""
    began = perf_counter()
    steps, proposed = half_step(target, drafter, rule, states, asks)
    judged = perf_counter()
    target.keep([ask.row for ask in asks], [step.verdict.path for step in steps])
    kept = perf_counter()
    states = drafter.observe(states, steps)
    observed = perf_counter()
    return steps, states, StepTimes(draft_s=proposed - began + observed - kept, score_s=judged - proposed)


def half_step(
    target: Target,
    drafter: Drafter,
    rule: Rule,
    states: Sequence[Any],
    asks: Sequence[Ask],
) -> tuple[list[Step], float]:
    """Propose, score and judge, but commit nothing; returns the steps and when the proposals were there."""
    vocab_size = target.vocab_size
    trees = [
        tree.fit(ask.root, vocab_size=vocab_size, budget=ask.budget, depth=ask.depth)
        for tree, ask in zip(drafter.propose(states, asks), asks, strict=True)
    ]
    proposed = perf_counter()
    scores = target.score([ask.call(tree) for ask, tree in zip(asks, trees, strict=True)])
    return judge(rule, ScoredCall(scores, trees, asks)), proposed


def judge(rule: Rule, scored: ScoredCall) -> list[Step]:
    """The rule's verdict on every row of a call. Raises an OutpaceError where the target has no choice."""
    steps = [
        Step(tree, scores, rule.judge(tree, scores, ask.sampling, ask.position))
        for tree, scores, ask in zip(scored.trees, scored.rows(), scored.asks, strict=True)
    ]
    if any(step.verdict.token == NO_CHOICE for step in steps):
        raise no_choice()
    return steps
