"""Schedulers of diffusers as chains: those whose step is Gaussian given the state, the others refused.

Their own arrays are read and their steps written as `chain` does: one formula for the steps of DDPM (Ho, Jain
& Abbeel 2020, arXiv:2006.11239), of the ancestral Euler sampler (https://github.com/crowsonkb/k-diffusion)
and of the first order of SDE-DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095):

    DDPM             alpha^2 = alphas_cumprod[t],    sigma^2 = 1 - alpha^2
    Euler ancestral  alpha   = 1,                    sigma   = sigmas[n]; the model's input is scaled
    SDE-DPM++        alpha   = 1 / sqrt(1 + s^2),    sigma   = s alpha, with s = sigmas[n]; of flows 1 - s, s
    stochastic flow  state'  = (1 - s') clean + s' z, which keeps nothing of the state

A scheduler is known by the name of its class, so that diffusers need not be there to be asked for.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection
from typing import Any

from outpace.core.errors import OutpaceError
from outpace.diffusion.checks import checked_steps
from outpace.diffusion.foreign import one_line
from outpace.diffusion.process import Denoising
from outpace.diffusion.schedules import Levels, chain, ddpm_levels


def from_scheduler(scheduler: Any, num_steps: int) -> Denoising:
    """The chain that a scheduler of diffusers runs in so many steps; the scheduler is not changed."""
    return process_of(with_timesteps(scheduler, num_steps))


def with_timesteps(scheduler: Any, num_steps: int) -> Any:
    """A copy of an accepted scheduler that is set to so many steps."""
    check_accepted(scheduler)
    num_steps = checked_steps(num_steps)
    with one_line(f"{_name(scheduler)} does not take {num_steps} steps"):
        timed = copy.deepcopy(scheduler)  # a configuration may be nested too deeply for that
        timed.set_timesteps(num_steps)
    return timed


def process_of(timed: Any) -> Denoising:
    """The chain of a scheduler whose timesteps are set."""
    with one_line(f"{_name(timed)} has a configuration that is no chain"):
        return ACCEPTED[_name(timed)](timed)


def check_accepted(scheduler: Any) -> None:
    """Raises OutpaceError with the reason, and what to use instead, where drafts cannot serve a scheduler."""
    check_known(_name(scheduler))


def check_known(name: str) -> None:
    """`check_accepted` by the name of a class."""
    if name in REFUSED:
        reason, instead = REFUSED[name]
        raise OutpaceError(f"{name} {reason}; accepted instead is {instead}")
    if name not in ACCEPTED:
        raise OutpaceError(
            f"{name} is not a scheduler that is known here, accepted are {', '.join(ACCEPTED)}"
        )


def _ddpm(timed: Any) -> Denoising:
    accepted = "fixed_small", "fixed_small_log", "fixed_large"
    _check(timed, "variance_type", accepted, "the others make sigma depend on the model, or are no numbers")
    _check(timed, "thresholding", [False], "its bound depends on all of the sample")
    _check(timed, "prediction_type", ["epsilon", "sample", "v_prediction"])
    kept, steps = timed.alphas_cumprod.tolist(), timed.timesteps.tolist()
    if not 0 <= min(steps) <= max(steps) < len(kept):
        raise OutpaceError(
            f"{_name(timed)} goes from timestep {max(steps)} to {min(steps)} (steps_offset is"
            f" {timed.config.steps_offset}), accepted are 0 to {len(kept) - 1}"
        )
    sigmas = None
    if timed.config.variance_type == "fixed_large":
        after = [*(kept[step] for step in steps[1:]), 1.0]
        sigmas = [
            math.sqrt(1 - kept[step] / next_kept) if step > 0 else 0.0
            for step, next_kept in zip(steps, after, strict=True)
        ]
    return chain(
        ddpm_levels(kept, steps),
        prediction=timed.config.prediction_type,
        clip=timed.config.clip_sample_range if timed.config.clip_sample else None,
        sigmas=sigmas,
        prior_scale=float(timed.init_noise_sigma),
    )


def _euler_ancestral(timed: Any) -> Denoising:
    _check(timed, "prediction_type", ["epsilon", "v_prediction"])
    sigmas = timed.sigmas.tolist()
    return chain(
        Levels([1.0] * len(sigmas), sigmas, timed.timesteps.tolist()),
        prediction=timed.config.prediction_type,
        input_scales=[1 / math.hypot(sigma, 1) for sigma in sigmas[:-1]],
        prior_scale=float(timed.init_noise_sigma),
    )


def _sde_dpm(timed: Any) -> Denoising:
    stochastic = "with solver_order=1; the others have no noise, or another step"
    _check(timed, "algorithm_type", ["sde-dpmsolver++"], stochastic)
    _check(timed, "solver_order", [1], "a step of a higher order depends on earlier outputs of the model")
    _check(timed, "thresholding", [False], "its bound depends on all of the sample")
    _check(timed, "variance_type", [None], "the others belong to models that predict a variance too")
    flow = timed.config.use_flow_sigmas
    predictions = ["epsilon", "sample", "flow_prediction" if flow else "v_prediction"]
    _check(timed, "prediction_type", predictions, f"with use_flow_sigmas={flow}")
    noise = timed.sigmas.tolist()
    alphas = [1 - s if flow else 1 / math.hypot(s, 1) for s in noise]
    sigmas = [s if flow else s * alpha for s, alpha in zip(noise, alphas, strict=True)]
    return chain(
        Levels(alphas, sigmas, timed.timesteps.tolist()),
        prediction=timed.config.prediction_type,
        prior_scale=float(timed.init_noise_sigma),
    )


def _stochastic_flow(timed: Any) -> Denoising:
    _check(timed, "stochastic_sampling", [True], "without it there is no noise, and nothing to draft")
    _check(timed, "invert_sigmas", [False])
    noise = timed.sigmas.tolist()
    return Denoising(
        times=timed.timesteps.tolist(),
        sigmas=noise[1:],
        from_state=[1.0] * (len(noise) - 1),
        from_output=[-sigma for sigma in noise[:-1]],
        keep=[0.0] * (len(noise) - 1),
        pull=[1 - sigma for sigma in noise[1:]],
    )


def _check(timed: Any, option: str, accepted: Collection[Any], reason: str = "") -> None:
    """Raises OutpaceError unless an option of the scheduler's configuration has one of these values."""
    value = getattr(timed.config, option)
    if value not in accepted:
        values = ", ".join(map(repr, accepted))
        why = f" ({reason})" if reason else ""
        raise OutpaceError(f"{_name(timed)} has {option}={value!r}, accepted are {values}{why}")


