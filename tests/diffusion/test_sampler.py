"""The sampler: samples that depend on their seed alone, drafts that change the cost as counted, refusals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from outpace import diffusion
from outpace.core.errors import OutpaceError
from outpace.diffusion import (
    Adaptive,
    Carried,
    Fixed,
    Frozen,
    GaussianMixture,
    Increment,
    Independent,
    Output,
    Picard,
    Prediction,
    Stale,
    chain,
    sample,
)
from outpace.diffusion.coupling import couple
from outpace.diffusion.noise import PRIOR, Noise, Tape
from outpace.diffusion.stats import Stats
from tests.diffusion.rational import LEVELS, NUM, PROCESS, SHAPE, STEPS, Rational, run

NUMBERS = torch.arange(NUM)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


DRAFTS = {
    "frozen": Frozen(),
    "frozen increment": Frozen(Increment()),
    "stale": Stale(),
    "stale output": Stale(Output()),
    "carried": Carried(),
    "independent": Independent(Rational(3.0)),
    "picard frozen": Picard(Frozen()),
    "picard carried": Picard(Carried(), sweeps=2),
}
WINDOWS = {"1": 1, "4": 4, "adaptive": Adaptive(6)}


def by_hand(dtype: torch.dtype) -> torch.Tensor:
    """One step after another, all samples together."""
    noise, model = Noise(3), Rational()

    def drawn(step: int) -> torch.Tensor:
        return noise.normal(NUMBERS, torch.full((NUM,), step), SHAPE, dtype=dtype)

    states = PROCESS.prior(drawn(PRIOR))
    for step in range(STEPS):
        steps = torch.full((NUM,), step)
        clean = model(states, torch.full((NUM,), LEVELS.times[step], dtype=torch.float64).to(dtype))
        states = PROCESS.step(states, clean, steps) + PROCESS.sigmas[step].to(dtype) * drawn(step)
    return states


# --- samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_plain_sampling_is_the_chain_itself(dtype: torch.dtype) -> None:
    plain = run(None, 9, dtype=dtype)
    assert plain.samples.dtype == dtype and torch.equal(plain.samples, by_hand(dtype))
    assert not torch.equal(plain.samples, run(None, 9, dtype=dtype, seed=4).samples)
    for draft in (Frozen(Prediction()), Frozen(Output())):
        one = run(draft, 1, dtype=dtype)
        assert torch.equal(one.samples, plain.samples), "at its own state, a draft's mean is the model's"
        assert torch.equal(one.stats.sequential_calls, plain.stats.sequential_calls)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("draft", DRAFTS)
def test_batches_and_refills_change_no_bit_and_no_cost(draft: str, window: str) -> None:
    """A sample's own costs too: nobody waits for the others, and lengths do not depend on them."""
    whole = run(DRAFTS[draft], WINDOWS[window])
    for batch in (1, 2, 5):
        parts = run(DRAFTS[draft], WINDOWS[window], batch=batch)
        assert torch.equal(parts.samples, whole.samples)
        for name in ("sequential_calls", "verification_calls", "evaluations", "tested", "accepted"):
            assert torch.equal(getattr(parts.stats, name), getattr(whole.stats, name)), name
    fewer = run(DRAFTS[draft], WINDOWS[window], num=4)
    assert torch.equal(fewer.samples, whole.samples[:4])


