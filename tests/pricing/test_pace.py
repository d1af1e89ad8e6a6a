"""Drafts as deep as pays: on a clock that only calls move, against every fixed depth."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, cast
from unittest import mock

import numpy as np
import pytest

from outpace.core.call import Call
from outpace.core.contracts import Drafter
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Step, StepTimes, Verdict
from outpace.core.traits import Paced, Traits
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.model.small_model import SmallModel
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events
from outpace.engine.request import Generation, Request
from outpace.pricing.pace import Pace, Prices, pace_of
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from outpace.trees.chain import Chain, OpenChain
from outpace.trees.dynamic import Dynamic
from tests.fakes import whole
from tests.lazy_table import LazyTable

VOCAB_SIZE = 16
LONG = 500
WRONG = 10.0  # so far off that hardly a token of the draft model is right


class Clock:
    """What time it is: as many seconds as calls have cost."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(LazyTable):
    """Its calls move a clock: by `price` for one node, and a twentieth of it for each more."""

    clock: Clock
    price: Callable[[], float]
    sizes: list[int]  # nodes of every call
    reading_s = 0.0  # of a prompt
    reads_free = False  # the call that reads it, without a draft, costs nothing else
    second = 0.0  # what the second node of a call costs beside, as a share of the price

    def score(self, calls: Sequence[Call]) -> Any:
        if any(self.length(call.row) == 0 for call in calls):
            self.clock.now += self.reading_s
            if self.reads_free and all(call.tree.num_nodes == 1 for call in calls):
                return super().score(calls)
        nodes = max(call.tree.num_nodes for call in calls)
        self.sizes.append(nodes)
        self.clock.now += self.price() * (1 + 0.05 * (nodes - 1) + self.second * (nodes > 1))
        return super().score(calls)


def timed_by(clock: Callable[[], float]) -> Any:
    """Within it the loop looks at this clock."""
    return mock.patch("outpace.decode.step.perf_counter", clock)


def timed(table: np.ndarray, clock: Clock, price: float | Callable[[], float]) -> Timed:
    target = Timed(table)
    target.clock, target.sizes = clock, []
    target.price = price if callable(price) else lambda: price
    return target


def tables(error: float) -> tuple[np.ndarray, np.ndarray]:
    """Of a target, and of a draft model whose logits are off by so much."""
    table = TableTarget.random(vocab_size=VOCAB_SIZE, order=2, seed=3).table
    noise = np.random.default_rng(1).normal(scale=error, size=table.shape)
    return table, table + noise.astype(table.dtype)


class Written(NamedTuple):
    """Texts, how long they took, and how many nodes each of the target's calls had."""

    texts: list[Generation]
    seconds: float
    sizes: list[int]


def run(
    error: float,
    price: float | Callable[[], float],
    length: int | None,
    num: int = LONG,
    *,
    num_rows: int = 1,
    reading_s: float = 0.0,
    second: float = 0.0,
    is_open: bool = False,
) -> Written:
    """Texts at temperature 1 with chains of `length`; None: as deep as pays; 0: without drafts.

    price      of the draft model's calls, the target's being 1; it reads a prompt in `reading_s`.
    second     what the second node of a call of the target costs beside.
    is_open    whether chains as deep as pays may also end where the draft model is unsure.
    """
    clock = Clock()
    table, other = tables(error)
    target, draft = timed(table, clock, 1.0), timed(other, clock, price)
    target.second, draft.reading_s, target.reads_free = second, reading_s, True
    drafter: Drafter = NoDraft()
    pace = None
    if length != 0:
        drafter = SmallModel.of(draft, tree=OpenChain(length=20) if is_open else Chain(length=length or 20))
    if length is None:
        pace = Pace(replace(drafter.traits, paced="always"))
    prompts = [[1 + row, 2, 3] for row in range(num_rows)]
    requests = [Request(prompt, Sampling(temperature=1.0, seed=5), num) for prompt in prompts]
    with timed_by(clock):
        texts = whole(events(target, drafter, Match(), requests, pace=pace))[1]
    return Written(texts, clock.now, target.sizes)


