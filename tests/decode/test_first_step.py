"""The prompts' own call with drafts behind the prompts: what it checks, commits and gives back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from outpace.core.call import Call, Prompt, Source
from outpace.core.sampling import Sampling
from outpace.core.steps import Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters.model.small_model import SmallModel
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, generate
from outpace.engine.request import Generation, Request
from outpace.rules import RULES
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from outpace.trees import TREES
from tests.fakes import Hostile, hostile, whole
from tests.laws import FALSE_ALARM_RATE, g_test
from tests.lazy_table import LazyTable

VOCAB_SIZE = 6
SAMPLING = Sampling(temperature=1.0, seed=7)
PROMPTS = [[1, 2, 3, 1, 2], [4], [0, 0, 1]]


class Noting(TableTarget):
    """Writes down the calls."""

    calls: list[Sequence[Call]]

    def score(self, calls: Sequence[Call]) -> Any:
        self.calls = [*getattr(self, "calls", []), calls]
        return super().score(calls)


@pytest.mark.parametrize("widths", ["[1,2]", "[2,2]", "[1,1]"])
@pytest.mark.parametrize("rule", ["multi_draft", "spechub"])
def test_the_first_token_has_the_targets_law(widths: str, rule: str) -> None:
    """Also where it depends on the token drawn first whether the tree loses siblings below it.

    Behind 0 the draft likes 1 too little; behind that it is sure, and so has one draft where 2 has two.
    """
    sure = 30.0
    target = LazyTable(np.tile([-sure, 0.0, 0.0], (3, 1)))
    draft = TableTarget(np.array([[-sure, np.log(0.2), np.log(0.8)], [-sure, 0.0, sure], [-sure, 0.0, 0.0]]))
    drafter = SmallModel.of(draft, tree=TREES.create(f"static:widths={widths}", costs=None))
    samplings = [Sampling(temperature=1.0, top_p=0.999, seed=seed) for seed in range(1500)]
    requests = [Request([0, 0], sampling, 3) for sampling in samplings]
    texts = whole(events(target, drafter, RULES.create(rule), requests))[1]
    assert g_test([one.token_ids[0] for one in texts], {1: 0.5, 2: 0.5}) > FALSE_ALARM_RATE / 6


def requests(max_tokens: int = 20) -> list[Request]:
    return [Request(prompt, SAMPLING, max_tokens) for prompt in PROMPTS]


def plain(max_tokens: int = 20) -> list[list[int]]:
    target = TableTarget.random(vocab_size=VOCAB_SIZE)
    alone = [whole(generate(target, NoDraft(), Match(), request))[1] for request in requests(max_tokens)]
    return [one.token_ids for one in alone]


def knowing(num: int) -> Hostile:
    """Drafts what comes next of the first prompt, `num` tokens."""
    text = [*PROMPTS[0], *plain()[0]]
    return Hostile(lambda ask, rng: TokenTree.chain(ask.root, text[ask.position + 1 :][:num]))


def first(drafter: Hostile, max_tokens: int = 20) -> tuple[list[list[int]], Generation]:
    """(the pieces, all in all) of the first prompt."""
    target = TableTarget.random(vocab_size=VOCAB_SIZE)
    pieces, generation = whole(generate(target, drafter, Match(), requests(max_tokens)[0]))
    assert target.num_rows == 0
    return [tokens for tokens, _ in pieces], generation


@pytest.mark.parametrize("name", hostile(VOCAB_SIZE))
def test_whatever_is_drafted_the_tokens_are_those_of_plain_decoding(name: str) -> None:
    target = TableTarget.random(vocab_size=VOCAB_SIZE)
    drafter = Hostile(hostile(VOCAB_SIZE)[name].draft)
    batch = whole(events(target, drafter, Match(), requests()))[1]
    assert [one.token_ids for one in batch] == plain() and target.num_rows == 0


def test_the_prompts_call_commits_what_is_right_and_one_token_more() -> None:
    pieces, generation = first(knowing(3))
    assert [len(tokens) for tokens in pieces] == [4] * 5 and generation.token_ids == plain()[0]
    stats = generation.stats
    assert (stats.first_tokens, stats.target_calls) == (4, 4) and stats.mean_accepted_length == 4.0
    assert (stats.num_drafted, stats.num_accepted) == (15, 15)


def test_a_draft_ends_where_the_answer_has_to() -> None:
    pieces, generation = first(knowing(20), max_tokens=3)
    assert pieces == [plain(3)[0]] and generation.finish_reason == "length"
    stats = generation.stats
    assert (stats.first_tokens, stats.target_calls, stats.num_drafted) == (3, 0, 2)
    assert (stats.mean_accepted_length, stats.tokens_per_s) == (1.0, 0.0)


def test_prompts_are_read_with_the_whole_tree_behind_them() -> None:
    target = Noting.random(vocab_size=VOCAB_SIZE)
    assert isinstance(target, Noting)
    shape = [-1, 0, 0, 1, 1, 2]
    drafter = Hostile(lambda ask, rng: TokenTree([ask.root, 2, 5, 4, 1, 3], shape))
    whole(events(target, drafter, Match(), requests()))
    first = target.calls[0]
    assert [list(call.pending) for call in first] == PROMPTS
    assert all(call.tree.shape.parent_list == shape for call in first)
    assert all(len(call.pending) == 1 for calls in target.calls[1:] for call in calls)


def test_prompts_that_fill_a_call_are_read_in_chunks() -> None:
    class Narrow(Noting):
        traits = Traits(max_nodes=90, chunk=7)

    target = Narrow.random(vocab_size=VOCAB_SIZE)
    assert isinstance(target, Narrow)
    prompts = [[n % VOCAB_SIZE for n in range(length)] for length in (40, 1, 7, 8, 23)]
    batch = [Request(prompt, SAMPLING, 9) for prompt in prompts]
    drafter = hostile(VOCAB_SIZE)["everything"]
    together = whole(events(target, drafter, Match(), batch))[1]
    assert max(sum(call.lead + call.tree.num_nodes for call in calls) for calls in target.calls) <= 90
    assert max(len(call.pending) for calls in target.calls for call in calls) == 7
    free = TableTarget.random(vocab_size=VOCAB_SIZE)
    alone = [whole(generate(free, NoDraft(), Match(), one))[1] for one in batch]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


class Leaky(Hostile):
    """Counts what is begun and stopped; fails where it is told to."""

    def __init__(self, method: str) -> None:
        super().__init__(lambda ask, rng: TokenTree.chain(ask.root, [0, 0]))
        self.method, self.held, self.left = method, 0, 1

    def start(self, prompt: Prompt) -> Any:
        if self.method == "start" and self.held == 2:
            raise KeyboardInterrupt
        self.held += 1
        return super().start(prompt)

    def propose(self, states: Any, asks: Any) -> list[TokenTree]:
        if self.method == "propose":
            raise KeyboardInterrupt
        return super().propose(states, asks)

    def observe(self, states: Any, steps: Sequence[Step]) -> list[Any]:
        if self.method == "observe":
            raise KeyboardInterrupt
        return super().observe(states, steps)

    def stop(self, state: Any) -> None:
        self.held -= 1


class Full(TableTarget):
    """Has no room for a row."""

    def open(self, source: Source | None = None) -> Any:
        raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["start", "propose", "observe", "open"])
def test_rows_and_states_are_given_back_when_it_fails(method: str) -> None:
    target = (Full if method == "open" else TableTarget).random(vocab_size=VOCAB_SIZE)
    drafter = Leaky(method)
    with pytest.raises(KeyboardInterrupt):
        whole(events(target, drafter, Match(), requests()))
    assert target.num_rows == drafter.held == 0
