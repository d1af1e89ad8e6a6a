"""Chains of diffusers' schedulers: step by step what their own `step` does, wrong chains differ, refusals."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import diffusers
import torch

import outpace
from outpace import diffusion
from outpace.core.errors import OutpaceError
from outpace.diffusion.schedulers import ACCEPTED, REFUSED, process_of, with_timesteps
from outpace.diffusion.schedules import Levels, chain, ddpm_levels

STEPS = 12
SHAPE = (2, 3, 4, 4)
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
ANCESTRAL, SDE = "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"
FLOW = "FlowMatchEulerDiscreteScheduler"
FIRST = {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("DDPMScheduler", {}),
    ("DDPMScheduler", {"clip_sample": False, "beta_schedule": "squaredcos_cap_v2"}),
    ("DDPMScheduler", {"clip_sample_range": 0.4, "timestep_spacing": "trailing"}),
    ("DDPMScheduler", {"prediction_type": "sample", "timestep_spacing": "linspace"}),
    ("DDPMScheduler", {"prediction_type": "v_prediction", "clip_sample": False, "steps_offset": 1}),
    ("DDPMScheduler", {"prediction_type": "v_prediction", **ZERO_SNR}),
    ("DDPMScheduler", {"variance_type": "fixed_small_log", "beta_schedule": "scaled_linear"}),
    ("DDPMScheduler", {"variance_type": "fixed_large"}),
    ("DDPMScheduler", {"variance_type": "fixed_large", "timestep_spacing": "trailing"}),
    ("DDPMScheduler", {"num_train_timesteps": STEPS, "beta_end": 0.3}),
    ("DDPMParallelScheduler", {}),
    (ANCESTRAL, {}),
    (ANCESTRAL, {"prediction_type": "v_prediction", "timestep_spacing": "leading", "steps_offset": 1}),
    (ANCESTRAL, ZERO_SNR),
    (SDE, FIRST),
    (SDE, {**FIRST, **ZERO_SNR, "prediction_type": "v_prediction"}),
    (SDE, {**FIRST, "prediction_type": "sample", "timestep_spacing": "leading", "steps_offset": 1}),
    (SDE, {**FIRST, "final_sigmas_type": "sigma_min", "euler_at_final": True}),
    (SDE, {**FIRST, "use_karras_sigmas": True}),
    (SDE, {**FIRST, "use_lu_lambdas": True, "beta_schedule": "squaredcos_cap_v2"}),
    (SDE, {**FIRST, "lambda_min_clipped": -3.1}),
    (SDE, {**FIRST, "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
    (SDE, {**FIRST, "use_flow_sigmas": True}),
    (FLOW, {"stochastic_sampling": True}),
    (FLOW, {"stochastic_sampling": True, "shift": 3.0, "shift_terminal": 0.1}),
]  # fmt: skip


def scheduler_of(name: str, config: dict[str, Any]) -> Any:
    return getattr(diffusers, name)(**config)


def normal(seed: int) -> torch.Tensor:
    """What a scheduler draws from a generator of this seed."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def largest_error(scheduler: Any, process: Any, *, exact: bool = True, num_steps: int = STEPS) -> float:
    """Between the chain and the scheduler's own steps: of inputs, times, means and noise, by their scale.

    exact: the scheduler computes its coefficients in f64, from the same f32 arrays.
    """
    timed = with_timesteps(scheduler, num_steps)
    if exact:
        for name in ("alphas_cumprod", "one", "sigmas"):
            if hasattr(timed, name):
                setattr(timed, name, getattr(timed, name).double())
    assert len(timed.timesteps) == len(process.sigmas) == num_steps
    state, worst = normal(1000) * float(getattr(timed, "init_noise_sigma", 1.0)), 0.0
    worst = relative(process.prior(normal(1000)), state)
    for step, time in enumerate(timed.timesteps):
        output, steps = normal(2000 + step), torch.full((SHAPE[0],), step)
        scaled = timed.scale_model_input(state, time) if hasattr(timed, "scale_model_input") else state
        inputs, times = process.inputs(state.double(), steps)
        assert times.tolist() == [float(time)] * SHAPE[0]
        mean = process.step(state.double(), process.predict(state.double(), output.double(), steps), steps)
        following = []
        for seed in (2 * step, 2 * step + 1):
            timed._step_index = step  # of those that count their steps
            source = torch.Generator().manual_seed(seed)
            following.append(timed.step(output, time, state, generator=source).prev_sample)
        noises = normal(2 * step), normal(2 * step + 1)
        sigma = process.sigmas[step]
        worst = max(
            worst,
            relative(inputs, scaled),
            relative(mean + sigma * noises[0], following[0]),
            relative(mean + sigma * noises[1], following[1]),
            spread_error(sigma * (noises[0] - noises[1]), following[0] - following[1], following[0]),
        )
        state = following[0].float()
    return worst


