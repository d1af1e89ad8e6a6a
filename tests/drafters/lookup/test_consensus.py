"""Consensus against a count over all texts of one prompt, and a batch of samples end to end."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Step, Verdict
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.consensus import MAX_ENDED, Consensus, ConsensusState
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events
from outpace.engine.request import Generation, Request
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.fakes import whole
from tests.rows import NO_SCORES


def ask(root: int, *, budget: int = 99, depth: int = 99) -> Ask:
    return Ask(root, 0, Sampling(), budget, depth)


def commit(drafter: Consensus, state: ConsensusState, tokens: Sequence[int]) -> ConsensusState:
    tree = TokenTree.chain(0, tokens[:-1])
    step = Step(tree, NO_SCORES, Verdict(range(1, len(tokens)), tokens[-1], "identical"))
    return drafter.observe([state], [step])[0]


def rows(drafter: Consensus, prompt: Sequence[int], outputs: Sequence[Sequence[int]]) -> list[ConsensusState]:
    return [commit(drafter, drafter.start(Prompt.of(prompt)), output) for output in outputs]


def paths_of(tree: TokenTree) -> list[tuple[int, ...]]:
    """The tokens on the way to every node, the root's left out."""
    return [tuple(tree.token_list[i] for i in tree.path_to(node)[1:]) for node in range(tree.num_nodes)]


def slow_votes(
    prompt: list[int], own: list[int], others: list[list[int]], sizes: Sequence[int], depth: int
) -> list[list[int]]:
    """What follows the latest place of the longest suffix in the output of each of the others."""
    text = [*prompt, *own]
    for n in sizes:
        votes = []
        for other in others:
            full = [*prompt, *other]
            ends = [end for end in range(max(n, len(prompt)), len(full)) if full[end - n : end] == text[-n:]]
            if ends and n <= len(text):
                votes.append(full[ends[-1] :][:depth])
        if votes:
            return votes
    return []


def slow_odds(votes: list[list[int]]) -> dict[tuple[int, ...], float]:
    """Of every path: the product of (votes for the child) / (votes at its parent + 1)."""
    odds: dict[tuple[int, ...], float] = {(): 1.0}
    for length in range(1, max(map(len, votes), default=0) + 1):
        for path in {tuple(vote[:length]) for vote in votes if len(vote) >= length}:
            here = sum(tuple(vote[:length]) == path for vote in votes)
            above = sum(tuple(vote[: length - 1]) == path[:-1] for vote in votes)
            odds[path] = odds[path[:-1]] * here / (above + 1)
    return odds


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9)


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.lists(tokens, min_size=1, max_size=4),
    st.integers(1, 2),
    st.integers(0, 3),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(0, 12),
    st.integers(0, 4),
)
def test_equals_a_count_over_all_texts(
    prompt: list[int],
    outputs: list[list[int]],
    min_n: int,
    more: int,
    size: int,
    depth: int,
    budget: int,
    room: int,
) -> None:
    drafter = Consensus(min_n=min_n, max_n=min_n + more, size=size, depth=depth)
    states = rows(drafter, prompt, outputs)
    asks = [ask(output[-1], budget=budget, depth=room) for output in outputs]
    for number, tree in enumerate(drafter.propose(states, asks)):
        others = [output for other, output in enumerate(outputs) if other != number]
        sizes = range(min_n + more, min_n - 1, -1)
        odds = slow_odds(slow_votes(prompt, outputs[number], others, sizes, min(depth, room)))
        paths = paths_of(tree)
        assert len(set(paths)) == len(paths) == min(size, budget, len(odds) - 1) + 1
        assert tree.draw == "point"
        logq = [0.0] if tree.logq is None else tree.logq
        after = [odds[path] / odds[path[:-1]] for path in paths]
        np.testing.assert_allclose(np.exp(logq), after, rtol=1e-5)
        best = sorted(odds.values(), reverse=True)[: len(paths)]
        np.testing.assert_allclose([odds[path] for path in paths], best, rtol=1e-9)


def test_worked_example() -> None:
    """Three rows have "5 6": two of them went on with 7 (8 and 9 after it), one with 4."""
    drafter = Consensus(max_n=3)
    states = rows(drafter, [1], [[5, 6, 7, 8], [2, 5, 6, 4], [3, 5, 6, 7, 9], [9, 5, 6]])
    tree = drafter.propose(states, [ask(state.tokens[-1]) for state in states])[3]
    assert paths_of(tree) == [(), (7,), (4,), (7, 8), (7, 9)]
    assert tree.logq is not None
    assert np.exp(tree.logq[1:]).tolist() == pytest.approx([2 / 4, 1 / 4, 1 / 3, 1 / 3])