@pytest.mark.parametrize(
    ("error", "price", "num_rows"),
    [(error, price, 1) for error in (0.0, 0.5, 3.0) for price in (0.02, 0.2, 0.6, 1.0)] + [(0.0, 0.1, 3)],
)
def test_nearly_as_soon_as_the_best_depth(error: float, price: float, num_rows: int) -> None:
    """Which depth is the best is not told: no drafts at all, one token, or as many as the tree has."""
    fixed = [run(error, price, length, num_rows=num_rows) for length in (0, 1, 4, 20)]
    for is_open in (False, True):
        ours = run(error, price, None, num_rows=num_rows, is_open=is_open)
        assert [one.token_ids for one in ours.texts] == [one.token_ids for one in fixed[0].texts]
        assert ours.seconds < 1.08 * fixed[0].seconds  # whatever happens, hardly later than plain decoding
        assert ours.seconds < 1.15 * min(one.seconds for one in fixed)


@pytest.mark.parametrize(("num", "share"), [(25, 1.15), (120, 1.1)])
@pytest.mark.parametrize("price", [0.05, 0.2])
def test_where_drafts_pay_every_step_has_one_but_for_a_try_without(
    price: float, num: int, share: float
) -> None:
    ours = run(0.0, price, None, num)
    assert ours.sizes[0] > 1 and ours.sizes.count(1) <= num // 100
    assert ours.seconds < share * min(run(0.0, price, length, num).seconds for length in (1, 4, 20))


@pytest.mark.parametrize("num", [25, 120])
@pytest.mark.parametrize("price", [0.2, 1.0])
def test_where_no_draft_pays_a_few_are_tried(price: float, num: int) -> None:
    ours = run(WRONG, price, None, num)
    drafts = [size - 1 for size in ours.sizes if size > 1]
    assert drafts[0] == 4 and sum(drafts[1:]) < 8 + num / 10
    assert ours.seconds < num + 4 * price + 3 + 0.04 * num


def test_what_reading_the_prompt_costs_is_no_price_of_a_draft() -> None:
    ours = run(0.0, 0.05, None, 120, reading_s=30.0)
    assert ours.sizes.count(1) <= 1
    assert ours.seconds < 30 + 1.1 * run(0.0, 0.05, 20, 120).seconds


def in_turn(
    error: float, price: float, nums: Sequence[int], *, reading_s: float, mood: float = 1.0
) -> list[Written]:
    """Texts one after another of one drafter, which reads each prompt in `reading_s`; greedy chains.

    mood  how many times as long everything takes from the second text on.
    """
    clock = Clock()
    table, other = tables(error)
    now = [1.0]
    target, draft = timed(table, clock, lambda: now[0]), timed(other, clock, lambda: price * now[0])
    draft.reading_s, target.reads_free = reading_s, True
    drafter = SmallModel.of(draft, tree=Chain(length=8))
    pace = Pace(replace(drafter.traits, paced="always"))
    written = []
    for row, num in enumerate(nums):
        began, calls = clock.now, len(target.sizes)
        request = Request([1 + row, 2, 3], Sampling(temperature=1.0, seed=5), num)
        with timed_by(clock):
            texts = whole(events(target, drafter, Match(), [request], pace=pace))[1]
        written.append(Written(texts, clock.now - began, target.sizes[calls:]))
        now[0] = mood
    return written


def test_where_no_draft_pays_hardly_a_prompt_is_read_for_one() -> None:
    first, *others = in_turn(WRONG, 0.2, [100] * 8, reading_s=20.0)
    assert first.seconds > 120  # which had to be found out
    assert sum(one.seconds for one in others) < 1.02 * 700
    cheap = in_turn(WRONG, 0.2, [100] * 8, reading_s=0.5)
    assert sum(one.sizes != [1] * len(one.sizes) for one in cheap) >= 4  # there they are tried now and then


