"""The prompts' own call: a step like others where the drafter needs no scores to begin, else its first half.

A drafter that `opens` proposes below the prompts' last tokens, and the call that reads the prompts checks
what it proposes. Of a tree the first path is taken, so that the call stays causal: a mask of a whole prompt
is large, and for causal calls there are quicker kernels. The first token comes later by the draft's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from outpace.core.contracts import Ask, Drafter, Rule, ScoredCall, Step, Target
from outpace.core.stats import StepTimes
from outpace.core.tree import TokenTree
from outpace.decode.step import judge


def open_rows(
    target: Target,
    drafter: Drafter,
    rule: Rule,
    prompts: Sequence[Sequence[int]],
    asks: Sequence[Ask],
    rows: list[int],
    states: list[Any],
) -> tuple[list[Step], StepTimes]:
    """Cache the prompts in new rows and commit one token or more to each (its `Step.tokens`).

    Fills `rows` and `states`, which the caller gives back even if this fails. The asks have no rows yet.
    """
    began, vocab_size = perf_counter(), target.vocab_size
    opens: bool = getattr(drafter, "opens", False)
    if opens:
        start: Callable[..., Any] = drafter.start
        for prompt in prompts:
            states.append(start(prompt, None))
        trees = [
            _first_path(tree.fit(ask.root, vocab_size=vocab_size, budget=ask.budget, depth=ask.depth))
            for tree, ask in zip(drafter.propose(states, asks), asks, strict=True)
        ]
        drafts = [tree.token_list[1:] for tree in trees]
    else:
        trees, drafts = [TokenTree.root(ask.root) for ask in asks], None
    proposed = perf_counter()
    opened, scores = target.prefill(prompts, drafts)
    rows += opened
    steps = judge(rule, ScoredCall(scores, trees, asks))
    judged = perf_counter()
    if opens:
        target.keep(rows, [step.verdict.path for step in steps])
    else:
        for prompt, step in zip(prompts, steps, strict=True):
            states.append(drafter.start(prompt, step.scores))
    states[:] = drafter.observe(states, steps)
    return steps, StepTimes(draft_s=proposed - began + perf_counter() - judged, score_s=judged - proposed)


def _first_path(tree: TokenTree) -> TokenTree:
    """The tree without all but the first child of every node. So is every tree cut: the draws stay."""
    node = 0
    while children := tree.children(node):
        node = children[0]
    return tree.prune([node], blind=True)