def test_the_end_of_the_prompt_is_part_of_the_match() -> None:
    drafter = Consensus(min_n=3, max_n=3)
    states = rows(drafter, [1, 2, 3], [[4, 5, 6], [4]])
    assert paths_of(drafter.propose(states, [ask(6), ask(4)])[1]) == [(), (5,), (5, 6)]
    # The prompt itself is no row's answer: nothing is copied from it.
    states = rows(drafter, [4, 5, 6, 7, 4], [[5, 6], [5, 6]])
    assert all(tree.num_nodes == 1 for tree in drafter.propose(states, [ask(6), ask(6)]))


def test_rows_of_other_prompts_have_no_vote() -> None:
    drafter = Consensus()
    states = [
        *rows(drafter, [1, 2], [[4, 5, 6, 7]]),
        *rows(drafter, [1, 3], [[4, 5]]),
        *rows(drafter, [3, 1, 2], [[4, 5]]),
    ]
    trees = drafter.propose(states, [ask(7), ask(5), ask(5)])
    assert [tree.num_nodes for tree in trees] == [1, 1, 1]


def test_rows_of_other_sources_have_no_vote() -> None:
    """Whatever their decoder begins with."""
    drafter = Consensus()
    first, second = (Prompt([1, 2], SimpleNamespace(ids=None, key=key)) for key in ("one", "other"))
    one = [*rows(drafter, first, [[4, 5, 6, 7], [4, 5]])]
    other = [*rows(drafter, second, [[4, 5]])]
    trees = drafter.propose([*one, *other], [ask(7), ask(5), ask(5)])
    assert [tree.num_nodes > 1 for tree in trees] == [False, True, False]


def test_rows_that_have_ended_vote_until_the_last_one_of_their_prompt_ends() -> None:
    drafter = Consensus()
    long, short = rows(drafter, [1], [[4, 5, 6], [4]])
    drafter.stop(long)
    assert paths_of(drafter.propose([short], [ask(4)])[0]) == [(), (5,), (5, 6)]
    drafter.stop(short)
    [late] = rows(drafter, [1], [[4]])
    assert drafter.propose([late], [ask(4)])[0].num_nodes == 1


def test_no_more_than_so_many_ended_rows_are_remembered() -> None:
    drafter = Consensus()
    [running] = rows(drafter, [1], [[0]])
    for number in range(MAX_ENDED + 5):
        for state in rows(drafter, [1], [[0, number]]):
            drafter.stop(state)
    [tree] = drafter.propose([running], [ask(0)])
    assert tree.num_nodes > 1 and {path[0] for path in paths_of(tree)[1:]} <= {*range(5, MAX_ENDED + 5)}


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.7, seed=1), Sampling(temperature=0.4, top_p=0.9)]
)
def test_samples_of_one_prompt_need_fewer_calls_together(sampling: Sampling) -> None:
    """The drafts come from the other rows alone: a row by itself is plain decoding."""
    target = TableTarget.random(vocab_size=12, order=2, spread=4.0, seed=6)
    prompt = [3, 1, 4, 1, 5]
    seeds = range(6)

    def requests(prompts: Sequence[list[int]]) -> list[Request]:
        return [
            Request(
                prompt,
                Sampling(sampling.temperature, top_p=sampling.top_p, seed=seed),
                max_tokens=40 if seed else 20,
            )
            for seed, prompt in zip(seeds, prompts, strict=True)
        ]

    def run(drafter: Drafter, requests: list[Request]) -> list[Generation]:
        result: list[Generation] = whole(events(target, drafter, Match(), requests))[1]
        return result

    def texts(results: list[Generation]) -> list[list[int]]:
        return [result.token_ids for result in results]

    def calls(results: list[Generation]) -> list[int]:
        return [result.stats.target_calls for result in results]

    same, drafter = requests([prompt] * 6), Consensus()
    plain, together = run(NoDraft(), same), run(drafter, same)
    assert texts(together) == texts(plain) and len(set(map(tuple, texts(plain)))) > 1
    assert sum(calls(together)) < 0.9 * sum(calls(plain))
    alone = [run(drafter, [request])[0] for request in same]
    assert texts(alone) == texts(plain) and calls(alone) == calls(plain)
    different = requests([[seed, *prompt] for seed in seeds])
    assert calls(run(drafter, different)) == calls(run(NoDraft(), different))


@pytest.mark.parametrize("options", [{"min_n": 0}, {"min_n": 5}, {"max_n": 0}, {"size": 0}, {"depth": 0}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(OutpaceError, match="accepted are"):
        Consensus(**options)
