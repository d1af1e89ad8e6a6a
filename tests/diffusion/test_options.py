"""Every option of every public call, given what it is not: one line that names it, or samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from outpace import diffusion
from outpace.core.errors import OutpaceError
from outpace.diffusion import measure
from outpace.diffusion.sources import open_source
from tests.diffusion_pipelines import tiny_unet

LEVELS = diffusion.variance_preserving(4)
MIXTURE = diffusion.GaussianMixture.random(2, 2)
MODEL = MIXTURE.denoiser(LEVELS)
PROCESS = diffusion.chain(LEVELS)


def masked_model(tokens: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*tokens.shape, 3)


def quarter(inputs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    return inputs / 4


def scheduler() -> Any:
    return pytest.importorskip("diffusers").DDPMScheduler()


def accelerated(**options: Any) -> Any:
    return diffusion.accelerate(quarter, scheduler(), shape=(3,), **options)


TABLES = {"times": [2.0, 1.0], "sigmas": [1.0, 0.5], "from_state": [1.0, 1.0], "from_output": [1.0, 1.0]}
TABLES |= {"keep": [0.5, 0.5], "pull": [0.5, 0.5]}
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "sample": (
        diffusion.sample,
        {"model": MODEL, "process": PROCESS, "shape": (2,), "num": 2, "draft": "stale", "window": 2,
         "seed": 1, "batch": 2, "conditions": None, "dtype": torch.float32, "device": "cpu",
         "on_progress": None},
    ),
    "sample_masked": (
        diffusion.sample_masked,
        {"model": masked_model, "schedule": diffusion.OneByOne(), "length": 3, "num": 2, "mask_id": 3,
         "rule": diffusion.Match(), "window": 2, "temperature": 1.0, "seed": 1, "batch": 2, "partial": None,
         "conditions": None, "device": "cpu", "on_progress": None},
    ),
    "accelerate": (
        lambda **options: diffusion.accelerate(**options)(2, num_inference_steps=3, output_type="latent"),
        {"pipeline_or_model": quarter, "scheduler": scheduler, "draft": "stale", "window": 2, "shape": (3,)},
    ),
    "accelerated": (
        lambda **options: accelerated()(**options),
        {"batch_size": 2, "num_inference_steps": 3, "seed": 0, "output_type": "latent", "conditions": None,
         "num_at_once": 1, "on_progress": None},
    ),
    "classes": (
        lambda **options: diffusion.accelerate(tiny_unet(num_class_embeds=4), scheduler())(**options),
        {"batch_size": 2, "num_inference_steps": 2, "conditions": [1, 2]},
    ),
    "from_scheduler": (diffusion.from_scheduler, {"scheduler": scheduler, "num_steps": 4}),
    "preserving": (
        diffusion.variance_preserving,
        {"num_steps": 3, "beta_min": 0.1, "beta_max": 20.0, "first": 1.0, "last": 1e-3},
    ),
    "exploding": (diffusion.variance_exploding, {"num_steps": 3, "sigma_min": 0.01, "sigma_max": 50.0}),
    "interpolant": (diffusion.linear_interpolant, {"num_steps": 3}),
    "ddpm_levels": (diffusion.ddpm_levels, {"alphas_cumprod": [0.9, 0.5], "timesteps": [1, 0]}),
    "levels": (diffusion.Levels, {"alphas": [1.0, 1.0], "sigmas": [1.0, 0.0], "times": [1.0]}),
    "chain": (
        diffusion.chain,
        {"levels": LEVELS, "prediction": "epsilon", "churn": 1.0, "clip": 1.0, "sigmas": [1.0] * 4,
         "input_scales": [1.0] * 4, "prior_scale": 1.0},
    ),
    "denoising": (diffusion.Denoising, {**TABLES, "input_scales": None, "prior_scale": 1.0, "clip": None}),
    "drift": (diffusion.Drift, {"times": [0.0, 1.0], "diffusion": lambda time: 1.0, "prior_scale": 1.0}),
    "mixture": (diffusion.GaussianMixture, {"means": [[0.0], [1.0]], "width": 0.5, "weights": [1.0, 2.0]}),
    "random": (diffusion.GaussianMixture.random, {"dimensions": 2, "components": 2, "width": 0.3, "seed": 0}),
    "draw": (MIXTURE.draw, {"num": 2, "seed": 1}),
    "denoiser": (MIXTURE.denoiser, {"levels": LEVELS, "prediction": "epsilon"}),
    "unmasking": (diffusion.Unmasking, {"alphas": [0.0, 0.5, 1.0], "times": [1.0, 0.5]}),
    "linear": (diffusion.linear_unmasking, {"num_steps": 3}),
    "cosine": (diffusion.cosine_unmasking, {"num_steps": 3}),
    "fixed": (diffusion.Fixed, {"length": 3}),
    "adaptive": (diffusion.Adaptive, {"most": 3, "price": 0.1}),
    "frozen": (diffusion.Frozen, {"held": None}),
    "carried": (diffusion.Carried, {"held": diffusion.Output()}),
    "picard": (diffusion.Picard, {"draft": None, "sweeps": 1, "held": None}),
    "independent": (diffusion.Independent, {"model": MODEL}),
    "open_source": (open_source, {"spec": "mixture", "num_steps": 3, "device": "cpu", "threads": 1}),
    "measure": (
        lambda **options: measure.measure(open_source("mixture", 2), [], **options),
        {"num": 1, "seed": 0, "batch": 1, "repeats": 1, "on_progress": None},
    ),
}  # fmt: skip
OPTIONS = [(call, option) for call, (_, options) in CALLS.items() for option in options]


class Refuses:
    """Has everything that is asked for, and nothing works."""

    def __index__(self) -> int:
        raise RuntimeError("no index")

    def __float__(self) -> float:
        raise RuntimeError("no float")

    def __repr__(self) -> str:
        return "two\nlines\x1b[2J"


WRONG = [
    None, True, "3", "", b"3", 0, -1, 1.5, 2.0, 10**9, 10**30, 10**6000, -(2**63), math.nan, math.inf,
    -math.inf, 1e-320, 1e200, [], [1], [1.5, "a"], [[1, 2]], [math.nan, 1.0], [True, False], {}, {"a": 1},
    set(), (), object(), Refuses(), object, diffusion.Stale, np.float32(2), np.array([1, 2]), np.array(3),
    torch.tensor([1, 2]), torch.tensor(1.5), torch.tensor([9, -9]), torch.float64, torch.int32,
    torch.float8_e4m3fn, torch.bool, "epsilon", "cuda:99", "meta", "abacus", lambda: None, print,
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def made(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value() if value is scheduler else value for name, value in options.items()}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_right_is_accepted(call: str) -> None:
    function, options = CALLS[call]
    function(**made(options))


# A function of the caller's that fails is the caller's; so is a model, which takes what it is told.
THEIRS = {
    ("sample", "model"),
    ("sample", "on_progress"),
    ("sample_masked", "model"),
    ("independent", "model"),
}
THEIRS |= {("sample_masked", "on_progress"), ("accelerate", "pipeline_or_model"), ("drift", "diffusion")}
THEIRS |= {("independent", "model"), ("accelerated", "on_progress"), ("measure", "on_progress")}
LARGE = {"num", "batch_size", "components", "dimensions", "length", "repeats"}
TOLD = {("sample", "conditions"), ("sample_masked", "conditions"), ("accelerated", "conditions")}


@pytest.mark.parametrize(("call", "option"), OPTIONS)
def test_what_is_wrong_gets_one_line(call: str, option: str) -> None:
    function, options = CALLS[call]
    refused = 0
    for wrong in WRONG:
        if type(wrong) is int and wrong == 10**9 and option in LARGE:
            continue  # a right number, which no test should wait for
        if callable(wrong) and (call, option) in THEIRS:
            continue
        if (call, option) in TOLD and isinstance(wrong, list | tuple | np.ndarray | torch.Tensor):
            continue
        try:
            function(**(made(options) | {option: wrong}))
        except OutpaceError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 400
    assert refused > len(WRONG) // 3, "and most are wrong"


@pytest.mark.parametrize(
    ("call", "option", "wrong", "message"),
    [
        ("sample", "num", 2.5, "num is 2.5, accepted are whole numbers from 1 to 2147483647"),
        ("sample", "num", "2", "num is '2', accepted are whole numbers"),
        ("sample", "num", True, "num is True, accepted are whole numbers"),
        ("sample", "seed", 1.5, "seed is 1.5, accepted are whole numbers"),
        ("sample", "seed", None, "seed is None, accepted are whole numbers"),
        ("sample", "batch", 0.5, "batch is 0.5, accepted are whole numbers and None"),
        ("sample", "window", None, "window is None, accepted are whole numbers >= 1, adaptive, fixed"),
        ("sample", "window", True, "window is True, accepted are whole numbers"),
        ("sample", "draft", 3, "draft is 3, accepted are objects such as Stale(), their names and None"),
        ("sample", "draft", diffusion.Stale, "draft is <class 'outpace.diffusion.drafts.Stale'>, accepted"),
        ("sample", "shape", 3, "shape is 3, accepted are lists of whole numbers"),
        ("sample", "shape", (2, 2.5), "shape is (2, 2.5), accepted are lists of whole numbers"),
        ("sample", "shape", (2**20, 2**20), "are too many, accepted are 1099511627776 numbers in all"),
        ("sample", "dtype", "float32", "dtype is 'float32', accepted are floating ones such as torch.float"),
        ("sample", "device", "abacus", "device 'abacus' cannot be used here: "),
        ("sample", "process", LEVELS, "process is Levels("),
        ("sample", "model", None, "model is None, accepted are functions"),
        ("sample", "model", torch.nn.Linear, "model is <class 'torch.nn.modules.linear.Linear'>, accepted"),
        ("sample", "conditions", "ab", "conditions are 'ab', accepted is a tensor [2, ...]"),
        ("sample", "conditions", 5, "conditions are 5, accepted is a tensor [2, ...]"),
        ("sample", "conditions", torch.tensor(1), "0 dimensions of conditions for 2 samples"),
        ("sample", "on_progress", 5, "on_progress is 5, accepted are functions and None"),
        ("sample_masked", "length", 2.5, "length is 2.5, accepted are whole numbers"),
        ("sample_masked", "mask_id", "3", "mask_id is '3', accepted are whole numbers"),
        ("sample_masked", "temperature", "1", "temperature is '1', accepted are numbers"),
        ("sample_masked", "temperature", math.nan, "temperature is nan, accepted are numbers"),
        ("sample_masked", "partial", [[3, 3, 3]] * 2, "partial is [[3, 3, 3], [3, 3, 3]], accepted"),
        ("sample_masked", "partial", torch.full((2, 3), -7), "partial has the token -7, accepted are"),
        ("sample_masked", "schedule", diffusion.OneByOne, "schedule is <class"),
        ("sample_masked", "rule", "match", "rule is 'match', accepted are objects such as Match()"),
        ("accelerated", "num_inference_steps", 3.0, "num_inference_steps is 3.0, accepted are whole numbers"),
        ("accelerated", "num_inference_steps", 2**40, "the number of steps is 1099511627776, accepted"),
        ("accelerated", "output_type", None, "output_type is None, accepted are texts"),
        ("classes", "conditions", None, "the model is told classes; accepted is conditions=labels"),
        ("classes", "conditions", [1, 4], "conditions are [1, 4], accepted are classes from 0 to 3"),
        ("classes", "conditions", [-1, 0], "conditions are [-1, 0], accepted are classes from 0 to 3"),
        ("classes", "conditions", [0.0, 1.0], "conditions are [0.0, 1.0], accepted are classes from 0 to 3"),
        ("classes", "conditions", [True, False], "conditions are [True, False], accepted are classes"),
        ("classes", "conditions", ["cat", "dog"], "conditions are ['cat', 'dog'], accepted is a tensor"),
        ("classes", "conditions", [1], "1 conditions for 2 samples; one for each is accepted"),
        ("preserving", "beta_max", math.inf, "beta_max is inf, accepted are finite numbers >= 0"),
        ("levels", "sigmas", "ab", "sigmas is 'ab', accepted are lists of numbers"),
        ("levels", "sigmas", [1.0, "0"], "sigmas[1] is '0', accepted are numbers"),
        ("chain", "levels", PROCESS, "levels is <outpace.diffusion.process.D"),
        ("denoising", "prior_scale", math.inf, "prior_scale is inf, accepted are finite numbers"),
        ("mixture", "means", "ab", "means are 'ab', accepted are finite numbers [K, D]"),
        ("frozen", "held", "output", "held is 'output', accepted are objects such as Prediction()"),
    ],
)  # fmt: skip
def test_messages(call: str, option: str, wrong: Any, message: str) -> None:
    function, options = CALLS[call]
    with pytest.raises(OutpaceError) as error:
        function(**(made(options) | {option: wrong}))
    assert message in str(error.value)


def test_numbers_of_numpy_and_lists_are_as_good() -> None:
    options = CALLS["sample"][1]
    plain = diffusion.sample(**options).samples
    others = {"num": np.int64(2), "seed": np.uint8(1), "batch": np.int32(2), "shape": np.array([2])}
    assert torch.equal(diffusion.sample(**(options | others)).samples, plain)
    function, options = CALLS["classes"]
    images = function(**options, output_type="latent").images
    for labels in (1, 2), np.array([1, 2]), torch.tensor([1, 2]), torch.tensor([1, 2], dtype=torch.uint8):
        assert torch.equal(
            function(**(options | {"conditions": labels}), output_type="latent").images, images
        )
    ddpm_levels: Any = diffusion.ddpm_levels
    levels = ddpm_levels(torch.tensor([0.9, 0.5]), np.array([1, 0]))
    assert levels == diffusion.ddpm_levels([float(np.float32(0.9)), 0.5], [1, 0])


def test_too_little_memory_is_one_line() -> None:
    with pytest.raises(OutpaceError, match=r"not enough memory for 1 samples of shape \(1073741824, 1000\)"):
        diffusion.sample(quarter, PROCESS, (2**30, 1000))

    def hungry(inputs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return torch.empty(2**45)

    with pytest.raises(OutpaceError, match=r"not enough memory for 1 samples of shape \(2,\) at a time"):
        diffusion.sample(hungry, PROCESS, (2,), draft="stale")
    with pytest.raises(OutpaceError, match="not enough memory for 1 samples of 3 tokens at a time"):
        diffusion.sample_masked(hungry, diffusion.OneByOne(), 3, mask_id=3)

    def broken(inputs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("of another kind")

    with pytest.raises(RuntimeError, match="of another kind"):
        diffusion.sample(broken, PROCESS, (2,))


@pytest.mark.parametrize("draft", [None, "stale", "frozen"])
def test_samples_that_leave_the_numbers_of_their_type(draft: str | None) -> None:
    """The model's last output is finite; what the chain makes of it is not."""
    tables: dict[str, Any] = TABLES | {"from_output": [1.0, 4.0]}

    def model(inputs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return torch.where(times[:, None] < 1.5, 3e38, inputs)

    with pytest.raises(OutpaceError, match="sample 0 is not finite: the model's output is too large for"):
        diffusion.sample(model, diffusion.Denoising(**tables), (2,), draft=draft)