def _name(scheduler: Any) -> str:
    return type(scheduler).__name__


ACCEPTED: dict[str, Callable[[Any], Denoising]] = {
    "DDPMScheduler": _ddpm,
    "DDPMParallelScheduler": _ddpm,
    "EulerAncestralDiscreteScheduler": _euler_ancestral,
    "DPMSolverMultistepScheduler": _sde_dpm,
    "FlowMatchEulerDiscreteScheduler": _stochastic_flow,
}

_STILL = "adds no noise, so that no draft of a step could ever be right"
_DDPM = "DDPMScheduler.from_config(scheduler.config)"
_ANCESTRAL = "EulerAncestralDiscreteScheduler.from_config(scheduler.config)"
_SDE = (
    "DPMSolverMultistepScheduler.from_config(scheduler.config, algorithm_type='sde-dpmsolver++',"
    " solver_order=1)"
)
_FLOW = "FlowMatchEulerDiscreteScheduler.from_config(scheduler.config, stochastic_sampling=True)"
REFUSED = {
    "DDIMScheduler": (_STILL, _DDPM),
    "DDIMParallelScheduler": (_STILL, _DDPM),
    "PNDMScheduler": (_STILL, _DDPM),
    "EulerDiscreteScheduler": (_STILL, _ANCESTRAL),
    "HeunDiscreteScheduler": (_STILL, _ANCESTRAL),
    "LMSDiscreteScheduler": (_STILL, _ANCESTRAL),
    "KDPM2DiscreteScheduler": (_STILL, _ANCESTRAL),
    "DEISMultistepScheduler": (_STILL, _SDE),
    "DPMSolverSinglestepScheduler": ("adds no noise, or takes steps that depend on earlier outputs", _SDE),
    "UniPCMultistepScheduler": (_STILL, _SDE),
    "FlowMatchHeunDiscreteScheduler": (_STILL, _FLOW),
    "KDPM2AncestralDiscreteScheduler": ("evaluates the model twice in a step", _ANCESTRAL),
    "DPMSolverSDEScheduler": ("evaluates the model twice in a step", _SDE),
    "SASolverScheduler": ("takes steps that depend on earlier outputs of the model", _SDE),
    "ScoreSdeVeScheduler": (
        "corrects each step by one whose size depends on the noise drawn, which is not Gaussian",
        "outpace.diffusion.chain(outpace.diffusion.variance_exploding(num_steps))",
    ),
}
"""Class -> why not, and what to use instead."""
