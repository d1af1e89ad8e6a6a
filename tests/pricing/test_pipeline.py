"""Guesses that pay: what is computed of a pipeline against the pipeline itself, run pass by pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest

from outpace.core.sampling import Sampling, choose
from outpace.drafters.model.speed import Speed
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.pricing.pipeline import Outputs
from outpace.rules.match import Match
from tests.fakes import whole
from tests.looped_table import LoopedTable

TOKENS = 250
COSTS = {"flat": lambda n: 1.0, "ours": lambda n: 1 + 0.07 * (n - 1), "steep": lambda n: 0.4 + 0.6 * n}


class Sized(LoopedTable):
    sizes: list[int]

    def advance(self, passes: Sequence[Any], heads: Any = None) -> Any:
        self.sizes = [*vars(self).get("sizes", []), sum(one.tree.num_nodes for one in passes)]
        return super().advance(passes, heads)


def table(loops: int, agreement: float) -> Sized:
    options = {"vocab_size": 9, "order": 3, "seed": 3, "context_length": 600}
    made = Sized.of(loops, agreement, **options)
    assert isinstance(made, Sized)
    return made


def run(target: Sized, guesses: Sequence[int]) -> list[int]:
    """A text, which is the same whatever guesses are."""
    early, second, *_ = *guesses, 0, 0
    drafter: Any = Speed(early=early, second=second, target=target) if early else NoDraft()
    request = Request([1, 2], Sampling(temperature=0.7, seed=2), TOKENS)
    tokens: list[int] = whole(generate(target, drafter, Match(), request))[1].token_ids
    return tokens


def outputs_of(target: Sized, tokens: Sequence[int]) -> Outputs:
    """What the outputs name along the text, with the noise that the loop would give them."""
    known, sampling = Outputs(target.num_loops), Sampling(temperature=0.7, seed=2)
    text = [1, 2, *tokens]
    for at in range(2, len(text)):
        context = [0] * 3 + text[:at]
        named = {
            loop: choose(target.outputs[(loop - 1, *context[-3:])][None], sampling, [at])[0]
            for loop in range(1, target.num_loops)
        }
        known.learn(named, text[at])
    return known


@pytest.mark.parametrize("loops", [2, 4, 6])
@pytest.mark.parametrize("agreement", [0.1, 0.6, 0.9])
def test_the_load_is_that_of_the_pipeline(
    loops: int, agreement: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outpace.pricing.pipeline.MOST", TOKENS)
    tokens = run(table(loops, agreement), ())
    known = outputs_of(table(loops, agreement), tokens)
    chosen = {}
    for size in (0, 1, 2):
        for guesses in combinations(range(1, loops), size):
            target = table(loops, agreement)
            assert run(target, guesses) == tokens
            passes, nodes = known.load(guesses)
            if guesses:
                # The prompt's own call gave a token, and the last one's guess is not made any more.
                assert passes == pytest.approx(len(target.sizes) / (TOKENS - 1), rel=0.03)
                assert nodes == pytest.approx(sum(target.sizes) / len(target.sizes), rel=0.1)
            else:
                assert (passes, nodes) == (loops, 1)
            sizes = target.sizes if guesses else [1] * (loops * TOKENS)
            chosen[guesses] = {name: sum(map(cost, sizes)) for name, cost in COSTS.items()}
    for name, cost in COSTS.items():
        best = min(one[name] for one in chosen.values())
        assert chosen[known.best(cost)][name] <= 1.05 * best
    assert known.best(COSTS["steep"]) == () or agreement > 0.5


def test_tokens_of_which_not_all_is_known_are_left_out() -> None:
    known = Outputs(4)
    known.learn({1: 5, 2: 5}, 5)
    assert len(known) == 0
    known.learn({1: 5, 2: 5, 3: 5}, 5)
    assert len(known) == 1 and known.load((1,)) == (1.0, 4.0)
