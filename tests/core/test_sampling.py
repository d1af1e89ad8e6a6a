"""The sampler against slow definitions: noise in integers, filters by brute force; the law by G-tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.errors import OutpaceError
from outpace.core.sampling import NO_CHOICE, Sampling, choose, gumbel, survivors, warp
from tests.laws import FALSE_ALARM_RATE, g_test
from tests.strategies import extreme_logits, extreme_samplings, logits, samplings

M32, M64 = 2**32 - 1, 2**64 - 1


def slow_uniform(seed: int, position: int, token: int) -> float:
    """The noise's uniform number, in integers up to its rounding to 24 bits."""

    def splitmix64(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) & M64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
        return z ^ (z >> 31)

    def mix32(x: int) -> int:
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & M32
        x = ((x ^ (x >> 15)) * 0x846CA68B) & M32
        return x ^ (x >> 16)

    key = splitmix64(splitmix64(seed) ^ (position & M64))
    h = mix32((mix32(token ^ (key & M32)) + (key >> 32)) & M32)
    return min((h + 0.5) * 2.0**-32, 1 - 2.0**-24)


@given(st.integers(0, M64), st.integers(0, 2**31), st.lists(st.integers(0, 300_000), min_size=1, max_size=20))
def test_noise_is_the_hash_of_seed_position_and_token(seed: int, position: int, tokens: list[int]) -> None:
    noise = gumbel(seed, position, tokens)
    for token, value in zip(tokens, noise, strict=True):
        # Single precision rounds a uniform number to one part in 2^24; one in 2^23 leaves room.
        v = slow_uniform(seed, position, token)
        low, high = (max(v * (1 + d), 2.0**-60) for d in (-(2.0**-23), 2.0**-23))
        assert -math.log(-math.log1p(-min(high, 1 - 2.0**-24))) - 1e-12 <= value
        assert value <= -math.log(-math.log1p(-low)) + 1e-12


def test_splitmix64_is_the_published_one() -> None:
    """The first output for state 0 of the published code (Steele, Lea & Flood 2014; splitmix64.c)."""
    from outpace.core.sampling import _splitmix64

    assert _splitmix64(0) == 0xE220A8397B1DCDAF


def test_noise_has_a_gumbel_law() -> None:
    """Mean and variance of 400,000 values within five standard errors."""
    values = np.concatenate([gumbel(7, position, np.arange(2000)) for position in range(200)])
    count = len(values)
    assert abs(values.mean() - np.euler_gamma) < 5 * math.sqrt(math.pi**2 / 6 / count)
    # The fourth central moment of a Gumbel variable is 27/5 of its squared variance.
    assert abs(values.var() - math.pi**2 / 6) < 5 * math.sqrt(4.4 / count) * math.pi**2 / 6


def slow_survivors(row: np.ndarray, sampling: Sampling) -> list[int]:
    """The filters as their definitions read, one token at a time."""
    tokens = [token for token, value in enumerate(row.tolist()) if value > -math.inf]
    top = max(row[tokens].tolist())
    weight = {token: math.exp((float(row[token]) - top) / sampling.temperature) for token in tokens}
    ranked = sorted(tokens, key=lambda token: (-float(row[token]), token))
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    total = math.fsum(weight[token] for token in ranked)
    ranked = [
        token
        for rank, token in enumerate(ranked)
        if sampling.top_p == 1 or math.fsum(weight[t] for t in ranked[:rank]) < sampling.top_p * total
    ]
    return sorted(token for token in ranked if weight[token] >= sampling.min_p * weight[ranked[0]])


@given(logits(9), samplings(greedy=False))
def test_filters_are_their_definitions(row: np.ndarray, sampling: Sampling) -> None:
    assert survivors(row, sampling).tolist() == slow_survivors(row, sampling)


@given(logits(9), samplings(greedy=False), st.integers(0, 1000))
def test_choice_is_the_argmax_of_noisy_logits(row: np.ndarray, sampling: Sampling, position: int) -> None:
    kept = slow_survivors(row, sampling)
    noise = gumbel(sampling.seed, position, kept)
    scores = [float(row[token]) / sampling.temperature + g for token, g in zip(kept, noise, strict=True)]
    [choice] = choose(row[None], sampling, [position])
    assert scores[kept.index(choice)] == pytest.approx(max(scores), abs=1e-9)
    assert type(choice) is int


@given(logits(9), samplings())
def test_greedy_is_the_lowest_argmax_and_needs_no_noise(row: np.ndarray, sampling: Sampling) -> None:
    greedy = Sampling(top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p, seed=sampling.seed)
    best = row.tolist().index(row.max())
    assert choose(row[None], greedy, [3]) == [best]
    assert warp(row, greedy).tolist() == [float(token == best) for token in range(9)]


@given(logits(9), samplings(greedy=False))
def test_warp_is_a_law_on_the_survivors(row: np.ndarray, sampling: Sampling) -> None:
    law, kept = warp(row, sampling), survivors(row, sampling)
    assert math.isclose(law.sum(), 1) and (law >= 0).all()
    assert not np.delete(law, kept).any()
    ratios = np.exp((row[kept].astype(float) - row[kept].max()) / sampling.temperature)
    assert np.allclose(law[kept] / law.max(), ratios)


