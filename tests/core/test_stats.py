"""What a generation counts."""

from __future__ import annotations

from outpace.core.stats import GenerationStats
from outpace.core.steps import Step, StepTimes, Verdict
from outpace.core.tree import TokenTree
from tests.rows import NO_SCORES


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
