"""The online estimate against the law that made the verdicts, and against a fit of all of them at once."""

from __future__ import annotations

import numpy as np
import pytest

from outpace.pricing.survival import BELIEF, FARTHEST, LONGEST, MEMORY, Survival, logit

NODES = 12  # of a step
TRUTH = np.array([0.7, -0.8, 0.6, -0.4, 0.3])


class Stream:
    """Steps of nodes whose verdicts follow a logistic law."""

    def __init__(self, truth: np.ndarray, seed: int = 0) -> None:
        self._truth = truth
        self._random = np.random.default_rng(seed)

    def step(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Prior logits, features, the true chances, verdicts."""
        prior = self._random.normal(-2.0, 2.0, NODES)
        features = self._random.normal(size=(NODES, len(self._truth) - 2))
        chance = sigmoid(np.column_stack([prior, np.ones(NODES), features]) @ self._truth)
        return prior, features, chance, self._random.random(NODES) < chance


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def taught(stream: Stream, steps: int, estimate: Survival | None = None) -> Survival:
    estimate = Survival(len(TRUTH) - 2) if estimate is None else estimate
    for _ in range(steps):
        prior, features, _, kept = stream.step()
        estimate.learn(prior, features, kept)
    return estimate


def nats(said: np.ndarray, chance: np.ndarray) -> float:
    """The expected log loss."""
    return float(-(chance * np.log(said) + (1 - chance) * np.log(1 - said)).mean())


def judge(estimate: Survival, truth: np.ndarray) -> tuple[float, float, float]:
    """The log loss of the estimate, of the prior alone, and of the law itself, on steps of their own."""
    stream = Stream(truth, seed=99)
    steps = [stream.step() for _ in range(500)]
    prior, features, chance = (np.concatenate([one[part] for one in steps]) for part in range(3))
    said = estimate.chance(prior, features)
    return nats(said, chance), nats(sigmoid(prior), chance), nats(chance, chance)


def test_before_the_first_verdict_it_is_the_prior() -> None:
    chance = np.array([0.001, 0.2, 0.5, 0.97])
    features = np.random.default_rng(0).normal(size=(4, 3))
    assert Survival(3).chance(logit(chance), features) == pytest.approx(chance)
    assert logit(np.array([0.0, 1.0])).tolist() == [-12.0, 12.0]


def test_it_becomes_the_law_that_made_the_verdicts() -> None:
    few, many = (judge(taught(Stream(TRUTH), steps), TRUTH) for steps in (100, 2000))
    assert few[1] > 1.15 * few[2]  # the prior is wrong enough to matter
    assert few[0] < 1.01 * few[2]
    assert many[0] < 1.001 * many[2]


def test_what_it_says_is_a_probability() -> None:
    """Of the nodes that it says about the same of, so many are kept."""
    estimate, stream = taught(Stream(TRUTH), 1000), Stream(TRUTH, seed=5)
    steps = [stream.step() for _ in range(3000)]
    said = np.concatenate([estimate.chance(prior, features) for prior, features, _, _ in steps])
    kept = np.concatenate([one[3] for one in steps])
    for low in np.arange(0.0, 1.0, 0.1):
        some = (said >= low) & (said < low + 0.1)
        assert some.sum() > 100
        assert kept[some].mean() == pytest.approx(said[some].mean(), abs=0.08)


@pytest.mark.parametrize("steps", [50, 300, 1500])
def test_it_is_near_the_fit_of_all_verdicts_at_once(steps: int) -> None:
    """Newton's method to the end, each step discounted by its age, with the same belief in the prior."""
    stream, estimate = Stream(TRUTH, seed=2), Survival(3)
    inputs, kept = np.zeros((0, 5)), np.zeros(0)
    for _ in range(steps):
        prior, features, _, verdicts = stream.step()
        estimate.learn(prior, features, verdicts)
        inputs = np.concatenate([inputs, np.column_stack([prior, np.ones(NODES), features])])
        kept = np.concatenate([kept, verdicts])
    discount = np.repeat(MEMORY ** np.arange(steps)[::-1], NODES)
    first = np.eye(5)[0]
    weights = first
    for _ in range(30):
        said = sigmoid(inputs @ weights)
        slope = inputs.T @ (discount * (kept - said)) - BELIEF * (weights - first)
        bend = (inputs * (discount * said * (1 - said))[:, None]).T @ inputs + BELIEF * np.eye(5)
        weights = weights + np.linalg.solve(bend, slope)
    assert np.linalg.norm(first - weights) > 0.4
    assert estimate.weights == pytest.approx(weights, abs=0.15 if steps == 50 else 0.06)


@pytest.mark.parametrize("slope", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("shift", [-2.0, 0.0, 2.0])
def test_a_wrong_prior_is_corrected(slope: float, shift: float) -> None:
    """A drafter that is too sure of itself or too timid, within some tens of steps."""
    truth = np.array([slope, shift, 0.0, 0.0, 0.0])
    said, before, best = judge(taught(Stream(truth), 60), truth)
    assert said < best + max(0.02, 0.3 * (before - best))


def test_it_forgets_what_no_longer_holds() -> None:
    other = np.array([1.5, 1.0, -0.6, 0.4, 0.0])
    estimate = taught(Stream(TRUTH), 1500)
    before = judge(estimate, other)
    after = judge(taught(Stream(other, seed=3), 1500, estimate), other)
    assert before[0] > 1.5 * before[2] and after[0] < 1.1 * after[2]


def test_whatever_the_verdicts_say_it_stays_within_bounds_and_recovers() -> None:
    """Each verdict is the opposite of what it says, of nodes far out."""
    random, estimate = np.random.default_rng(0), Survival(3)
    for _ in range(800):
        prior, features = random.normal(0, 4, NODES), random.normal(0, 3, (NODES, 3))
        estimate.learn(prior, features, estimate.chance(prior, features) < 0.5)
        assert np.abs(estimate.weights - np.eye(5)[0]).max() <= FARTHEST
    assert np.isfinite(estimate.weights).all()
    said, _, best = judge(taught(Stream(TRUTH), 4000, estimate), TRUTH)
    assert said < 1.02 * best


def test_one_step_is_no_longer_than_it_may_be() -> None:
    estimate = Survival(3)
    estimate.learn(np.full(99, 9.0), np.full((99, 3), 3.0), np.zeros(99, np.bool_))
    assert np.linalg.norm(estimate.weights - np.eye(5)[0]) == pytest.approx(LONGEST)


def test_no_weight_goes_further_than_it_may() -> None:
    """A feature that tells everything and hardly moves: the best weight would be a large one."""
    estimate, feature = Survival(1), np.linspace(-0.05, 0.05, NODES)[:, None]
    for _ in range(2000):
        estimate.learn(np.zeros(NODES), feature, feature[:, 0] > 0)
    assert estimate.weights[2] == pytest.approx(FARTHEST)


def test_what_nothing_confirms_is_forgotten() -> None:
    estimate = taught(Stream(TRUTH), 300)
    assert np.linalg.norm(estimate.weights - np.eye(5)[0]) > 0.5
    for _ in range(12000):
        estimate.learn(np.zeros(0), np.zeros((0, 3)), np.zeros(0, np.bool_))
    assert estimate.weights == pytest.approx(np.eye(5)[0], abs=0.02)


def test_a_step_without_nodes_teaches_nothing() -> None:
    estimate = Survival(3)
    estimate.learn(np.zeros(0), np.zeros((0, 3)), np.zeros(0, np.bool_))
    assert estimate.weights.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert estimate.chance(np.zeros(0), np.zeros((0, 3))).tolist() == []