def relative(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max() / two.abs().max())


def spread_error(one: torch.Tensor, two: torch.Tensor, states: torch.Tensor) -> float:
    """Of the noise alone, where it is more than the states' rounding."""
    return relative(one, two) if two.abs().max() > 1e-2 * states.abs().max() else 0.0


def named(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(map(str, value.values())) or "default"


@pytest.mark.parametrize(("name", "config"), CONFIGS, ids=named)
def test_every_step_is_the_schedulers_own(name: str, config: dict[str, Any]) -> None:
    scheduler = scheduler_of(name, config)
    process = diffusion.from_scheduler(scheduler, STEPS)
    assert largest_error(scheduler, process) < 1e-5
    # As it computes itself, with differences of f32 numbers near 1 in its coefficients.
    assert largest_error(scheduler, process, exact=False) < 1e-3


def test_a_thousand_steps_are_the_schedulers_own() -> None:
    scheduler = diffusers.DDPMScheduler()
    assert largest_error(scheduler, diffusion.from_scheduler(scheduler, 1000), num_steps=1000) < 1e-5


def test_the_clip_is_met_and_not_met() -> None:
    """So that the comparison above sees both."""
    process = diffusion.from_scheduler(diffusers.DDPMScheduler(clip_sample_range=0.4), STEPS)
    first, last = torch.tensor([0]), torch.tensor([STEPS - 1])
    assert process.predict(normal(0)[:1], normal(1)[:1], first).abs().eq(0.4).float().mean() > 0.9
    assert process.predict(0.1 * normal(0)[:1], normal(1)[:1], last).abs().lt(0.4).float().mean() > 0.9


def test_wrong_chains_differ() -> None:
    ddpm = diffusers.DDPMScheduler()
    timed = with_timesteps(ddpm, STEPS)
    kept, steps = timed.alphas_cumprod.tolist(), timed.timesteps.tolist()
    levels = ddpm_levels(kept, steps)
    right = chain(levels, clip=1.0)
    assert largest_error(ddpm, right) < 1e-5
    wrong = [
        chain(levels),
        chain(levels, clip=1.01),
        chain(levels, clip=1.0, churn=0.98),
        chain(levels, clip=1.0, prediction="v_prediction"),
        chain(levels, clip=1.0, prior_scale=1.01),
        chain(levels, clip=1.0, sigmas=(1.01 * right.sigmas).tolist()),
        chain(levels, clip=1.0, input_scales=[0.99] * STEPS),
        diffusion.from_scheduler(diffusers.DDPMScheduler(variance_type="fixed_large"), STEPS),
        diffusion.from_scheduler(diffusers.DDPMScheduler(beta_end=0.021), STEPS),
    ]
    errors = [largest_error(ddpm, process) for process in wrong]
    assert min(errors) > 1e-3, errors
    late = ddpm_levels(kept, [step + 1 for step in steps])
    shifted = chain(Levels(late.alphas, late.sigmas, steps), clip=1.0)
    assert largest_error(ddpm, shifted) > 1e-3
    ancestral = diffusers.EulerAncestralDiscreteScheduler()
    sigmas = with_timesteps(ancestral, STEPS).sigmas.tolist()
    times = with_timesteps(ancestral, STEPS).timesteps.tolist()
    unscaled = chain(Levels([1.0] * len(sigmas), sigmas, times), prior_scale=sigmas[0])
    assert largest_error(ancestral, unscaled) > 1e-3


def test_the_scheduler_is_left_alone() -> None:
    scheduler = diffusers.DDPMScheduler()
    before = dict(scheduler.config), scheduler.timesteps.clone()
    diffusion.from_scheduler(scheduler, STEPS)
    assert dict(scheduler.config) == before[0] and torch.equal(scheduler.timesteps, before[1])
    assert scheduler.num_inference_steps is None


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("DDPMScheduler", {"variance_type": "learned_range"}, "learned_range', accepted are 'fixed_small'"),
    ("DDPMScheduler", {"variance_type": "fixed_large_log"}, "variance_type='fixed_large_log', accepted are"),
    ("DDPMScheduler", {"thresholding": True}, "thresholding=True, accepted are False"),
    ("DDPMScheduler", ZERO_SNR, "step 0 has alpha 0"),
    ("DDPMScheduler", {"steps_offset": 90}, r"from timestep 1003 to 90 \(steps_offset is 90\), acc"),
    ("DDPMScheduler", {"num_train_timesteps": 9}, "does not take 12 steps"),
    (ANCESTRAL, {"prediction_type": "sample"}, "='sample', accepted are 'epsilon', 'v_pre"),
    (ANCESTRAL, {"num_train_timesteps": 9, "timestep_spacing": "leading"}, "accepted is less noise"),
    (SDE, {}, r"algorithm_type='dpmsolver\+\+', accepted are 'sde-dpmsolver\+\+' \(with solver_order=1"),
    (SDE, {**FIRST, "solver_order": 2}, "solver_order=2, accepted are 1 .a step of a higher"),
    (SDE, {**FIRST, "thresholding": True}, "thresholding=True"),
    (SDE, {**FIRST, "variance_type": "learned"}, "variance_type='learned', accepted are None"),
    (SDE, {**FIRST, "prediction_type": "flow_prediction"}, "with use_flow_sigmas=False"),
    (SDE, {**FIRST, "prediction_type": "v_prediction", "use_flow_sigmas": True}, "with use_flow_sigmas=True"),
    (SDE, {**FIRST, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, "step 11 goes from noise"),
    (FLOW, {}, "stochastic_sampling=False, accepted are True"),
    (FLOW, {"stochastic_sampling": True, "invert_sigmas": True}, "invert_sigmas=True, accepted are False"),
    (FLOW, {"stochastic_sampling": True, "use_dynamic_shifting": True}, "12 steps: ValueError: `mu` must"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "config", "message"), REFUSALS, ids=named)
def test_configurations_that_cannot_be_served(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(OutpaceError, match=message) as error:
        diffusion.from_scheduler(scheduler_of(name, config), STEPS)
    assert "\n" not in str(error.value)


NEED_MORE = {
    "DPMSolverSDEScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
}
"""They want other packages, or warn, when they are made; their configurations have the same names."""


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_named_instead_is_accepted(name: str) -> None:
    reason, instead = REFUSED[name]
    scheduler = type(name, (), {})()
    with pytest.raises(OutpaceError, match=f"^{name} {reason.split(',')[0]}.*; accepted instead is "):
        diffusion.from_scheduler(scheduler, STEPS)
    scheduler = scheduler_of("EulerDiscreteScheduler" if name in NEED_MORE else name, {})
    given = {**{one: getattr(diffusers, one) for one in ACCEPTED}, "scheduler": scheduler}
    made = eval(instead, {**given, "outpace": outpace, "num_steps": STEPS})
    process = made if isinstance(made, diffusion.Denoising) else diffusion.from_scheduler(made, STEPS)
    assert len(process.sigmas) == STEPS


def test_others_are_refused_with_the_list() -> None:
    class Mine(diffusers.DDPMScheduler):  # type: ignore[misc]
        """May step otherwise."""

    with pytest.raises(OutpaceError, match=r"^Mine is not a scheduler that is known here, accepted are DDPM"):
        diffusion.from_scheduler(Mine(), STEPS)
    with pytest.raises(OutpaceError, match="number of steps is 0"):
        diffusion.from_scheduler(diffusers.DDPMScheduler(), 0)
    assert process_of(with_timesteps(diffusers.DDPMScheduler(), 1)).sigmas.tolist() == [0.0]