def test_a_prompt_is_read_where_as_many_tokens_are_wanted_as_make_up_for_it() -> None:
    """Drafts of a right draft model save some two thirds of the time."""
    first, short, long = in_turn(0.0, 0.1, [100, 20, 200], reading_s=40.0)
    assert max(first.sizes) > 1 and long.seconds < 40 + 0.6 * 200
    assert set(short.sizes) == {1} and short.seconds <= 20
    soon = in_turn(0.0, 0.1, [100, 20], reading_s=2.0)[1]
    assert soon.seconds < 2 + 0.6 * 20


def test_what_a_long_text_takes_to_read_is_told_by_a_shorter_one_unless_that_was_a_few_tokens() -> None:
    for lag, expected in ((20, 100 * 1.0), (3, 1.0)):
        prices = Prices()
        assert prices.catch_up_s(2000) == 0.0  # before anything is known it is tried
        assert prices.draft_took(4, lag, 1.0, 0.1) == 1.0
        assert prices.catch_up_s(2000) == pytest.approx(expected)
        assert prices.catch_up_s(1) < prices.catch_up_s(lag) == pytest.approx(1.0)


def test_a_machine_that_slows_makes_no_draft_pay() -> None:
    """Calls have become dearer: so has the draft, which nobody has timed since."""
    first, later = in_turn(0.5, 0.6, [200, 200], reading_s=0.0, mood=3.0)
    tried = sum(size > 1 for size in first.sizes[-100:])
    assert sum(size > 1 for size in later.sizes) <= 2 * tried + 4
    assert later.seconds < 1.05 * 3 * 200


def test_a_step_without_a_draft_is_tried_soon_where_drafts_may_not_pay() -> None:
    """Drafts bring little and make the target's calls much dearer, which shows when one is left out."""
    ours = run(3.0, 0.05, None, 25, second=0.7)
    assert ours.sizes.index(1) <= 2
    assert ours.seconds < 1.15 * 25


def test_a_step_without_a_draft_is_tried_rarely_where_drafts_pay() -> None:
    assert 1 <= run(0.0, 0.2, None, 2000).sizes.count(1) <= 3


def greedily(other: np.ndarray, table: np.ndarray, policy: Any, num: int = LONG) -> Written:
    """A text at temperature 0, with draft calls of a fifth of the price; open chains are as deep as pays."""
    clock = Clock()
    target = timed(table, clock, 1.0)
    target.reads_free = True
    drafter: Drafter = SmallModel.of(timed(other, clock, 0.2), tree=policy)
    pace = Pace(replace(drafter.traits, paced="always")) if isinstance(policy, OpenChain) else None
    request = Request([1, 2, 3], Sampling(), num)
    with timed_by(clock):
        [text] = whole(events(target, drafter, Match(), [request], pace=pace))[1]
    return Written([text], clock.now, target.sizes)


def test_a_draft_model_that_is_right_but_never_sure_is_believed() -> None:
    """A fixed theta of 0.4 lets it draft nothing."""
    table = TableTarget.random(vocab_size=VOCAB_SIZE, order=2, seed=3).table
    other = 0.05 * table
    deep, modest = (greedily(other, table, Chain(length=12, min_p=theta)) for theta in (0.0, 0.4))
    ours = greedily(other, table, OpenChain(length=12))
    assert modest.seconds > LONG and set(modest.sizes) == {1}
    assert ours.seconds < 1.1 * deep.seconds < 0.5 * LONG
    assert ours.texts[0].token_ids == deep.texts[0].token_ids


def test_a_draft_ends_where_the_draft_model_is_unsure_if_that_pays() -> None:
    """After a third of the tokens it knows nothing, and says so: no one depth serves."""
    table = round_and_round(length=601)
    other = table.copy()
    nothing = np.random.default_rng(2).random(len(table)) < 1 / 3
    other[nothing] = np.random.default_rng(3).normal(scale=0.1, size=other[nothing].shape)
    fixed = [greedily(other, table, Chain(length=length)) for length in (1, 2, 3, 4, 8)]
    told = greedily(other, table, Chain(length=20, min_p=0.4))
    ours = greedily(other, table, OpenChain(length=20))
    assert ours.seconds < 0.97 * min(one.seconds for one in fixed)
    assert ours.seconds < 1.2 * told.seconds  # which does not have to find out