@pytest.mark.parametrize("draft", [None, Stale(), Picard(Carried())], ids=["plain", "stale", "picard"])
def test_noise_is_the_same_drawn_ahead_or_step_by_step(draft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    normal, ahead = Tape.normal, []

    def recorded(tape: Tape, steps: torch.Tensor) -> Any:
        ahead.append(tape.ahead is not None)
        return normal(tape, steps)

    monkeypatch.setattr(Tape, "normal", recorded)
    before = run(draft, 4, batch=5).samples
    assert any(ahead)
    for module in ("plain", "sampler"):
        monkeypatch.setattr(f"outpace.diffusion.{module}.MOST_AHEAD", 0)
    ahead.clear()
    assert torch.equal(run(draft, 4, batch=5).samples, before) and not any(ahead)


@pytest.mark.parametrize("window", [2, 3, 7, STEPS, 50])
def test_exact_drafts_give_plain_sampling_in_fewer_calls(window: Any) -> None:
    plain = run(None, 1)
    exact = run(Independent(Rational()), window)
    assert torch.equal(exact.samples, plain.samples)
    calls = math.ceil(STEPS / window)
    assert exact.stats.sequential_calls.tolist() == [calls] * NUM == exact.stats.verification_calls.tolist()
    assert exact.stats.evaluations.tolist() == [STEPS] * NUM and exact.stats.num_calls == calls
    assert torch.equal(exact.stats.accepted, exact.stats.tested) and exact.stats.tested.sum() == NUM * (
        STEPS - 1
    )
    assert exact.stats.speedup_calls == STEPS / calls and exact.stats.evaluations_per_step == 1


@pytest.mark.parametrize("window", [4, Adaptive()], ids=["4", "adaptive"])
def test_exact_drafts_of_a_mixture_too_up_to_rounding(window: Any) -> None:
    """Its softmax rounds otherwise in calls of other sizes, so that means differ in their last bits."""
    mixture = GaussianMixture.random(5, 4)
    model, process = mixture.denoiser(LEVELS), chain(LEVELS)
    plain = sample(model, process, (5,), 20, seed=8, dtype=torch.float64)
    exact = sample(
        model, process, (5,), 20, draft=Independent(model), window=window, seed=8, dtype=torch.float64
    )
    torch.testing.assert_close(exact.samples, plain.samples, rtol=1e-9, atol=1e-9)
    assert torch.equal(exact.stats.accepted, exact.stats.tested)


def conditioned(inputs: torch.Tensor, times: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
    """Its last prediction, which is the sample, is the condition."""
    target = conditions[:, None, :].expand(inputs.shape)
    last = (times <= LEVELS.times[-1] + 1e-6)[:, None, None]
    return torch.where(last, target, target + Rational()(inputs, times))


WANTED = torch.randn(NUM, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("draft", [name for name in DRAFTS if name != "independent"])
def test_conditions_reach_the_right_rows(draft: str) -> None:
    result = run(DRAFTS[draft], 5, model=conditioned, conditions=WANTED, batch=3)
    assert torch.equal(result.samples, WANTED[:, None].expand(NUM, *SHAPE))
    assert result.stats.accepted.sum() < result.stats.tested.sum()


def test_conditions_reach_the_right_rows_of_a_draft_model() -> None:
    """Told of other samples than the model, it could not agree with it."""
    result = run(Independent(conditioned), 5, model=conditioned, conditions=WANTED, batch=3)
    assert torch.equal(result.samples, WANTED[:, None].expand(NUM, *SHAPE))
    assert torch.equal(result.stats.accepted, result.stats.tested)


def test_every_step_is_judged_by_its_own_noise_and_coin(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by the same ones when it is drafted anew, after those before it were repaired."""
    judged: list[tuple[torch.Tensor, torch.Tensor]] = []

    def recorded(
        noise: torch.Tensor,
        draft_mean: torch.Tensor,
        target_mean: torch.Tensor,
        sigma: torch.Tensor,
        uniform: torch.Tensor,
    ) -> Any:
        judged.append((noise, uniform))
        return couple(noise, draft_mean, target_mean, sigma, uniform)

    monkeypatch.setattr("outpace.diffusion.sampler.couple", recorded)
    source, ends = Noise(3), []
    result = run(Stale(), 4, num=1, on_progress=lambda count, _: ends.append(count))
    assert len(judged) == len(ends) and result.stats.accepted.sum() < result.stats.tested.sum()
    for begin, (noise, uniform) in zip([0, *ends], judged, strict=False):
        steps = torch.arange(begin, begin + len(uniform))
        assert torch.equal(noise, source.normal(steps * 0, steps, SHAPE, dtype=torch.float32))
        assert torch.equal(uniform, source.uniform(steps * 0, steps))


def test_other_models_dtypes_and_half_precision() -> None:
    """Outputs come in the states' precision; times keep theirs, for in half of it steps would coincide."""
    told = []

    def model(inputs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        told.append(times)
        assert inputs.dtype == torch.bfloat16 and times.dtype == torch.float32
        return Rational()(inputs.double(), times)

    result = run(Independent(model), 4, model=model, conditions=None, dtype=torch.bfloat16)
    assert result.samples.dtype == torch.bfloat16 and result.samples.isfinite().all()
    times = torch.cat(told).unique().flip(0)
    torch.testing.assert_close(times, torch.tensor(LEVELS.times))

    def single(inputs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        assert inputs.dtype == times.dtype == torch.float32
        return Rational()(inputs, times).double()

    assert torch.equal(
        run(Independent(single), 4, model=single, conditions=None).samples, run(None, 1).samples
    )


# --- costs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("draft", DRAFTS)
def test_costs_are_what_the_model_has_seen(draft: str, window: str) -> None:
    model = Rational()
    told: list[tuple[int, int]] = []
    stats = run(
        DRAFTS[draft], WINDOWS[window], model=model, batch=4, on_progress=lambda *counts: told.append(counts)
    ).stats
    assert stats.num_calls == len(model.calls)
    waited = Counter(number for numbers, _ in model.calls for number in set(numbers))
    evaluated = Counter(number for numbers, _ in model.calls for number in numbers)
    assert stats.sequential_calls.tolist() == [waited[number] for number in range(NUM)]
    assert stats.evaluations.tolist() == [evaluated[number] for number in range(NUM)]
    assert stats.plain_calls.tolist() == [STEPS] * NUM
    assert stats.tested.sum() == NUM * (STEPS - 1), "each step once, but for the last one, which has no noise"
    assert (stats.tested[1:] <= stats.accepted[:-1]).all() and (stats.accepted <= stats.tested).all()
    assert [total for _, total in told] == [NUM * STEPS] * len(told)
    done = [count for count, _ in told]
    assert done == sorted(set(done)) and done[-1] == NUM * STEPS
    for numbers, times in model.calls:
        for number in set(numbers):
            steps = [
                LEVELS.times.index(pytest.approx(time))
                for n, time in zip(numbers, times, strict=True)
                if n == number
            ]
            assert steps == list(range(steps[0], steps[0] + len(steps))), "a window of consecutive steps"


@pytest.mark.parametrize(
    ("draft", "calls", "states", "first_calls"),
    [
        (Frozen(), [1, 2, 2, 2], [1, 2, 3, 4], 0),
        (Stale(), [1, 1, 1, 1], [1, 2, 3, 4], 1),
        (Independent(Rational(3.0)), [1, 1, 1, 1], [1, 2, 3, 4], 0),
        (Picard(Frozen()), [2, 3, 3, 3], [2, 4, 6, 8], 0),
        (Picard(Stale()), [2, 2, 2, 2], [2, 4, 6, 8], 1),
    ],
    ids=["frozen", "stale", "independent", "picard frozen", "picard stale"],
)
def test_costs_of_a_round_add_up(draft: Any, calls: list[int], states: list[int], first_calls: int) -> None:
    """Rounds are found from the samples' steps: each begins where the last one's committed steps end."""
    # A window of one step needs no call but the one at its root, if the draft has made it.
    rooted = calls[0] < calls[1]
    committed = set()
    for seed in range(8):
        ends: list[int] = []
        stats = run(draft, 4, num=1, seed=seed, on_progress=lambda done, _: ends.append(done)).stats  # noqa: B023
        lengths = [min(4, STEPS - begin) for begin in [0, *ends[:-1]]]
        committed.add(tuple(ends))
        expected = first_calls + sum(calls[length - 1] for length in lengths)
        assert stats.sequential_calls.tolist() == [expected] and stats.num_calls == expected
        assert stats.verification_calls.tolist() == [sum(length > 1 or not rooted for length in lengths)]
        assert stats.evaluations.tolist() == [sum(states[length - 1] for length in lengths)]
        assert stats.speedup_calls == STEPS / expected
    assert committed - {(4, 8, 12, 13)}, "not all windows are kept"


def test_carried_evaluates_one_state_ahead_and_begins_there() -> None:
    exact = diffusion.Drift([0.1 * step for step in range(9)], lambda t: 1.0)
    stats = sample(lambda x, t: x * 0 + 1, exact, (2,), draft=Carried(), window=3, seed=0).stats
    # Root, then steps 1 to 3, then 4 to 6, then 7: the chain ends, and there is no state ahead.
    assert stats.sequential_calls.tolist() == [4] and stats.evaluations.tolist() == [8]
    assert stats.verification_calls.tolist() == [3] and torch.equal(stats.accepted, stats.tested)


def test_nobody_waits_for_the_slowest() -> None:
    draft = Independent(Rational(3.0))
    stats = run(draft, 4, num=40, batch=4).stats
    paces = stats.sequential_calls.tolist()
    assert len(set(paces)) > 2
    assert stats.num_calls < sum(max(paces[i : i + 4]) for i in range(0, 40, 4)), "four in step would need"
    assert stats.num_calls >= sum(paces) / 4
    assert run(draft, 4, num=40).stats.num_calls == max(paces)


@pytest.mark.parametrize("sweeps", [1, 2, 3])
@pytest.mark.parametrize(
    "first", [Frozen(), Stale(), Carried(), Independent(Rational(1.0))], ids=lambda d: type(d).__name__
)
def test_as_many_steps_as_sweeps_are_always_accepted(first: Any, sweeps: int) -> None:
    stats = run(Picard(first, sweeps=sweeps), 6, num=60).stats
    assert torch.equal(stats.accepted[:sweeps], stats.tested[:sweeps])
    # From a first step that is exact, as Frozen's, one more is.
    assert stats.accepted[: sweeps + 2].sum() < stats.tested[: sweeps + 2].sum(), "and few more than that"


def test_stats_of_nothing_and_of_shares() -> None:
    stats = Stats.zero(6, 2, 3)
    assert stats.acceptance.isnan().all() and stats.speedup_calls == 12
    stats.sequential_calls += torch.tensor([2, 4])
    stats.evaluations += torch.tensor([9, 9])
    stats.tested += torch.tensor([4, 2, 0])
    stats.accepted += torch.tensor([3, 1, 0])
    assert (stats.speedup_calls, stats.evaluations_per_step) == (2.0, 1.5)
    assert stats.acceptance[:2].tolist() == [0.75, 0.5] and stats.acceptance[2].isnan()


def test_names_and_numbers_of_numpy_are_as_good() -> None:
    plain = run(Stale(), 4)
    named = run("stale", np.int64(4), seed=np.int64(9))
    assert torch.equal(run(Stale(), 4, seed=9).samples, named.samples)
    assert torch.equal(run(Stale(), "4").samples, plain.samples)
    assert torch.equal(run("none", 4).samples, run(None, 1).samples)
    assert torch.equal(run("stale", "adaptive:most=5").samples, run(Stale(), Adaptive(5)).samples)


# --- bad input ----------------------------------------------------------------------------------------------


def broken(step: int, make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A model whose output is spoilt at one step."""

    def model(inputs: torch.Tensor, times: torch.Tensor, *_: object) -> torch.Tensor:
        outputs = Rational()(inputs, times)
        return make(outputs, (times - LEVELS.times[step]).abs() < 1e-6)

    return model


def not_a_number(outputs: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return outputs.masked_fill(chosen[:, None, None], math.nan)


def infinite_once(outputs: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    outputs[chosen.nonzero()[:1, 0], 0, 0] = math.inf
    return outputs


def narrow(outputs: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return outputs[:, :2] if chosen.any() else outputs


FINE = Rational()
BAD = [
    (lambda: run(None, 1, num=0), "num is 0, accepted are whole numbers from 1 to"),
    (lambda: run(None, 1, batch=0), "batch is 0, accepted are whole numbers from 1 to"),
    (lambda: run(None, 1, conditions=torch.zeros(10)), "10 conditions for 11 samples; one for each is acc"),
    (lambda: run(Stale(), 0), "window is 0, accepted are whole numbers from 1 to 65536"),
    (lambda: run(Stale(), 2.5), r"window is 2\.5, accepted are whole numbers >= 1, adaptive, fixed"),
    (lambda: run("staler", 2), "unknown draft 'staler', accepted are carried, frozen"),
    (lambda: run(None, 1, dtype=torch.int64), "dtype is torch.int64, accepted are floating ones"),
    (lambda: Fixed(-3), "window is -3, accepted are whole numbers from 1 to 65536"),
    (lambda: Adaptive(0), "most is 0, accepted are whole numbers from 1 to 65536"),
    (lambda: Adaptive(price=-0.1), "price is -0.1, accepted are finite numbers >= 0"),
    (lambda: Adaptive(price=math.inf), "price is inf, accepted are finite numbers >= 0"),
    (lambda: Picard(sweeps=0), "sweeps is 0, accepted are whole numbers from 1 to"),
    (lambda: sample(FINE, PROCESS, (), 3), r"shape is \(\), accepted are one or more whole numbers >= 1"),
    (lambda: sample(FINE, PROCESS, (3, 0), 3), r"shape is \(3, 0\), accepted are one or more whole n"),
    (
        lambda: run(None, 1, model=broken(5, not_a_number)),
        r"step 5 of 13 \(time 0.604167\): the model's output is not finite",
    ),
    (
        lambda: run(Stale(), 4, model=broken(12, infinite_once)),
        r"step 12 of 13 \(time 0.05\): the model's output is not finite",
    ),
    (
        lambda: run(Stale(), 4, model=broken(0, narrow)),
        r"step 0: the model's output is \(11, 2, 2\), accepted is \(11, 3, 2\), its input's shape",
    ),
    (
        lambda: run(None, 1, model=lambda inputs, times, numbers: (inputs,)),
        r"step 0: the model's output is tuple, accepted is \(11, 3, 2\), its input's shape",
    ),
    (
        lambda: run(Independent(broken(12, not_a_number)), 4),
        r"step 12 of 13 \(time 0.05\): the draft model's output is not finite",
    ),
    (
        lambda: run(Independent(broken(0, narrow)), 4),
        r"step 0: the draft model's output is \(11, 2, 2\), accepted is \(11, 3, 2\), its input's shape",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_bad_input(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OutpaceError, match=f"^{message}") as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("step", [0, 1, 6, 12])
def test_a_model_that_fails_is_found_with_every_draft(draft: str, step: int) -> None:
    with pytest.raises(
        OutpaceError, match=rf"^step {step} of 13 \(time .*\): the model's output is not finite"
    ):
        run(DRAFTS[draft], 4, model=broken(step, not_a_number))
