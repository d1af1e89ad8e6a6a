"""What a generation counts."""

from __future__ import annotations

import numpy as np

from outpace.core.stats import GenerationStats
from outpace.core.steps import Step, StepTimes, Verdict
from outpace.core.tree import TokenTree
from tests.rows import NO_SCORES


def test_how_often_drafts_are_right_by_depth() -> None:
    """By hand: trees whose second child is right, chains that are right at once and wrong later, no draft."""
    stats = GenerationStats()
    branching = TokenTree([5, 1, 2, 3, 4], np.array([-1, 0, 0, 2, 3]))
    chain = TokenTree.chain(5, [1, 2])
    steps = [
        (branching, [2, 3]),  # right at depths 1 and 2, wrong at 3
        (branching, [1]),  # right at 1, and nothing hangs below
        (branching, [2, 3, 4]),
        (chain, [1]),
        (chain, []),
        (TokenTree.root(5), []),
    ]
    for tree, path in steps:
        step = Step(tree, NO_SCORES, Verdict(path, 9, "identical"))
        stats.add(step, len(path) + 1, StepTimes(0.0, 0.0))
    assert stats.num_tried_at == [5, 3, 2] and stats.num_kept_at == [4, 2, 1]
    cut = Step(branching, NO_SCORES, Verdict([2, 3, 4], 9, "identical"))
    stats.add(cut, 2, StepTimes(0.0, 0.0))
    assert stats.num_tried_at == [5, 3, 2], "how the rest would have gone is unknown"


def test_counts_and_the_bonus_token() -> None:
    stats = GenerationStats(prompt_tokens=4, completion_tokens=1, wall_s=2.0, time_to_first_token_s=1.0)
    assert stats.mean_accepted_length == 1.0 and stats.tokens_per_s == 0.0
    tree = TokenTree.chain(1, [2, 3, 4])
    times = StepTimes(draft_s=0.25, score_s=0.5)
    stats.add(Step(tree, NO_SCORES, Verdict([1, 2], 9, "identical")), 3, times)
    stats.add(Step(tree, NO_SCORES, Verdict([1, 2, 3], 9, "identical")), 2, times)  # cut off by a stop
    stats.add(Step(TokenTree.root(1), NO_SCORES, Verdict([], 9, "identical")), 1, times)
    assert (stats.target_calls, stats.completion_tokens) == (3, 7)
    assert (stats.num_drafted, stats.num_accepted) == (6, 4)
    assert (stats.draft_s, stats.score_s) == (0.75, 1.5)
    assert stats.mean_accepted_length == 2.0 and stats.tokens_per_s == 6.0