def round_and_round(length: int) -> np.ndarray:
    """Logits of a table target whose greedy text has every token once before it begins again."""
    order = np.random.default_rng(4).permutation(length)
    table = np.zeros((length, length), np.float32)
    table[order, np.roll(order, -1)] = 8.0 + np.log(length)
    return table


def test_drafts_end_when_they_cease_to_pay_and_come_back() -> None:
    """The price of a draft rises from a tenth of the target's to all of it, and falls again."""
    clock = Clock()
    table, other = tables(0.1)
    draft = timed(other, clock, lambda: 1.0 if 100 < clock.now < 1100 else 0.1)
    drafter = SmallModel.of(draft, tree=Chain(length=8))
    request = Request([1, 2, 3], Sampling(temperature=1.0, seed=5), 4000)
    pace = Pace(replace(drafter.traits, paced="always"))
    steps = events(timed(table, clock, 1.0), drafter, Match(), [request], pace=pace)
    with timed_by(clock):
        written = np.array([(clock.now, len(found[0].tokens)) for found in steps])

    def speed(first: float, end: float) -> float:
        """Tokens per second of a time."""
        now, count = written.T
        tokens: float = count[(first < now) & (now <= end)].sum()
        return tokens / (end - first)

    assert speed(0, 100) > 1.5
    assert 0.85 < speed(100, 1100) < 1.1  # plain decoding gives 1 token a second
    # What is dear is tried rarely, and so it takes a while.
    assert speed(clock.now - 300, clock.now) > 1.5


def test_a_draft_is_tried_at_the_start_and_then_rarely_while_it_does_not_pay() -> None:
    ours = run(3.0, 1.0, None)
    assert 0 < ours.texts[0].stats.num_drafted < 0.05 * LONG
    first = (4 + 2) * 1.05  # a draft and a probe
    assert ours.seconds < first + 1.04 * LONG


def test_the_longer_drafts_are_in_vain_the_rarer_they_are_tried() -> None:
    """Of the first texts' time as much as may be, of the later ones' less than half of it."""
    first, *_, last = in_turn(WRONG, 0.5, [400] * 4, reading_s=0.0)
    tried = [sum(size > 1 for size in one.sizes) for one in (first, last)]
    assert tried[0] > 1.5 * tried[1] > 0
    assert last.seconds < 1.01 * 400


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=7)], ids=str)
def test_whatever_the_clock_says_the_text_is_the_same(sampling: Sampling) -> None:
    """A clock that jumps, stands still and runs back; trees with branches; rows that end one by one."""
    rng = random.Random(4)
    table, other = tables(0.5)
    requests = [Request([1 + row, 2], sampling, 20 + 13 * row) for row in range(4)]
    drafter = SmallModel.of(TableTarget(other), tree=Dynamic(size=6))
    pace = Pace(replace(drafter.traits, paced="always"))
    expected = whole(events(TableTarget(table), NoDraft(), Match(), requests))[1]
    for _ in range(5):
        with timed_by(lambda: rng.choice([0.0, 1.0, 1.0, 50.0, rng.random()])):
            ours = whole(events(TableTarget(table), drafter, Match(), requests, pace=pace))[1]
        assert [one.token_ids for one in ours] == [one.token_ids for one in expected]


