"""One step of decoding for any number of rows: propose, score, judge, keep, observe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from outpace.core.call import Call
from outpace.core.contracts import Drafter, Rule, Target
from outpace.core.steps import Ask, ScoredCall, Step, StepTimes
from outpace.core.tree import TokenTree
from outpace.decode.judge import judge


def step(
    target: Target,
    drafter: Drafter,
    rule: Rule,
    states: Sequence[Any],
    asks: Sequence[Ask],
    reading: Sequence[Call] = (),
) -> tuple[list[Step], list[Any], StepTimes]:
    """Commit one token or more to every row (its `Step.tokens`); returns steps, new states and times.

    The calls `reading` are of other rows, which only read.
    """
    began = perf_counter()
    steps, proposed = half_step(target, drafter, rule, states, asks, reading)
    judged = perf_counter()
    rows = [*(ask.row for ask in asks), *(call.row for call in reading)]
    target.keep(rows, [*(step.verdict.path for step in steps), *(() for _ in reading)])
    kept = perf_counter()
    times = StepTimes(draft_s=proposed - began, score_s=judged - proposed, keep_s=kept - judged)
    steps = [step.told(times) for step in steps]
    states = drafter.observe(states, steps)
    return steps, states, replace(times, draft_s=times.draft_s + perf_counter() - kept)


def half_step(
    target: Target,
    drafter: Drafter,
    rule: Rule,
    states: Sequence[Any],
    asks: Sequence[Ask],
    reading: Sequence[Call] = (),
) -> tuple[list[Step], float]:
    """Propose, score and judge, but commit nothing; returns the steps and when the proposals were there."""
    wanted = any(ask.budget > 0 and ask.depth > 0 for ask in asks)
    drafts = drafter.propose(states, asks) if wanted else [TokenTree.root(ask.root) for ask in asks]
    trees = [
        tree.fit(ask.root, vocab_size=target.vocab_size, budget=ask.budget, depth=ask.depth)
        for tree, ask in zip(drafts, asks, strict=True)
    ]
    proposed = perf_counter()
    calls = [ask.call(tree) for ask, tree in zip(asks, trees, strict=True)]
    scores = target.score([*calls, *reading])
    return judge(rule, ScoredCall(scores, trees, asks)), proposed
