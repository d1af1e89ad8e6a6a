"""One request on the Markov table: ends inside a block, streaming, row ownership, requests in turn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.contracts import Drafter
from outpace.core.edits import Edit
from outpace.core.errors import OutpaceError, PromptTooLong
from outpace.core.sampling import Sampling, choose
from outpace.core.steps import Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, generate
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.fakes import Hostile, Letters, full_tree, hostile, whole
from tests.strategies import samplings

VOCAB_SIZE = 6
LETTERS = Letters("abcdé∑")
DRAFTERS: dict[str, Drafter] = {**hostile(VOCAB_SIZE), "ngram": NGram(), "none": NoDraft()}
BLOCKS = Hostile(lambda ask, rng: full_tree(ask, VOCAB_SIZE, 2))  # three tokens in every step


def run(
    target: TableTarget, drafter: Drafter, request: Request, stop: Sequence[str] | None = None
) -> tuple[list[tuple[list[int], str]], Generation]:
    text = None if stop is None else TextStream(LETTERS, stop=stop)
    blocks, generation = whole(generate(target, drafter, Match(), request, text=text))
    assert target.num_rows == 0
    return blocks, generation


def plain_tokens(target: TableTarget, prompt: list[int], sampling: Sampling, count: int) -> list[int]:
    """Token by token, without the loop."""
    text = list(prompt)
    for _ in range(count):
        text += choose(target.after(text)[None], sampling, [len(text)])
    return text[len(prompt) :]


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(DRAFTERS)),
    samplings(),
    st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=12),
    st.integers(1, 25),
    st.frozensets(st.integers(0, VOCAB_SIZE - 1), max_size=2),
    st.integers(0, 50),
)
def test_any_drafter_gives_the_tokens_of_plain_decoding(
    name: str, sampling: Sampling, prompt: list[int], max_tokens: int, eos_ids: frozenset[int], seed: int
) -> None:
    target = TableTarget.random(vocab_size=VOCAB_SIZE, seed=seed, eos_ids=eos_ids)
    expected = plain_tokens(target, prompt, sampling, max_tokens)
    ends = [i for i, token in enumerate(expected) if token in eos_ids]
    if ends:
        expected = expected[: ends[0] + 1]
    blocks, generation = run(target, DRAFTERS[name], Request(prompt, sampling, max_tokens))
    assert generation.token_ids == expected == [token for tokens, _ in blocks for token in tokens]
    assert generation.finish_reason == ("stop" if ends else "length")
    assert generation.exactness == "identical" and generation.prompt_tokens == len(prompt)
    stats = generation.stats
    assert stats.completion_tokens == len(expected) and stats.prompt_tokens == len(prompt)
    assert stats.target_calls == len(blocks) - 1
    assert stats.num_accepted <= len(expected)
    if name == "none":
        assert stats.target_calls == len(expected) - 1 and stats.mean_accepted_length == 1.0


@settings(max_examples=200)
@given(
    st.sampled_from(["everything", "ngram", "none", "garbage"]),
    samplings(),
    st.integers(1, 25),
    st.lists(st.text("abcdé∑", min_size=1, max_size=3), max_size=3),
    st.frozensets(st.integers(0, VOCAB_SIZE - 1), max_size=1),
    st.integers(0, 20),
)
def test_stop_strings_end_inside_a_block(
    name: str, sampling: Sampling, max_tokens: int, stop: list[str], eos_ids: frozenset[int], seed: int
) -> None:
    """Against plain decoding without stop strings, searched afterwards."""
    target = TableTarget.random(vocab_size=VOCAB_SIZE, seed=seed, eos_ids=eos_ids)
    _, free = run(target, NoDraft(), Request([1, 2], sampling, max_tokens))
    visible = free.token_ids[:-1] if free.finish_reason == "stop" else free.token_ids
    text, tokens, reason = LETTERS.decode(visible), free.token_ids, free.finish_reason
    for end in range(1, len(visible) + 1):  # one letter per token
        found = [s for s in stop if LETTERS.decode(visible[:end]).endswith(s)]
        if found:
            text, tokens, reason = text[: end - max(map(len, found))], free.token_ids[:end], "stop"
            break
    blocks, generation = run(target, DRAFTERS[name], Request([1, 2], sampling, max_tokens), stop)
    assert (generation.text, generation.token_ids, generation.finish_reason) == (text, tokens, reason)
    assert "".join(piece for _, piece in blocks) == text
    assert [token for new, _ in blocks for token in new] == tokens


def cycle(*, eos_ids: frozenset[int] = frozenset(), context_length: int = 4096) -> TableTarget:
    """Token i is followed by i + 1, the last by 0."""
    logits = np.roll(np.eye(VOCAB_SIZE) * 50, 1, axis=1)
    return TableTarget(logits, eos_ids=eos_ids, context_length=context_length)


@pytest.mark.parametrize("max_tokens", range(1, 10))
def test_max_tokens_cut_the_last_block(max_tokens: int) -> None:
    blocks, generation = run(cycle(), BLOCKS, Request([0], max_tokens=max_tokens), [])
    assert generation.token_ids == [(i + 1) % VOCAB_SIZE for i in range(max_tokens)]
    assert generation.text == LETTERS.decode(generation.token_ids) and generation.finish_reason == "length"
    sizes = [*[3] * (max_tokens // 3), max_tokens % 3]
    assert [len(tokens) for tokens, _ in blocks] == [size for size in sizes if size]


@pytest.mark.parametrize("end", [1, 2, 3, 4, 5])
def test_nothing_follows_the_end_token(end: int) -> None:
    _, generation = run(cycle(eos_ids=frozenset({end})), BLOCKS, Request([0], max_tokens=50), [])
    assert generation.token_ids == list(range(1, end + 1)) and generation.finish_reason == "stop"
    assert generation.text == LETTERS.decode(range(1, end))
    _, generation = run(
        cycle(eos_ids=frozenset({end})), BLOCKS, Request([0], max_tokens=9, eos_ids=frozenset())
    )
    assert len(generation.token_ids) == 9 and generation.text == ""


def test_an_end_token_at_the_last_wanted_place_is_a_stop() -> None:
    _, generation = run(cycle(eos_ids=frozenset({3})), BLOCKS, Request([0], max_tokens=3))
    assert generation.finish_reason == "stop"


def test_a_held_back_beginning_of_a_stop_string_comes_at_the_end() -> None:
    blocks, generation = run(cycle(), NoDraft(), Request([0], max_tokens=3), ["cdx"])
    assert [piece for _, piece in blocks] == ["b", "", "cd"] and generation.text == "bcd"


@pytest.mark.parametrize("name", ["none", "ngram", "too much", "too deep", "everything"])
def test_a_full_context_ends_the_text(name: str) -> None:
    """The table refuses to score beyond its context, so the loop must not ask for it."""
    for length in range(1, 11):
        target = cycle(context_length=10)
        _, generation = run(target, DRAFTERS[name], Request([0] * length, max_tokens=50))
        assert generation.finish_reason == "length"
        assert generation.token_ids == [(i + 1) % VOCAB_SIZE for i in range(10 - length + 1)]


@pytest.mark.parametrize(
    ("request_", "error", "parts"),
    [
        (Request([0] * 11), PromptTooLong, ["11", "10"]),
        (Request([]), OutpaceError, ["empty", "1 token"]),
        (Request([1], max_tokens=0), OutpaceError, ["max_tokens is 0", ">= 1"]),
        (Request([VOCAB_SIZE]), OutpaceError, ["outside 0 to 5"]),
        (Request([-1]), OutpaceError, ["outside 0 to 5"]),
    ],
    ids=str,
)
def test_bad_requests_fail_before_anything_runs(
    request_: Request, error: type[Exception], parts: list[str]
) -> None:
    target = cycle(context_length=10)
    with pytest.raises(error) as caught:
        generate(target, NoDraft(), Match(), request_)
    assert all(part in str(caught.value) for part in parts) and target.num_rows == 0


class Failing(Hostile):
    """Raises at the n-th call of one of its methods."""

    def __init__(self, method: str, call: int, error: type[BaseException]) -> None:
        super().__init__(lambda ask, rng: TokenTree.chain(ask.root, [0, 0]))
        self.left, self.method, self.error, self.stopped = call, method, error, 0

    def _count(self, method: str) -> None:
        if method == self.method:
            self.left -= 1
            if self.left < 0:
                raise self.error

    def start(self, prompt: Any) -> Any:
        self._count("start")
        return super().start(prompt)

    def propose(self, states: Any, asks: Any) -> list[TokenTree]:
        self._count("propose")
        return super().propose(states, asks)

    def observe(self, states: Any, steps: Sequence[Step]) -> list[Any]:
        self._count("observe")
        return super().observe(states, steps)

    def stop(self, state: Any) -> None:
        self.stopped += 1
        self._count("stop")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(
    ("method", "call"), [("start", 0), ("propose", 2), ("observe", 0), ("observe", 3), ("stop", 0)]
)
def test_rows_and_states_are_given_back_on_every_error(
    method: str, call: int, error: type[BaseException]
) -> None:
    target, drafter = cycle(), Failing(method, call, error)
    with pytest.raises(error):
        whole(generate(target, drafter, Match(), Request([0], max_tokens=20)))
    assert target.num_rows == 0 and drafter.stopped == (method != "start")


def test_rows_are_given_back_when_the_reader_leaves() -> None:
    target, drafter = cycle(), Failing("nothing", 0, RuntimeError)
    generator = generate(target, drafter, Match(), Request([0], max_tokens=20))
    assert target.num_rows == 0  # nothing runs before the first piece is asked for
    next(generator)
    next(generator)
    assert target.num_rows == 1
    generator.close()
    assert target.num_rows == 0 and drafter.stopped == 1
    with pytest.raises(KeyboardInterrupt):
        generator = generate(target, drafter, Match(), Request([0], max_tokens=20))
        next(generator)
        generator.throw(KeyboardInterrupt)
    assert target.num_rows == 0


def test_requests_may_take_turns_on_one_target() -> None:
    target = TableTarget.random(vocab_size=VOCAB_SIZE, seed=1)
    requests = [Request([i, 2], Sampling(temperature=1.0, seed=i), 12) for i in range(3)]
    expected = [run(target, NGram(), request)[1].token_ids for request in requests]
    generators = [generate(target, NGram(), Match(), request) for request in requests]
    seen: list[list[int]] = [[], [], []]
    open_ones = set(range(3))
    while open_ones:
        for i in sorted(open_ones):
            try:
                seen[i] += next(generators[i])[0]
            except StopIteration:
                open_ones.remove(i)
    assert seen == expected and target.num_rows == 0


def test_the_budget_bounds_every_tree() -> None:
    sizes: list[int] = []

    class Spy(TableTarget):
        def score(self, calls: Any) -> Any:
            sizes.extend(call.tree.num_nodes - 1 for call in calls)
            return super().score(calls)

    target = Spy.random(vocab_size=VOCAB_SIZE)
    run(target, DRAFTERS["too much"], Request([0], max_tokens=400, budget=7))
    assert max(sizes) == 7


def test_requests_share_the_nodes_that_a_call_may_have() -> None:
    calls: list[int] = []

    class Narrow(TableTarget):
        traits = Traits(max_nodes=40)

        def score(self, now: Any) -> Any:
            calls.append(sum(call.lead + call.tree.num_nodes for call in now))
            return super().score(now)

    target = Narrow.random(vocab_size=VOCAB_SIZE)
    requests = [Request([number % VOCAB_SIZE], max_tokens=30) for number in range(7)]
    _, together = whole(events(target, DRAFTERS["too much"], Match(), requests))
    alone = [run(TableTarget.random(vocab_size=VOCAB_SIZE), NoDraft(), one)[1] for one in requests]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert 7 < max(calls) <= 40
    _, many = whole(events(target, DRAFTERS["too much"], Match(), requests[:1] * 41))
    assert [one.token_ids for one in many] == [alone[0].token_ids] * 41, "without drafts, where none has room"


def test_edits_see_the_text_and_reach_every_choice() -> None:
    """A ban on repeating the last token, which plain and drafted decoding obey alike."""

    def no_repeats(text: Sequence[int], path: Sequence[int]) -> Edit:
        return Edit([[*text, *path][-1]], [-np.inf])

    target = TableTarget.random(vocab_size=VOCAB_SIZE, seed=2, order=1)
    request = Request([1, 1], Sampling(temperature=1.5, seed=3), 40, edit=no_repeats)
    outputs = [run(target, drafter, request)[1].token_ids for drafter in (NoDraft(), NGram(), BLOCKS)]
    assert outputs[0] == outputs[1] == outputs[2]
    text = [1, *outputs[0]]
    assert all(a != b for a, b in itertools.pairwise(text))
    free = run(target, NoDraft(), Request([1, 1], Sampling(temperature=1.5, seed=3), 40))[1].token_ids
    assert any(a == b for a, b in itertools.pairwise(free))


def test_times_add_up_and_leave_the_reader_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that goes one second per look, and a thousand while the reader holds a piece."""
    clock = [0.0]

    def tick() -> float:
        clock[0] += 1
        return clock[0]

    monkeypatch.setattr("outpace.engine.engine.now", tick)
    monkeypatch.setattr("outpace.decode.step.perf_counter", tick)
    generator = generate(cycle(), BLOCKS, Match(), Request([0], max_tokens=7))
    try:
        while True:
            next(generator)
            clock[0] += 1000
    except StopIteration as end:
        stats = end.value.stats
    assert stats.target_calls == 2
    assert 0 < stats.prompt_s < stats.time_to_first_token_s < stats.wall_s < 100
    assert stats.prompt_s + stats.draft_s + stats.score_s <= stats.wall_s
    assert stats.first_tokens == 3
    assert stats.tokens_per_s == 4 / (stats.wall_s - stats.time_to_first_token_s)
