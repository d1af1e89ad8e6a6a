"""Threads that share a model, sampler or folder: every answer is that of one thread alone."""

from __future__ import annotations

import asyncio
import functools
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from outpace.core.errors import OutpaceError

pytest.importorskip("torch")

import torch

from outpace import diffusion

STEPS, THREADS = 12, 4
LEVELS = diffusion.variance_preserving(STEPS)
PROCESS = diffusion.chain(LEVELS)


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads change places often; the numbers of one thread do not depend on how many torch has."""
    torch.set_num_threads(1)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class OneBuffer:
    """A model that keeps its inputs and its answer on itself, as models with static buffers do."""

    def __init__(self, model: Callable[..., torch.Tensor], size: tuple[int, ...]) -> None:
        self.model, self.out = model, torch.zeros(0)
        self.size, self.inside, self.calls = size, 0, 0

    def __call__(self, inputs: torch.Tensor, times: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        assert self.inside == 0, "two threads are in the model"
        self.inside += 1
        self.given = inputs, times, *conditions
        time.sleep(1e-4)
        answer = self.model(*self.given)
        if self.out.shape != (64, *answer.shape[1:]):
            self.out = torch.empty(64, *answer.shape[1:], dtype=answer.dtype)
        out = self.out[: len(answer)]
        out.copy_(answer)
        self.calls += 1
        self.inside -= 1
        return out

    def method(self, *given: torch.Tensor) -> torch.Tensor:
        return self(*given)


def together(work: Callable[[int], Any], num: int = THREADS) -> list[Any]:
    """What `work` returns for 0, 1, ..., each in a thread of its own, all at once."""
    gate = threading.Barrier(num)

    def begin(number: int) -> Any:
        gate.wait(60)
        return work(number)

    with ThreadPoolExecutor(num) as pool:
        return list(pool.map(begin, range(num)))


DRAFTS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "frozen": diffusion.Frozen,
    "stale": diffusion.Stale,
    "carried": diffusion.Carried,
    "picard": lambda: diffusion.Picard(sweeps=2),
    "independent": lambda: diffusion.Independent(
        OneBuffer(diffusion.GaussianMixture.random(5, 2, seed=1).denoiser(LEVELS), (5,))
    ),
}


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize(
    "shared",
    [
        lambda model: model,
        lambda model: model.method,
        lambda model: functools.partial(model.method),
        lambda model: torch.no_grad()(model.method),
    ],
    ids=["object", "method", "partial", "wrapped"],
)
def test_samples_of_one_model(draft: str, shared: Callable[[Any], Any]) -> None:
    model = OneBuffer(diffusion.GaussianMixture.random(5, 3).denoiser(LEVELS), (5,))
    made, window = DRAFTS[draft](), diffusion.Adaptive(6)

    def work(seed: int) -> Any:
        result = diffusion.sample(
            shared(model), PROCESS, (5,), 3 + seed, draft=made, window=window, seed=seed, batch=2
        )
        return result.samples, result.stats.sequential_calls, result.stats.accepted

    alone = [work(seed) for seed in range(THREADS)]
    model.calls = 0
    for ours, theirs in zip(together(work), alone, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))
    assert model.calls > THREADS


@pytest.mark.parametrize("rule", [None, diffusion.Match(), diffusion.Speculative()])
def test_masked_samples_of_one_model(rule: Any) -> None:
    weights = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    model = OneBuffer(lambda tokens, times: weights[tokens.roll(1, 1)] * 2, (9, 6))

    def work(seed: int) -> Any:
        result = diffusion.sample_masked(
            model,
            diffusion.cosine_unmasking(5),
            9,
            4 + seed,
            mask_id=6,
            rule=rule,
            window=3,
            seed=seed,
            batch=3,
        )
        return result.samples, result.stats.sequential_calls

    alone = [work(seed) for seed in range(THREADS)]
    for ours, theirs in zip(together(work), alone, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    from tests.diffusion_pipelines import save_pipeline

    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def test_one_accelerated_pipeline(folder: Path) -> None:
    """By threads and from coroutines; another one of the same U-Net beside it."""
    from outpace.diffusion.folders import load_pipeline

    pipeline = load_pipeline(folder)
    fast = [diffusion.accelerate(pipeline, draft="carried"), diffusion.accelerate(pipeline, draft="stale")]

    def work(seed: int) -> torch.Tensor:
        return fast[seed % 2](2, num_inference_steps=6 + seed, seed=seed, output_type="latent").images

    async def tasks() -> list[torch.Tensor]:
        return await asyncio.gather(*(asyncio.to_thread(work, seed) for seed in range(THREADS)))

    alone = [work(seed) for seed in range(THREADS)]
    for several in together(work), asyncio.run(tasks()):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(several, alone, strict=True))


def test_pipelines_that_share_a_unet_take_its_turns() -> None:
    schedulers = pytest.importorskip("diffusers").DDPMScheduler
    model = OneBuffer(lambda x, t: 0.3 * x, (5,))
    fast = [diffusion.accelerate(model, schedulers(), shape=(5,)) for _ in range(2)]

    def work(seed: int) -> torch.Tensor:
        return fast[seed % 2](3, num_inference_steps=10, seed=seed, output_type="latent").images

    alone = [work(seed) for seed in range(THREADS)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together(work), alone, strict=True))


def test_threads_take_turns_step_by_step() -> None:
    """None waits until another's samples are done."""
    order: list[int] = []

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        order.append(threading.get_ident())
        time.sleep(1e-3)
        return 0.3 * x

    together(lambda seed: diffusion.sample(model, PROCESS, (2,), seed=seed), 3)
    assert len(order) == 3 * STEPS
    changes = sum(one != two for one, two in itertools.pairwise(order))
    assert changes > STEPS