def lookups(num_rows: int, node_s: float, *, paced: Paced, num: int = 200) -> float:
    """Seconds of texts drafted for by n-grams; a call costs 1 and node_s for each of its nodes."""
    clock = Clock()
    target = Summed(tables(0.0)[0])
    target.clock, target.sizes, target.price = clock, [], lambda: node_s
    drafter = NGram()
    drafter.traits = replace(drafter.traits, paced=paced)
    requests = [Request([1 + row, 2, 3], Sampling(temperature=0.7, seed=5), num) for row in range(num_rows)]
    with timed_by(clock):
        texts = whole(events(target, drafter, Match(), requests, pace=Pace(drafter.traits)))[1]
    assert all(len(text.token_ids) == num for text in texts)
    return clock.now


class Summed(Timed):
    """Its calls cost by the nodes of all their rows."""

    def score(self, calls: Sequence[Call]) -> Any:
        self.clock.now += 1 + self.price() * sum(call.tree.num_nodes for call in calls)
        return LazyTable.score(self, calls)


def test_lookups_are_held_back_where_rows_share_a_call() -> None:
    """A node of each of eight rows is dear, a node of one is not: there drafts are taken as they come."""
    plain = 200 * (1 + 0.3 * 8)
    assert lookups(8, 0.3, paced="never") > 1.2 * plain
    assert lookups(8, 0.3, paced="shared") < 1.04 * plain
    assert lookups(1, 0.02, paced="shared") == lookups(1, 0.02, paced="never")
    assert lookups(1, 0.02, paced="always") != lookups(1, 0.02, paced="never")


@dataclass(frozen=True)
class Equal:
    """Equal to all of its kind, as drafters of other packages may be."""

    traits: ClassVar[Traits] = Traits(paced="always")


class Slotted:
    """Knows no weak references, and cannot be hashed."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    traits = Traits(paced="always")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted)


@pytest.mark.parametrize("kind", [Equal, Slotted])
def test_every_drafter_has_a_ledger_of_its_own(kind: Callable[[], Any]) -> None:
    one, other = kind(), kind()
    assert one == other and pace_of(one) is pace_of(one)
    assert pace_of(one) is not pace_of(other)


class Sure:
    """An edit that forces five tokens behind a text."""

    def __call__(self, path: Sequence[int]) -> None:
        return None

    def forced(self, path: Sequence[int]) -> Sequence[int]:
        return [1, 2, 3, 4, 5][len(path) :]


def test_what_is_certain_is_drafted_at_any_depth_and_tells_nothing_of_drafts() -> None:
    pace = Pace(Traits(paced="always"))
    free = Ask(0, 9, Sampling(), 63, 40)
    sure = replace(free, edit=Sure())
    plan = pace.plan([sure, free], lag=0)
    assert plan is not None and plan.known == [5, 0] and plan.limits[0] == plan.limits[1] > 0
    assert plan.asks[0].depth == 5 + plan.asks[1].depth
    near = pace.plan([replace(sure, depth=7), replace(sure, budget=3)], lag=0)
    assert near is not None and near.limits == [2, 0] and near.known == [5, 3]

    def step(known: int, drafted: int, kept: int) -> Step:
        tree = TokenTree.chain(0, [*range(1, known + 1), *[7] * drafted])
        return Step(tree, cast(Any, None), Verdict(range(1, known + kept + 1), 9, "identical"))

    # No draft is ever kept and each costs a call: after a while none is asked for, but what is certain is.
    for _ in range(60):
        plan = pace.plan([sure, free], lag=0)
        assert plan is not None and plan.asks[0].depth >= 5
        steps = [step(5, 0, 0), step(0, plan.limits[1], 0)]
        pace.learn(plan, steps, StepTimes(draft_s=1.0 * (plan.limits[1] > 0), score_s=1.0))
    assert plan.limits == [0, 0] and plan.asks[0].depth == 5 and plan.asks[1].depth == 0
    # Rows of nothing but certain tokens teach what calls cost, and leave the depth as it is.
    for _ in range(60):
        plan = pace.plan([sure, sure], lag=0)
        assert plan is not None
        pace.learn(plan, [step(5, 0, 0), step(5, 0, 0)], StepTimes(draft_s=0.0, score_s=1.0))
    assert plan.limits == [0, 0] or plan.probe
