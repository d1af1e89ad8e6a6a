"""Every drafter, on every target, under every rule that promises it: plain decoding's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter, Target
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, ScoredCall, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.decode.judge import judge
from outpace.decode.step import step
from outpace.drafters import DRAFTERS
from outpace.drafters.none import NoDraft
from outpace.engine.engine import Engine
from outpace.engine.generate import events, generate
from outpace.engine.prefixes import prefixes_of
from outpace.engine.request import Generation, Request
from outpace.rules import RULES
from outpace.rules.match import Match
from tests.contract.rows import (
    CUTTABLE,
    DRAFTER_SPECS,
    HOSTILE,
    NEEDS,
    RULE_NAMES,
    TARGETS,
    hf_causal,
    hf_seq2seq,
    make_drafter,
    native_quantised,
    pairs,
    predictable_table,
)
from tests.fakes import whole
from tests.rows import opened

PROMPTS = [[1, 2, 3, 1, 2, 3, 1], [4], [5, 6, 7, 0, 5, 6, 7, 1, 5, 6]]
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.0, seed=1),
    Sampling(temperature=0.7, top_p=0.9, seed=2),
    Sampling(temperature=1.3, top_k=3, min_p=0.1, seed=3),
]


def run(target: Target, drafter: Drafter, rule: str, prompt: list[int], sampling: Sampling) -> Generation:
    result: Generation = whole(generate(target, drafter, RULES.create(rule), Request(prompt, sampling, 30)))[
        1
    ]
    return result


@cache
def run_plainly(target: Any, rule: str, prompt: tuple[int, ...], sampling: Sampling) -> Generation:
    """Every drafter is compared with the same."""
    return run(target, NoDraft(), rule, list(prompt), sampling)


IDENTICAL = [name for name in RULE_NAMES if RULES.create(name).exactness == "identical"]
EVERY_DRAFTER = [*DRAFTER_SPECS, *HOSTILE]


def check(drafted: Generation, plain: Generation) -> None:
    assert drafted.token_ids == plain.token_ids
    assert drafted.finish_reason == plain.finish_reason
    assert plain.stats.mean_accepted_length == 1.0 and drafted.stats.mean_accepted_length >= 1.0
    assert drafted.stats.num_accepted <= drafted.stats.num_drafted


@pytest.mark.parametrize(("factory", "name"), pairs(EVERY_DRAFTER), indirect=["factory"])
@pytest.mark.parametrize("rule", IDENTICAL)
def test_the_likeliest_tokens_are_those_of_plain_decoding(target: Any, name: str, rule: str) -> None:
    for prompt in PROMPTS:
        plain = run_plainly(target, rule, tuple(prompt), SAMPLINGS[0])
        check(run(target, make_drafter(name, target), rule, prompt, SAMPLINGS[0]), plain)


@pytest.mark.parametrize(("factory", "name"), pairs(EVERY_DRAFTER), indirect=["factory"])
@pytest.mark.parametrize("rule", IDENTICAL)
def test_sampled_tokens_are_those_of_plain_decoding(target: Any, name: str, rule: str) -> None:
    """Side by side, each prompt with its own sampling: which it is goes round from drafter to drafter."""
    turn = EVERY_DRAFTER.index(name) % len(PROMPTS)
    jobs = list(zip(PROMPTS, [*SAMPLINGS[1 + turn :], *SAMPLINGS[1 : 1 + turn]], strict=True))
    # Nodes are free: where they cost something, `mix` drafts less for each of several rows.
    drafter = make_drafter(name, target, per_node=0.0)
    requests = [Request(prompt, sampling, 30) for prompt, sampling in jobs]
    together: list[Generation] = whole(events(target, drafter, RULES.create(rule), requests))[1]
    for (prompt, sampling), drafted in zip(jobs, together, strict=True):
        check(drafted, run_plainly(target, rule, tuple(prompt), sampling))


ONE_OF_EACH = {spec.partition(":")[0]: spec for spec in DRAFTER_SPECS}.values()
SHARED = (predictable_table, native_quantised, hf_causal, hf_seq2seq)


@pytest.mark.parametrize(
    ("factory", "name"),
    [pair for pair in pairs(ONE_OF_EACH) if pair.values[0] in SHARED],
    indirect=["factory"],
)
def test_threads_share_target_and_drafter(target: Any, name: str, busy_threads: ThreadPoolExecutor) -> None:
    """Each has the tokens of plain decoding, whoever else is on the way, and no row is left."""
    drafter, jobs = make_drafter(name, target), list(product(PROMPTS, SAMPLINGS[1:2] * 2))
    got = busy_threads.map(lambda job: run(target, drafter, "match", *job).token_ids, jobs)
    plain = [run_plainly(target, "match", tuple(prompt), sampling) for prompt, sampling in jobs]
    assert list(got) == [one.token_ids for one in plain]


ADAPTED = "early_exit:path=ADAPTER tree=chain:length=3", "speed:head=EARLY"


@pytest.mark.parametrize(
    ("factory", "name"),
    [pair for pair in pairs([*ONE_OF_EACH, *ADAPTED]) if pair.values[0] in CUTTABLE],
    indirect=["factory"],
)
def test_the_beginning_of_a_prompt_may_have_been_read_for_another(target: Any, name: str) -> None:
    """Drafters see the states of the rest alone, and the answers are those of requests alone."""
    drafter, prefixes = make_drafter(name, target), prefixes_of(target, least_tokens=2)
    engine = Engine(target, drafter, Match(), prefixes=prefixes)
    text, cached = list(PROMPTS[0]), list[int]()
    for sampling, message in zip(SAMPLINGS[:3], [[], [4, 5], [6]], strict=True):
        request = Request([*text, *message], sampling, 12, logprobs=2)
        job = engine.add(request)
        while engine.busy:
            engine.step()
        plain = whole(generate(target, NoDraft(), Match(), request))[1]
        assert job.result is not None, job.error
        assert job.result.token_ids == plain.token_ids and job.result.logprobs == plain.logprobs
        assert job.result.finish_reason == plain.finish_reason
        cached.append(job.result.stats.cached_tokens)
        text = [*request.prompt, *job.result.token_ids]
    assert cached == [0, 7 + 11, 7 + 12 + 2 + 11]
    engine.close()


class Watched:
    """Passes everything on and remembers what was asked and proposed."""

    @property
    def traits(self) -> Traits:
        return self.drafter.traits

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.start, self.observe, self.stop = drafter.start, drafter.observe, drafter.stop
        self.proposals: list[tuple[Ask, TokenTree]] = []

    def propose(self, states: Sequence[object], asks: Sequence[Ask]) -> list[TokenTree]:
        trees = self.drafter.propose(states, asks)
        self.proposals += zip(asks, trees, strict=True)
        return trees


@pytest.mark.parametrize(("factory", "name"), pairs(DRAFTER_SPECS), indirect=["factory"])
def test_proposals_keep_to_the_ask(target: Any, name: str) -> None:
    """The loop would cut what goes beyond, but a drafter of ours does not pay for what is thrown away."""
    for prompt in PROMPTS:
        watched = Watched(make_drafter(name, target))
        asked = Request(prompt, SAMPLINGS[1], 20, budget=5)
        drafted: Generation = whole(generate(target, watched, Match(), asked))[1]
        assert drafted.token_ids == run_plainly(target, "match", tuple(prompt), asked.sampling).token_ids[:20]
        assert watched.proposals
        for ask, tree in watched.proposals:
            assert tree.token_list[0] == ask.root
            assert tree.num_nodes - 1 <= min(ask.budget, 5) and tree.shape.height <= ask.depth
            assert all(0 <= token < target.vocab_size for token in tree.token_list)


# What a tree policy has learnt is shared by all rows on purpose (docs/decisions/0017).
ALONE = [spec for spec in DRAFTER_SPECS if "tree=survival" not in spec]


@pytest.mark.parametrize(("factory", "name"), pairs(ALONE), indirect=["factory"])
def test_state_of_one_row_never_leaks_into_another(target: Target, name: str) -> None:
    """Proposals of a batch are those of its rows alone."""

    def proposals(prompts: list[list[int]]) -> list[list[list[int]]]:
        # Nodes are free: where they cost something, `mix` drafts less for each of several rows.
        drafter = make_drafter(name, target, per_node=0.0)
        texts = [list(prompt) for prompt in prompts]
        rows, scores = opened(target, prompts)

        def asks() -> list[Ask]:
            return [
                Ask(text[-1], len(text) - 1, SAMPLINGS[1], 9, 9, row=row)
                for text, row in zip(texts, rows, strict=True)
            ]

        steps: list[Step] = judge(
            Match(), ScoredCall(scores, [TokenTree.root(p[-1]) for p in prompts], asks())
        )
        states = [drafter.start(Prompt.of(prompt)) for prompt in prompts]
        states = drafter.observe(states, steps)
        seen: list[list[list[int]]] = [[] for _ in prompts]
        for _ in range(5):
            for text, one in zip(texts, steps, strict=True):
                text += one.tokens
            steps, states, _ = step(target, drafter, Match(), states, asks())
            for record, one in zip(seen, steps, strict=True):
                record.append(one.tree.token_list)
        for state in states:
            drafter.stop(state)
        target.free(rows)
        return seen

    assert proposals(PROMPTS) == [proposals([prompt])[0] for prompt in PROMPTS]


@pytest.mark.parametrize("name", NEEDS)
def test_who_needs_certain_targets_refuses_the_others(name: str, tmp_path: Path) -> None:
    for factory in TARGETS:
        if factory not in NEEDS[name]:
            spec = f"{name}:model=noisy" if name == "blockwise_local" else name
            with pytest.raises(OutpaceError, match=rf"{name.split('_')[0]}.*accepted are"):
                make_drafter(spec, factory(tmp_path))


def test_every_registered_drafter_is_in_the_suite() -> None:
    assert {spec.partition(":")[0] for spec in DRAFTER_SPECS} == set(DRAFTERS.names())
