"""Models and pipelines of diffusers, unmodified, sampled speculatively.

De Bortoli, Galashov, Gretton & Doucet 2025, arXiv:2501.05370.

    from diffusers import DDPMPipeline
    from outpace import diffusion
    fast = diffusion.accelerate(DDPMPipeline.from_pretrained(folder), draft="stale", window=8)
    output = fast(batch_size=16, num_inference_steps=100, seed=0)
    output.images, output.stats.speedup_calls

States are kept in f32 whatever the model computes in. A model or pipeline is only called, never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from outpace.core.errors import OutpaceError
from outpace.core.options import checked, shown, whole
from outpace.diffusion.checks import MOST, checked_conditions, checked_shape
from outpace.diffusion.drafts import Draft
from outpace.diffusion.images import check_output_type, converted
from outpace.diffusion.names import make_draft, make_window
from outpace.diffusion.process import Denoising, Model
from outpace.diffusion.sampler import sample
from outpace.diffusion.schedulers import check_accepted, process_of, with_timesteps
from outpace.diffusion.shapes import needs_labels, shape_of
from outpace.diffusion.stats import Stats
from outpace.diffusion.windows import Window

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin

INTEGERS = torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8


@dataclass(frozen=True, slots=True)
class Images:
    """Images of the type that was asked for, and what they have cost."""

    images: Any
    stats: Stats


@checked
def accelerate(
    pipeline_or_model: DiffusionPipeline | Callable[..., Any],
    scheduler: SchedulerMixin | None = None,
    *,
    draft: Draft | str | None = "stale",
    window: Window | int | str = 8,
    shape: Sequence[int] | None = None,
) -> Accelerated:
    """What is called like an unconditional pipeline of diffusers, with fewer calls one after another.

    pipeline_or_model  a pipeline of `unet` and `scheduler`, such as DDPMPipeline; or what is called as
                       model(x [n, *S], t [n]), with conditions as a third argument, and returns [n, *S] or an
                       object with that as `sample`.
    scheduler          one of `ACCEPTED`; that of the pipeline if left out.
    draft, window      objects, or names as on the command line; None samples plainly.
    shape              of one sample; by default what the model's config says.

    Raises OutpaceError for what cannot be accelerated, with what to use instead.
    """
    model: Any = pipeline_or_model
    parts = _parts(pipeline_or_model)
    if parts is not None:
        if parts.keys() != {"unet", "scheduler"}:
            name = type(pipeline_or_model).__name__
            raise OutpaceError(
                f"{name} is made of {', '.join(parts)}; accepted are pipelines of unet and scheduler, and"
                " a model with a scheduler"
            )
        model, scheduler = parts["unet"], parts["scheduler"] if scheduler is None else scheduler
    if isinstance(model, type) or not callable(model):
        name = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise OutpaceError(f"{name} cannot be called; accepted are pipelines and models")
    if scheduler is None:
        raise OutpaceError("a model alone has no steps; accepted is accelerate(model, scheduler)")
    if getattr(model, "training", False):
        raise OutpaceError("the model is in training mode, accepted is model.eval()")
    check_accepted(scheduler)
    return Accelerated(
        model,
        scheduler,
        shape_of(model) if shape is None else checked_shape(shape, 1),
        make_draft(draft),
        make_window(window),
    )


class Accelerated:
    """A model with a scheduler, sampled speculatively.

    shape   of one sample. device: where the model computes.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        scheduler: SchedulerMixin,
        shape: tuple[int, ...],
        draft: Draft | None,
        window: Window,
    ) -> None:
        weights = list(getattr(model, "parameters", list)())
        self.device = weights[0].device if weights else torch.device("cpu")
        self.shape = shape
        self._dtype = weights[0].dtype if weights else torch.float32
        self._model, self._scheduler = model, scheduler
        self._draft, self._window = draft, window

    @checked
    def __call__(
        self,
        batch_size: int = 1,
        *,
        num_inference_steps: int = 1000,
        seed: int = 0,
        output_type: str = "pil",
        conditions: torch.Tensor | Sequence[Any] | None = None,
        num_at_once: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Images:
        """Images, as many as batch_size says, the same for the same seed.

        output_type  "pil", "np" or "pt", as in diffusers; "latent" gives samples as they are, of any shape.
        conditions   [batch_size, ...]: what the model is told of each sample; class labels may be a list.
        num_at_once  so many samples under way at a time; all if None.
        on_progress  is told (steps done, steps in all) after every round.
        """
        check_output_type(output_type, self.shape)
        batch_size = whole("batch_size", batch_size, 1, MOST)
        model, process = self.chain(num_inference_steps)
        told = self.check_conditions(checked_conditions(conditions, batch_size))
        result = sample(
            model, process, self.shape, batch_size, draft=self._draft, window=self._window, seed=seed,
            batch=num_at_once, conditions=told, device=self.device, on_progress=on_progress,
        )  # fmt: skip
        return Images(converted(result.samples, output_type), result.stats)

    def check_conditions(self, conditions: torch.Tensor | None) -> torch.Tensor | None:
        """What the model is told; OutpaceError where it needs other classes, or none."""
        needs = needs_labels(self._model)
        if conditions is None and needs:
            raise OutpaceError(
                "the model is told classes; accepted is conditions=labels, one for each sample"
            )
        if conditions is not None and not needs and type(self._model).__name__ == "UNet2DModel":
            raise OutpaceError("the model is told no classes, accepted is conditions=None")
        num_classes = getattr(getattr(self._model, "config", None), "num_class_embeds", None)
        if conditions is None or not isinstance(num_classes, int) or conditions.ndim != 1:
            return conditions
        labels = conditions.long()
        if conditions.dtype not in INTEGERS or labels.min() < 0 or labels.max() >= num_classes:
            given = shown(conditions.tolist())
            raise OutpaceError(f"conditions are {given}, accepted are classes from 0 to {num_classes - 1}")
        return labels

    def chain(self, num_inference_steps: int) -> tuple[Model, Denoising]:
        """What `sample` is to be given: the model and the process of so many steps."""
        timed = with_timesteps(self._scheduler, num_inference_steps)
        return _Called(self._model, self._dtype, timed.timesteps.dtype), process_of(timed)


class _Called:
    """A model as `sample` calls it: f32 on either side, timesteps as its scheduler has them.

    Many of these may call one model; they take its turns (`__wrapped__`).
    """

    def __init__(self, model: Callable[..., Any], dtype: torch.dtype, time_dtype: torch.dtype) -> None:
        self.__wrapped__, self._dtype, self._time_dtype = model, dtype, time_dtype

    def __call__(self, inputs: torch.Tensor, times: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        given = [condition.to(inputs.device) for condition in conditions]
        output = self.__wrapped__(inputs.to(self._dtype), times.to(self._time_dtype), *given)
        if not isinstance(output, torch.Tensor):
            output = getattr(output, "sample", output)
        return output.to(inputs.dtype) if isinstance(output, torch.Tensor) else output


def _parts(pipeline: Any) -> Mapping[str, Any] | None:
    """Of a pipeline, its models and scheduler by name; of anything else None."""
    components = getattr(pipeline, "components", None)
    if isinstance(components, Mapping):
        return {name: part for name, part in components.items() if part is not None}
    if hasattr(pipeline, "unet") and hasattr(pipeline, "scheduler"):
        return {"unet": pipeline.unet, "scheduler": pipeline.scheduler}
    return None