def test_a_call_within_a_call() -> None:
    """What is told of progress may sample from the same model; so may the model itself from another."""
    inner = OneBuffer(diffusion.GaussianMixture.random(2, 2).denoiser(LEVELS), (2,))

    def outer(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.3 * x + diffusion.sample(inner, PROCESS, (2,), len(x), seed=3).samples

    told: list[torch.Tensor] = []

    def tell(done: int, total: int) -> None:
        if not told:
            told.append(diffusion.sample(outer, PROCESS, (2,), seed=5).samples)

    diffusion.sample(outer, PROCESS, (2,), draft="stale", on_progress=tell)
    assert torch.equal(told[0], diffusion.sample(outer, PROCESS, (2,), seed=5).samples)


def test_targets_that_draft_for_each_other_do_not_wait_for_ever() -> None:
    models = [
        OneBuffer(diffusion.GaussianMixture.random(2, 2, seed=seed).denoiser(LEVELS), (2,)) for seed in (0, 1)
    ]

    def work(number: int) -> torch.Tensor:
        target, draft = models[number % 2], models[1 - number % 2]
        return diffusion.sample(target, PROCESS, (2,), 2, draft=diffusion.Independent(draft)).samples

    alone = [work(number) for number in range(2)]
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(together(work, 2)), daemon=True)
    thread.start()
    thread.join(60)
    assert done and all(torch.equal(ours, theirs) for ours, theirs in zip(done[0], alone, strict=True))


def test_a_failing_call_gives_its_turn_back() -> None:
    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x / 0

    for _ in range(2):
        with pytest.raises(OutpaceError, match="not finite"):
            diffusion.sample(model, PROCESS, (2,))
    with ThreadPoolExecutor(1) as pool, pytest.raises(OutpaceError, match="not finite"):
        pool.submit(diffusion.sample, model, PROCESS, (2,)).result(60)


def test_the_generator_of_torch_is_nobodys(folder: Path) -> None:
    """Neither sampling nor loading draws from it or seeds it anew."""
    from outpace.diffusion.folders import load_pipeline

    before = torch.get_rng_state()
    fast = diffusion.accelerate(load_pipeline(folder), draft="stale")
    fast(2, num_inference_steps=4, seed=1)
    model = diffusion.GaussianMixture.random(2, 2, seed=4).denoiser(LEVELS)
    diffusion.sample(model, PROCESS, (2,), seed=2)
    diffusion.sample_masked(
        lambda tokens, times: torch.zeros(*tokens.shape, 3), diffusion.OneByOne(), 5, mask_id=3, seed=3
    )
    assert torch.equal(torch.get_rng_state(), before)
