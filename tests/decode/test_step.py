"""The loop body: what it passes on, and that a batch of rows equals single rows."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.contracts import Rule
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, ScoredCall
from outpace.core.tree import TokenTree
from outpace.decode import step as step_module
from outpace.decode.judge import judge
from outpace.decode.step import step
from outpace.drafters.lookup.ngram import NGram
from outpace.rules.distance import Distance
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.fakes import Hostile, hostile
from tests.rows import on, opened
from tests.strategies import samplings

VOCAB_SIZE = 5
PROMPTS = [[1, 2, 3, 1, 2], [4], [0, 0, 0, 0, 0, 0, 0, 1], [3, 1, 3, 1]]


def decode(
    target: TableTarget, drafter: Any, prompts: list[list[int]], chosen: list[Sampling], num_steps: int
) -> list[list[int]]:
    """Each prompt with what `num_steps` steps of one batch add to it, the prompts' own not counted."""
    texts = [list(prompt) for prompt in prompts]

    rows = [target.open() for _ in prompts]
    states = [drafter.start(Prompt.of(prompt)) for prompt in prompts]
    for turn in range(num_steps + 1):
        asks = [
            Ask(text[-1], len(text) - 1, sampling, 9, 9, row=row, unread=() if turn else text[:-1])
            for text, sampling, row in zip(texts, chosen, rows, strict=True)
        ]
        steps, states, times = step(target, drafter, Match(), states, asks)
        assert times.draft_s > 0 and times.score_s > 0
        for text, one in zip(texts, steps, strict=True):
            text += one.tokens
        assert all(target.length(row) == len(text) - 1 for row, text in zip(rows, texts, strict=True))
    target.free(rows)
    return texts


@given(
    st.lists(samplings(), min_size=4, max_size=4),
    st.integers(0, 99),
    st.sampled_from(["ngram", "garbage", "twins"]),
)
def test_a_batch_of_rows_equals_single_rows(chosen: list[Sampling], seed: int, name: str) -> None:
    target = TableTarget.random(vocab_size=VOCAB_SIZE, seed=seed)
    drafter = NGram() if name == "ngram" else hostile(VOCAB_SIZE)[name]
    together = decode(target, drafter, PROMPTS, chosen, 6)
    alone = [decode(target, drafter, [p], [s], 6)[0] for p, s in zip(PROMPTS, chosen, strict=True)]
    assert together == alone
    assert target.num_rows == 0


def test_the_target_sees_only_what_fits() -> None:
    target = TableTarget.random(vocab_size=VOCAB_SIZE)
    rows, _ = opened(target, [[1, 2]])
    drafter = Hostile(lambda ask, rng: TokenTree.chain(ask.root, [1, 2, 3, 1, 99]))
    ask = Ask(3, 2, Sampling(), budget=7, depth=2, row=rows[0])
    [one], _, _ = step(target, drafter, Match(), [None], [ask])
    assert one.tree.token_list == [3, 1, 2]


def test_a_drafter_that_forgets_a_row_is_refused() -> None:
    class Forgetful(Hostile):
        def propose(self, states: Any, asks: Any) -> list[TokenTree]:
            return []

    target = TableTarget.random(vocab_size=VOCAB_SIZE)
    rows, _ = opened(target, [[1, 2]])
    with pytest.raises(ValueError, match="zip"):
        step(
            target,
            Forgetful(lambda ask, rng: TokenTree.root(0)),
            Match(),
            [None],
            [Ask(3, 2, Sampling(), 7, 2, row=rows[0])],
        )


def test_the_loop_body_stays_short() -> None:
    assert len(inspect.getsource(step_module).splitlines()) < 60


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1e-3, seed=3)], ids=["greedy", "sampled"]
)
@pytest.mark.parametrize("rule", [Match(), Distance(eps=4)], ids=["match", "distance"])
def test_only_a_choice_that_is_needed_has_to_exist(rule: Rule, sampling: Sampling, bad: float) -> None:
    """0 is followed by 1, that by 2; what follows 2 and 3 is no choice."""
    logits = np.full((VOCAB_SIZE, VOCAB_SIZE), -9.0)
    logits[0, 1] = logits[1, 2] = 9.0
    logits[2:4] = bad
    target = TableTarget(logits)

    def judged(tree: TokenTree) -> list[int]:
        rows, _ = opened(target, [[4]])
        return judge(rule, ScoredCall(target.score(on(rows, [tree])), [tree], [Ask(0, 1, sampling, 9, 9)]))[
            0
        ].tokens

    assert judged(TokenTree([0, 3, 1, 3], [-1, 0, 0, 0])) == [1, 2]
    for reached in (TokenTree([0, 3, 1, 2], [-1, 0, 0, 2]), TokenTree([0, 1, 2, 3, 0], [-1, 0, 1, 2, 2])):
        with pytest.raises(OutpaceError, match="no token to choose"):
            judged(reached)
