"""Masked diffusion: laws known exactly, identity to plain sampling, wrong rules fail, costs as counted."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from outpace.diffusion.unmasking import Schedule

pytest.importorskip("torch")

import torch

from outpace import diffusion
from outpace.core.errors import OutpaceError
from outpace.diffusion import Adaptive, Match, OneByOne, Speculative, Unmasking, sample_masked
from outpace.diffusion.masked_rules import Draws, Rule
from outpace.diffusion.noise import Noise, _uniform
from tests.laws import FALSE_ALARM_RATE, g_test

LENGTH, SYMBOLS, MASK = 4, 3, 3
NUM_SAMPLES = 4000
ALPHAS = [0.0, 0.35, 0.35, 0.7, 1.0]
THRESHOLD = FALSE_ALARM_RATE / 13  # of the G-tests of this file
WORDS = list(itertools.product(range(SYMBOLS), repeat=LENGTH))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def joint_law(seed: int = 5) -> dict[tuple[int, ...], float]:
    """Far from independent positions."""
    masses = np.random.default_rng(seed).gamma(0.25, size=len(WORDS)) + 0.01
    return dict(zip(WORDS, (masses / masses.sum()).tolist(), strict=True))


def product_law() -> dict[tuple[int, ...], float]:
    marginals = np.random.default_rng(6).dirichlet([1.0] * SYMBOLS, size=LENGTH)
    return {word: math.prod(marginals[i][x] for i, x in enumerate(word)) for word in WORDS}


def conditionals(joint: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], np.ndarray]:
    """[LENGTH, SYMBOLS] for every partly masked word: the law of each position given what is known."""
    table = {}
    for state in itertools.product(range(SYMBOLS + 1), repeat=LENGTH):
        law = np.zeros((LENGTH, SYMBOLS))
        for word, mass in joint.items():
            if all(known in (MASK, x) for known, x in zip(state, word, strict=True)):
                law[range(LENGTH), word] += mass
        table[state] = law / law.sum(1, keepdims=True)
    return table


JOINT = joint_law()
TABLE = conditionals(JOINT)


class Model:
    """Looks the conditionals up; with `heat`, sharper at early times. Keeps what it was called with."""

    def __init__(
        self,
        table: dict[tuple[int, ...], np.ndarray] = TABLE,
        *,
        heat: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        laws = torch.tensor(np.array([table[state] for state in sorted(table)]), dtype=dtype)
        self.logits = laws.log().reshape(*[SYMBOLS + 1] * LENGTH, LENGTH, SYMBOLS)
        self.heat = heat
        self.calls: list[tuple] = []

    def __call__(
        self, tokens: torch.Tensor, times: torch.Tensor, numbers: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.calls.append((tokens.tolist(), times.tolist(), None if numbers is None else numbers.tolist()))
        logits = self.logits[tuple(tokens.T)]
        return logits * (0.5 + times.double())[:, None, None] if self.heat else logits


def chain_law(
    table: dict[tuple[int, ...], np.ndarray], alphas: list[float], times: list[float]
) -> dict[tuple[int, ...], float]:
    """Of plain sampling, step by step over all states."""
    states = {(MASK,) * LENGTH: 1.0}
    for before, after, time in zip(alphas, alphas[1:], times, strict=False):
        following: defaultdict[tuple[int, ...], float] = defaultdict(float)
        coin = (after - before) / (1 - before)
        for state, mass in states.items():
            laws = table[state] ** (0.5 + time)
            laws /= laws.sum(1, keepdims=True)
            options = [
                [(known, 1.0)]
                if known != MASK
                else [(MASK, 1 - coin), *((x, coin * laws[i, x]) for x in range(SYMBOLS))]
                for i, known in enumerate(state)
            ]
            for choice in itertools.product(*options):
                following[tuple(x for x, _ in choice)] += mass * math.prod(chance for _, chance in choice)
        states = {state: mass for state, mass in following.items() if mass > 0}
    assert math.isclose(sum(states.values()), 1.0)
    return states


CHAIN = chain_law(TABLE, ALPHAS, [1.0, 0.75, 0.5, 0.25])


def words(result: Any) -> list[tuple[int, ...]]:
    return [tuple(word) for word in result.samples.tolist()]


# --- laws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("rule", [Match(), Speculative()], ids=["match", "speculative"])
def test_one_position_a_step_has_the_joint_law(rule: Rule, window: Any) -> None:
    result = sample_masked(
        Model(), OneByOne(), LENGTH, NUM_SAMPLES, mask_id=MASK, rule=rule, window=window, seed=window
    )
    assert g_test(words(result), JOINT) > THRESHOLD


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("rule", [Match(), Speculative()], ids=["match", "speculative"])
def test_many_positions_a_step_have_the_law_of_the_chain(rule: Rule, window: Any) -> None:
    result = sample_masked(
        Model(heat=True), Unmasking(ALPHAS), LENGTH, NUM_SAMPLES,
        mask_id=MASK, rule=rule, window=window, seed=window, batch=3000,
    )  # fmt: skip
    assert g_test(words(result), CHAIN) > THRESHOLD
    assert g_test(words(result), JOINT) < 1e-9  # the two laws are told apart


def test_what_is_known_is_conditioned_on() -> None:
    partial = torch.full((NUM_SAMPLES, LENGTH), MASK)
    partial[:, 1] = 2
    result = sample_masked(
        Model(), OneByOne(), LENGTH, NUM_SAMPLES, mask_id=MASK, rule=Speculative(), window=3, partial=partial
    )
    given = {word: mass for word, mass in JOINT.items() if word[1] == 2}
    total = sum(given.values())
    assert g_test(words(result), {word: mass / total for word, mass in given.items()}) > THRESHOLD
    assert (partial[:, [0, 2, 3]] == MASK).all()  # the caller's own


class AcceptsAll(Match):
    def judge(
        self, target: torch.Tensor, draft: torch.Tensor, tokens: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


class SubtractsNothing(Speculative):
    def judge(
        self, target: torch.Tensor, draft: torch.Tensor, tokens: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _, kept = super().judge(target, draft, tokens, draws)
        return torch.where(kept, tokens, draws.choose_again(target)), kept


class GoesOn(Speculative):
    """Repairs a token and keeps what was drafted after it."""

    def judge(
        self, target: torch.Tensor, draft: torch.Tensor, tokens: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, kept = super().judge(target, draft, tokens, draws)
        return tokens, torch.ones_like(kept)


class DependentCoin(Speculative):
    """The coin is made of the noise that chose the draft."""

    def judge(
        self, target: torch.Tensor, draft: torch.Tensor, tokens: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        drawn: Any = draws._noise
        noise = drawn.gather(1, tokens[:, None])[:, 0] if len(tokens) else draft.new_empty(0)
        draws.coins = lambda: (-(-noise).exp()).exp()  # type: ignore[method-assign]
        return super().judge(target, draft, tokens, draws)


@pytest.mark.parametrize("rule", [AcceptsAll, SubtractsNothing, GoesOn, DependentCoin])
def test_wrong_rules_have_another_law(rule: type[Rule]) -> None:
    result = sample_masked(
        Model(), OneByOne(), LENGTH, NUM_SAMPLES, mask_id=MASK, rule=rule(), window=4, seed=1
    )
    assert g_test(words(result), JOINT) < 1e-9


# --- identity -----------------------------------------------------------------------------------------------

WINDOWS: list[int | Adaptive] = [1, 2, 4, Adaptive(6)]
SCHEDULES: dict[str, Schedule] = {
    "linear": diffusion.linear_unmasking(5),
    "cosine": diffusion.cosine_unmasking(7),
    "one by one": OneByOne(),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_match_gives_the_tokens_of_plain_sampling(schedule: Schedule) -> None:
    partial = torch.full((11, LENGTH), MASK)
    partial[3, 2], partial[5] = 1, torch.tensor([0, 1, 2, 0])
    options: dict[str, Any] = {"mask_id": MASK, "seed": 9, "temperature": 0.7, "partial": partial}
    plain = sample_masked(Model(heat=True), schedule, LENGTH, 11, **options)
    assert not (plain.samples == MASK).any() and plain.samples[5].tolist() == [0, 1, 2, 0]
    for window, batch in itertools.product(WINDOWS, [None, 1, 3]):
        fast = sample_masked(
            Model(heat=True), schedule, LENGTH, 11, rule=Match(), window=window, batch=batch, **options
        )
        assert torch.equal(fast.samples, plain.samples)
        assert torch.equal(fast.stats.plain_calls, plain.stats.sequential_calls)
    other = sample_masked(Model(heat=True), schedule, LENGTH, 11, **{**options, "seed": 10})
    assert not torch.equal(other.samples, plain.samples)


@pytest.mark.parametrize("rule", [Match(), Speculative()], ids=["match", "speculative"])
def test_neither_samples_nor_costs_depend_on_the_batch(rule: Rule) -> None:
    """Rows that are easier or harder to draft, with windows that follow them."""

    def model(tokens: torch.Tensor, times: torch.Tensor, sharpness: torch.Tensor) -> torch.Tensor:
        shift = (tokens * (tokens != MASK)).sum(1, keepdim=True)
        likely = torch.nn.functional.one_hot((torch.arange(12) + shift) % SYMBOLS, SYMBOLS)
        return sharpness[:, None, None] * likely

    runs = [
        sample_masked(
            model, OneByOne(), 12, 20, mask_id=MASK, rule=rule, window=Adaptive(6), batch=batch,
            conditions=torch.arange(20) % 5 / 1.5,
        )
        for batch in (None, 1, 6)
    ]  # fmt: skip
    assert all(torch.equal(run.samples, runs[0].samples) for run in runs)
    assert all(torch.equal(run.stats.sequential_calls, runs[0].stats.sequential_calls) for run in runs)
    assert all(torch.equal(run.stats.evaluations, runs[0].stats.evaluations) for run in runs)
    assert len(runs[0].stats.sequential_calls.unique()) > 3


@pytest.mark.parametrize("rule", [Match(), Speculative()], ids=["match", "speculative"])
def test_temperature_zero_takes_the_likeliest(rule: Rule) -> None:
    result = sample_masked(
        Model(), OneByOne(), LENGTH, 50, mask_id=MASK, rule=rule, window=3, temperature=0.0
    )
    plain = Model()
    sample_masked(plain, OneByOne(), LENGTH, 50, mask_id=MASK, temperature=0.0, conditions=torch.arange(50))
    for number, order in enumerate(orders(plain, result.samples)):
        state = [MASK] * LENGTH
        for positions in order:
            laws = TABLE[tuple(state)]
            for position in positions:
                state[position] = int(laws[position].argmax())
        assert state == result.samples[number].tolist()


def test_the_masks_own_logit_is_not_used() -> None:
    model = Model()
    expected = sample_masked(model, SCHEDULES["linear"], LENGTH, 40, mask_id=MASK, rule=Speculative())
    for logit in (60.0, math.nan, -math.inf):
        own = sample_masked(
            lambda *args, logit=logit: torch.nn.functional.pad(model(*args), (0, 1), value=logit),
            SCHEDULES["linear"], LENGTH, 40, mask_id=MASK, rule=Speculative(),
        )  # fmt: skip
        assert torch.equal(own.samples, expected.samples)


def test_conditions_go_with_their_samples() -> None:
    wanted = torch.randint(0, 6, (9, 5), generator=torch.Generator().manual_seed(0))

    def model(tokens: torch.Tensor, times: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        return 50.0 * torch.nn.functional.one_hot(conditions, 6).float()

    result = sample_masked(
        model, SCHEDULES["cosine"], 5, 9, mask_id=6, rule=Match(), window=2, batch=4, conditions=wanted
    )
    assert torch.equal(result.samples, wanted)


# --- costs --------------------------------------------------------------------------------------------------


def orders(model: Model, samples: torch.Tensor) -> list[list[list[int]]]:
    """Of each sample: the positions that each call of a plain run was made for, from the states it saw."""
    states = defaultdict(list)
    for tokens, _, numbers in model.calls:
        for state, number in zip(tokens, numbers, strict=True):
            states[number].append(state)
    return [
        [
            [i for i in range(LENGTH) if before[i] == MASK != after[i]]
            for before, after in itertools.pairwise([*states[number], sample])
        ]
        for number, sample in enumerate(samples.tolist())
    ]


@pytest.mark.parametrize("window", [2, 4])
def test_costs_are_those_of_a_replay(window: Any) -> None:
    """One sample after another, from the tokens of plain sampling: what is drafted when, and what is kept."""
    num, seed = 30, 4
    options: dict[str, Any] = {"mask_id": MASK, "seed": seed, "conditions": torch.arange(num)}
    model = Model(heat=True)
    plain = sample_masked(model, SCHEDULES["linear"], LENGTH, num, **options)
    assert len(model.calls[0][0]) == num  # all at once
    times = {(n, tuple(s)): t for c in model.calls for s, t, n in zip(*c, strict=True)}
    tested, accepted = [0] * window, [0] * window
    sequential, evaluations = [], []
    for number, order in enumerate(orders(model, plain.samples)):
        assert all(order)  # every call of plain sampling unmasks something
        final = plain.samples[number].tolist()
        known = [set(itertools.chain(*order[:step])) for step in range(len(order))]
        states = [tuple(final[i] if i in some else MASK for i in range(LENGTH)) for some in known]

        def chosen(step: int, position: int, number: int = number, states: list = states) -> int:
            time = times[number, states[step]]
            noise = Noise(seed).gumbel(torch.tensor([number]), torch.tensor([position]), SYMBOLS)[0].numpy()
            return int((np.log(TABLE[states[step]][position]) * (0.5 + time) + noise).argmax())

        assert all(chosen(step, i) == final[i] for step, places in enumerate(order) for i in places)
        held, done, calls, states_seen = 0, 1, 1, 1
        while done < len(order):
            length = min(window, len(order) - done)
            for place in range(length):
                good = all(chosen(held, i) == final[i] for i in order[done + place])
                tested[place] += 1
                accepted[place] += good
                if not good:
                    break
            held, done, calls, states_seen = done + place, done + place + 1, calls + 1, states_seen + length
        sequential.append(calls)
        evaluations.append(states_seen)

    model, told = Model(heat=True), []
    stats = sample_masked(
        model, SCHEDULES["linear"], LENGTH, num, rule=Match(), window=window, batch=7,
        on_progress=lambda *now: told.append(now), **options,
    ).stats  # fmt: skip
    assert stats.sequential_calls.tolist() == sequential
    assert stats.verification_calls.tolist() == [calls - 1 for calls in sequential]
    assert stats.evaluations.tolist() == evaluations
    assert stats.tested.tolist() == tested and stats.accepted.tolist() == accepted
    assert stats.num_calls == len(model.calls) == len(told)
    assert sum(len(tokens) for tokens, *_ in model.calls) == sum(evaluations)
    assert [sum(n in numbers for *_, numbers in model.calls) for n in range(num)] == sequential
    assert told[-1] == (int(stats.plain_calls.sum()),) * 2
    assert (
        stats.num_steps == 5 and stats.plain_calls.max() <= 4
    )  # of five steps four at most unmask something
    assert stats.speedup_calls == sum(stats.plain_calls.tolist()) / sum(sequential) > 1.1


@pytest.mark.parametrize("rule", [Match(), Speculative()], ids=["match", "speculative"])
def test_independent_positions_are_drafted_perfectly(rule: Rule) -> None:
    model = Model(conditionals(product_law()), dtype=torch.float32)
    stats = sample_masked(
        model, diffusion.linear_unmasking(9), LENGTH, 60, mask_id=MASK, rule=rule, window=2
    ).stats
    assert stats.sequential_calls.tolist() == [1 + math.ceil((n - 1) / 2) for n in stats.plain_calls.tolist()]
    assert torch.equal(stats.evaluations, stats.plain_calls)


def test_speculative_keeps_the_overlap_of_the_laws() -> None:
    """With windows of 1 every step is judged: kept is sum of min(p, q) on average, over the plain paths."""
    shares = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]).double()

    def model(tokens: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return shares[(tokens != 3).sum(1)][:, None].log().expand(-1, 2, -1)

    num = 20000
    stats = sample_masked(model, OneByOne(), 2, num, mask_id=3, rule=Speculative(), window=1).stats
    overlap = float(torch.minimum(*shares).sum())
    assert stats.tested.tolist() == [num]
    assert abs(float(stats.acceptance[0]) - overlap) < 4 * math.sqrt(overlap * (1 - overlap) / num)


# --- noise and bad input ------------------------------------------------------------------------------------


def test_gumbel_noise_has_its_law_and_keys() -> None:
    samples, places = torch.arange(200), torch.arange(200) % 7
    noise = Noise(3).gumbel(samples, places, 100)
    uniform = (-(-noise).exp()).exp().flatten().sort().values
    steps = torch.arange(len(uniform) + 1) / len(uniform)
    distance = torch.maximum((uniform - steps[:-1]).abs(), (uniform - steps[1:]).abs()).max()
    assert distance < 2.2 / math.sqrt(len(uniform))  # Kolmogorov-Smirnov, false alarm rate 1e-4
    assert noise.unique().numel() == noise.numel()
    assert torch.equal(noise[[5]], Noise(3).gumbel(samples[[5]], places[[5]], 100))
    draws = Draws(3, samples, places)
    flat = torch.zeros(200, 1000)
    assert (draws.choose(flat) == draws.choose_again(flat)).sum() < 5


@pytest.mark.parametrize("hashed", [0, 2**64 - 1])
def test_uniform_numbers_stay_off_both_ends(hashed: int) -> None:
    """Back through the hash, to the counters with the smallest and the largest number."""
    mask = 2**64 - 1
    value = hashed
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        value ^= value >> shift ^ value >> 2 * shift
        value = value * pow(factor, -1, 2**64) & mask
    counter = (value - 0x9E3779B97F4A7C15) & mask
    number = float(_uniform(torch.tensor([counter - 2**64 if counter >> 63 else counter])))
    assert 0 < number < 1 and min(number, 1 - number) < 1e-15


def broken(value: float, *, position: int = 2) -> Callable[..., torch.Tensor]:
    """A model that fails once the first step is done."""
    good = Model(dtype=torch.float32)

    def model(tokens: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        logits = good(tokens, times).clone()
        logits[(tokens != MASK).any(1), position] = value
        return logits

    return model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num is 0, accepted"),
        ({"length": 0}, "length is 0, accepted"),
        ({"batch": 0}, "batch is 0, accepted"),
        ({"window": 0}, "window is 0, accepted"),
        ({"temperature": -1.0}, "temperature is -1.0, accepted"),
        ({"temperature": math.nan}, "temperature is nan, accepted"),
        ({"mask_id": -1}, "mask_id is -1, accepted"),
        ({"mask_id": 4, "model": lambda *_: torch.zeros(2, 4, 3)}, "mask_id is 4 in a vocabulary of 3"),
        ({"mask_id": 0, "model": lambda *_: torch.zeros(2, 4, 1)}, "mask_id is 0 in a vocabulary of 1"),
        ({"conditions": torch.zeros(3)}, "3 conditions for 2 samples"),
        (
            {"partial": torch.zeros(2, 4)},
            r"partial is torch.float32 \(2, 4\), accepted is torch.int64 \(2, 4\)",
        ),
        ({"partial": torch.full((2, 3), MASK)}, r"\(2, 3\), accepted is torch.int64 \(2, 4\)"),
        (
            {"model": lambda *_: torch.zeros(2, 3, 3)},
            r"step 0: .* \(2, 3, 3\), accepted is \(2, 4, vocabulary\)",
        ),
        ({"model": lambda *_: [0.0]}, r"step 0: .* list, accepted is \(2, 4, vocabulary\)"),
        ({"model": broken(math.nan)}, r"step [1-3] of 4 \(time 0.\d+\): .* position 2 is nan"),
        ({"model": broken(math.inf)}, r"step [1-3] of 4 .* position 2 is inf"),
        ({"model": broken(-math.inf)}, r"step [1-3] of 4 .* position 2 is -inf"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    given = {"model": Model(), "schedule": OneByOne(), "length": LENGTH, "num": 2, "rule": Speculative()}
    options = {**given, "mask_id": MASK, "seed": 2, **options}
    with pytest.raises(OutpaceError, match=message):
        sample_masked(**options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Unmasking([0.0]),
        lambda: Unmasking([0.1, 1.0]),
        lambda: Unmasking([0.0, 0.9]),
        lambda: Unmasking([0.0, 0.6, 0.5, 1.0]),
        lambda: Unmasking([0.0, math.nan, 1.0]),
        lambda: Unmasking([0.0, 1.0], times=[1.0, 0.0]),
        lambda: Unmasking([0.0, 1.0], times=[math.inf]),
        lambda: diffusion.linear_unmasking(0),
        lambda: diffusion.cosine_unmasking(0),
    ],
)
def test_bad_schedules_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(OutpaceError, match="accepted"):
        make()


def test_schedules_unmask_their_shares() -> None:
    uniform, masked = torch.tensor([[0.01, 0.49, 0.51, 0.99]]).double(), torch.ones(1, 4, dtype=torch.bool)
    assert diffusion.linear_unmasking(4).moments(uniform, masked).tolist() == [[0, 1, 2, 3]]
    # 1 - cos(pi/2 n/4) is 0, 0.076, 0.293, 0.617, 1
    assert diffusion.cosine_unmasking(4).moments(uniform, masked).tolist() == [[0, 2, 2, 3]]
    assert diffusion.linear_unmasking(4).times(9).tolist() == [1, 0.75, 0.5, 0.25]
    masked[0, 1] = False
    assert OneByOne().moments(uniform, masked)[masked].tolist() == [1, 2, 3]