LAWS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.5),
    Sampling(temperature=1.5, top_k=4),
    Sampling(temperature=1.0, top_p=0.7),
    Sampling(temperature=2.0, min_p=0.3),
]


@pytest.mark.parametrize("sampling", LAWS, ids=str)
def test_law_of_the_choice_over_seeds_and_over_positions(sampling: Sampling) -> None:
    """10 G-tests, each rejecting below 1e-4 / 10."""
    row = np.array([1.0, -0.5, 0.3, 2.0, 0.0, -2.0, 1.0], dtype=np.float32)
    law = dict(enumerate(warp(row, sampling).tolist()))
    over_seeds = [
        choose(
            row[None], Sampling(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, s), [5]
        )[0]
        for s in range(4000)
    ]
    over_positions = choose(np.tile(row, (4000, 1)), sampling, range(4000))
    threshold = FALSE_ALARM_RATE / (2 * len(LAWS))
    assert g_test(over_seeds, law) > threshold
    assert g_test(over_positions, law) > threshold


def test_neighbouring_positions_are_independent() -> None:
    """The joint law of two neighbours is the product: one G-test at 1e-4."""
    row = np.array([0.0, 0.5, 1.0], dtype=np.float32)
    choices = choose(np.tile(row, (8000, 1)), Sampling(temperature=1.0), range(8000))
    p = warp(row, Sampling(temperature=1.0)).tolist()
    law = {(a, b): p[a] * p[b] for a in range(3) for b in range(3)}
    assert g_test(zip(choices[::2], choices[1::2], strict=True), law) > FALSE_ALARM_RATE


def test_extreme_temperatures_do_not_overflow() -> None:
    row = np.array([1e4, -1e4, 9999.0], dtype=np.float32)
    assert choose(row[None], Sampling(temperature=1e-300), [0]) == [0]
    assert warp(row, Sampling(temperature=5e-324)).tolist() == [1, 0, 0]
    assert np.allclose(warp(row, Sampling(temperature=1e300)), 1 / 3)


@pytest.mark.parametrize(
    ("option", "values", "accepted"),
    [
        ("temperature", [-0.1, math.nan, math.inf, "0.7", None, 10**400, 1j], ">= 0"),
        ("top_k", [-1, 1.5, 40.0, 2**31, math.nan, math.inf, "3", None], "from 0 to 2147483647"),
        (
            "top_p",
            [0.0, 1.1, -1.0, math.nan, float("1e-400"), 1 + 1e-9, "0.9", None, [0.9]],
            "0 < top_p <= 1",
        ),
        ("min_p", [-0.1, 1.1, math.nan, -5e-324, "0", None, np.ones(2)], "0 <= min_p <= 1"),
        ("seed", [-1, 2**64, 0.5, 3.0], "from 0 to 18446744073709551615"),
    ],
)
def test_options_out_of_range_name_the_accepted_values(
    option: str, values: list[object], accepted: str
) -> None:
    for value in values:
        with pytest.raises(OutpaceError, match=accepted) as error:
            Sampling(**{option: value})  # type: ignore[arg-type]
        assert option in str(error.value) and "\n" not in str(error.value)


def test_whole_numbers_of_numpy_are_as_good() -> None:
    sampling = Sampling(temperature=0.7, seed=np.int64(3), top_k=np.int32(9))  # type: ignore[arg-type]
    assert sampling == Sampling(temperature=0.7, seed=3, top_k=9)
    assert (type(sampling.seed), type(sampling.top_k)) == (int, int)


@given(extreme_logits(9), extreme_samplings(), st.integers(0, 1000))
def test_whatever_the_options_the_likeliest_token_remains(
    row: np.ndarray, sampling: Sampling, position: int
) -> None:
    kept = survivors(row, sampling).tolist()
    assert row.tolist().index(row.max()) in kept and not np.isneginf(row[kept]).any()
    assert choose(row[None], sampling, [position])[0] in kept
    law = warp(row, sampling)
    assert math.isclose(law.sum(), 1) and set(np.flatnonzero(law)) <= set(kept)


@pytest.mark.parametrize("sampling", [Sampling(), *LAWS], ids=str)
@pytest.mark.parametrize(
    "bad", [[math.nan] * 3, [0.0, math.nan, 1.0], [-math.inf] * 3, [-math.inf, math.nan, 0.0]]
)
def test_where_there_is_no_choice(bad: list[float], sampling: Sampling) -> None:
    row = np.array(bad, dtype=np.float32)
    good = np.array([0.0, -math.inf, 99.0], dtype=np.float32)
    assert choose(np.stack([row, good, row]), sampling, range(3)) == [NO_CHOICE, 2, NO_CHOICE]
    for call in (survivors, warp):
        with pytest.raises(OutpaceError, match="no token to choose") as error:
            call(row, sampling)
        assert "\n" not in str(error.value)


def test_logits_beside_an_enormous_one_keep_their_order() -> None:
    logits = np.array([1.0, 3.0, 1e30, 2.0, 4.0, 0.0, 5.0], np.float32)
    for sampling, kept in (
        (Sampling(temperature=1e30, top_p=0.5), {2, 6, 4}),  # of weights 1 and six times 1/e
        (Sampling(temperature=1e30, top_k=4), {2, 6, 4, 1}),
    ):
        assert set(survivors(logits, sampling).tolist()) == kept
