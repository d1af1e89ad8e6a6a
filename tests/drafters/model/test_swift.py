"""SWIFT: what the search finds, what it costs, and that it stays within its row."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask
from outpace.core.tree import TokenTree
from outpace.drafters.model.sublayer_search import Search, Sublayers
from outpace.drafters.model.swift import Swift
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Generation, Request
from outpace.rules.match import Match
from outpace.targets.native import NativeTarget
from outpace.targets.table import TableTarget
from tests.fakes import whole
from tests.native_models import gguf_target
from tests.rows import on, opened

PROMPT = [5, 9, 2, 77, 120, 5, 9]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> NativeTarget:
    return gguf_target(tmp_path_factory.mktemp("model"), "llama3", "Q8_0", num_hidden_layers=7)


def generated(target: NativeTarget, drafter: object, *, num_tokens: int = 60) -> Generation:
    request = Request(PROMPT, Sampling(temperature=1.0, seed=3), num_tokens)
    result: Generation = whole(generate(target, drafter, Match(), request))[1]  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_planted_sublayers(seed: int) -> None:
    """Of 28 free sublayers, 10 cost nothing and 18 cost 0.05 each: random sets of 10 lose 0.32 on average."""
    cheap = set(random.Random(seed).sample(range(2, 30), 10))

    def score_of(skipped: Sublayers) -> float:
        return 1 - 0.05 * len(skipped - cheap)

    search = Search(16, 10 / 28)
    search.new_text(score_of)
    start = search.score
    for _ in range(60):
        skipped = search.candidate()
        assert len(skipped) == 10 and skipped <= set(range(2, 30))
        search.record(skipped, score_of(skipped))
    search.new_text(score_of)
    assert search.score == score_of(search.best) and search.score >= max(start, 0.89)


def test_a_rival_has_to_win_twice() -> None:
    search = Search(6, 0.5)
    first = search.best
    search.new_text(lambda _: 0.5)
    lucky = search.candidate()
    search.record(lucky, 0.9)
    assert (search.best, search.rival) == (first, lucky)
    search.new_text(lambda skipped: 0.5 if skipped == first else 0.4)
    assert (search.best, search.score, search.rival) == (first, 0.5, None)
    better = search.candidate()
    search.record(better, 0.6)
    search.record(first, 0.7)  # the best set is no rival of its own
    search.new_text(lambda skipped: 0.5 if skipped == first else 0.6)
    assert (search.best, search.score, search.rival, search.stale) == (better, 0.6, None, 0)
    assert search.trials == 8


def test_copies_of_a_search_go_their_own_ways() -> None:
    search = Search(8, 0.4)
    search.new_text(lambda _: 0.3)
    twin = search.copy()
    for _ in range(9):
        search.record(search.candidate(), 0.1)
    assert twin.trials == 1 and np.array_equal(twin._moment, search.copy()._moment) is False
    other = twin.copy()
    for _ in range(9):
        assert twin.candidate() == other.candidate()
        twin.record(twin.candidate(), 0.2)
        other.record(other.candidate(), 0.2)


def test_a_score_is_the_share_of_tokens_told_right(target: NativeTarget) -> None:
    """Against one call per token, of a fresh row each."""
    sampling = Sampling(temperature=1.0, seed=3)
    text = [*PROMPT, *generated(target, NoDraft()).token_ids]
    drafter = Swift(window=10, target=target)
    state = drafter.start(Prompt.of(text))
    rows, _ = opened(target, [text[:12]])
    state.window = rows[0]
    for skip in (frozenset[int](), frozenset([4]), frozenset([5, 8, 9])):
        right = 0
        for last in range(10):
            fresh, _ = opened(target, [text[:12]])
            scores = target.run(on(fresh, [TokenTree.chain(text[12], text[13 : 13 + last])]), skip=skip)
            right += scores.choose([sampling], [12])[0][-1] == text[13 + last]
            target.free(fresh)
        ask = Ask(text[-1], len(text) - 1, sampling, 9, 9, row=rows[0])
        assert drafter._score(state, ask, skip) == right / 10
        assert skip or right == 10
    target.free(rows)


def test_the_search_keeps_to_its_budget_and_gives_back_its_forks(
    target: NativeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = generated(target, NoDraft()).token_ids
    calls: list[int] = []
    score = Swift._score
    monkeypatch.setattr(Swift, "_score", lambda *given: calls.append(1) or score(*given))
    for options, most in (({"trials": 7}, 8), ({"trials": 0}, 0), ({"patience": 3}, 30), ({"ratio": 0}, 0)):
        calls.clear()
        drafter = Swift(window=8, target=target, **{"ratio": 0.7, "enough": 1.0, **options})  # type: ignore[arg-type]
        assert generated(target, drafter).token_ids == plain
        assert len(calls) <= most and (most in (0, 30) or len(calls) >= 7)
        assert drafter._search.trials == len(calls)
        assert target.cache_bytes == 0
    calls.clear()
    generated(target, Swift(ratio=0.7, window=8, enough=0.0, target=target))
    assert len(calls) == 1


def test_the_next_text_begins_where_the_last_one_ended(target: NativeTarget) -> None:
    drafter = Swift(ratio=0.7, window=8, trials=30, patience=30, enough=1.0, target=target)
    during = drafter.start(Prompt.of(PROMPT))
    first = generated(target, drafter)
    assert during.search.trials == 0 and drafter._search.trials > 10
    best = drafter._search.best
    assert drafter.start(Prompt.of(PROMPT)).search.best == best
    drafter.stop(during)  # it has not searched at all: no reason to follow it
    assert drafter._search.best == best
    again = Swift(ratio=0.7, window=8, trials=30, patience=30, enough=1.0, target=target)
    assert generated(target, again).stats.num_drafted == first.stats.num_drafted
    assert again._search.best == best


def test_without_room_for_a_fork_it_drafts_all_the_same(tmp_path: Path) -> None:
    roomy = gguf_target(tmp_path, "llama3", "Q8_0", num_hidden_layers=7)
    tight = gguf_target(tmp_path, "llama3", "Q8_0", num_hidden_layers=7, cache_tokens=80)
    plain = generated(roomy, NoDraft()).token_ids
    drafter = Swift(window=5, trials=50, enough=1.0, target=tight)
    result = generated(tight, drafter)
    assert result.token_ids == plain and tight.cache_bytes == 0


def test_options(target: NativeTarget) -> None:
    for bad in (
        {"ratio": -0.1},
        {"ratio": 1.1},
        {"enough": 2.0},
        {"window": 0},
        {"trials": -1},
        {"patience": 0},
    ):
        with pytest.raises(OutpaceError, match="accepted are"):
            Swift(target=target, **bad)
    with pytest.raises(OutpaceError, match=r"TableTarget cannot run a part .* accepted are native"):
        Swift(target=TableTarget.random(vocab_size=4, order=1, seed=0))
