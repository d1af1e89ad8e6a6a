"""A mixture of Gaussians, whose exact denoiser is known: a diffusion model without training or file.

Clean samples are of sum_k w_k N(m_k, s^2 I). At a level (alpha, sigma), with v = alpha^2 s^2 + sigma^2,

    state                 ~  sum_k w_k N(alpha m_k, v I)
    E[clean | state]      =  sum_k r_k (m_k + alpha s^2 / v (state - alpha m_k))
    r_k                 prop. w_k exp(-|state - alpha m_k|^2 / (2 v))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from outpace.core.errors import OutpaceError
from outpace.core.options import accept, checked, shown, whole
from outpace.diffusion.checks import MOST, checked_numbers, checked_part, enough_memory
from outpace.diffusion.process import Model
from outpace.diffusion.schedules import PREDICTIONS, Levels


class GaussianMixture:
    """sum_k weights[k] N(means[k], width^2 I); all computed in f64.

    means    [K, D]. width > 0, the same for all. weights: [K] positive numbers, or equal ones.
    """

    def __init__(self, means: torch.Tensor, width: float, weights: Sequence[float] | None = None) -> None:
        try:
            self.means = torch.as_tensor(means, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise OutpaceError(f"means are {shown(means)}, accepted are finite numbers [K, D]") from None
        width = accept("width", width, float)
        if self.means.ndim != 2 or not self.means.numel() or not self.means.isfinite().all():
            shape = tuple(self.means.shape)
            raise OutpaceError(f"means of shape {shape} are not accepted: finite numbers [K, D] are")
        if not 0 < width < float("inf"):
            raise OutpaceError(f"width is {width:g}, accepted are finite numbers > 0")
        num = len(self.means)
        given = torch.tensor([1.0] * num if weights is None else checked_numbers("weights", weights)).double()
        if given.shape != (num,) or not (given.isfinite() & (given > 0)).all():
            raise OutpaceError(f"weights are not accepted: {num} finite numbers > 0 are, one for each mean")
        self.width, self.weights = width, given / given.sum()

    @classmethod
    @checked
    def random(
        cls, dimensions: int, components: int, *, width: float = 0.3, seed: int = 0
    ) -> GaussianMixture:
        """Standard normal means, equal weights."""
        components = whole("components", components, 1, MOST)
        dimensions = whole("dimensions", dimensions, 1, MOST)
        source = torch.Generator().manual_seed(seed)
        with enough_memory(f"{components} components of {dimensions} dimensions"):
            drawn = torch.randn(components, dimensions, generator=source, dtype=torch.float64)
        return cls(drawn, width)

    @checked
    def draw(self, num: int, *, seed: int = 0) -> torch.Tensor:
        """f64[num, D]: samples of the mixture itself."""
        num, source = whole("num", num, 1, MOST), torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(self.weights, num, replacement=True, generator=source)
        noise = torch.randn(num, self.means.shape[1], generator=source, dtype=torch.float64)
        return self.means[chosen] + self.width * noise

    def clean(self, states: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """f64[n, D]: the expected clean samples of states f64[n, D] at levels f64[n].

        Raises OutpaceError for states of other dimensions.
        """
        if states.ndim != 2 or states.shape[1] != self.means.shape[1]:
            accepted = f"[n, {self.means.shape[1]}]"
            raise OutpaceError(f"states of shape {tuple(states.shape)} are not accepted: {accepted} are")
        alpha, sigma = alpha[:, None], sigma[:, None]
        variance = (alpha * self.width) ** 2 + sigma**2
        means = self.means.to(states.device)
        gaps = states[:, None] - alpha[..., None] * means  # [n, K, D]
        logits = self.weights.to(states.device).log() - gaps.square().sum(2) / (2 * variance)
        shrunk = means + (alpha * self.width**2 / variance)[..., None] * gaps
        return (logits.softmax(1)[..., None] * shrunk).sum(1)

    @checked
    def denoiser(self, levels: Levels, *, prediction: str = "epsilon") -> Model:
        """The exact model of a chain with these levels and this prediction, by its times."""
        checked_part("levels", levels, Levels, "those of variance_preserving(50)")
        if prediction not in PREDICTIONS:
            raise OutpaceError(f"prediction is {prediction!r}, accepted are {', '.join(PREDICTIONS)}")
        if prediction == "epsilon" and levels.alphas[0] == 0:
            raise OutpaceError(
                "step 0 has alpha 0, where epsilon says nothing; accepted is another prediction"
            )
        times, alphas, sigmas = (
            torch.tensor(values[: len(levels.times)], dtype=torch.float64)
            for values in (levels.times, levels.alphas, levels.sigmas)
        )
        parts = torch.tensor(
            [PREDICTIONS[prediction](*level) for level in zip(alphas.tolist(), sigmas.tolist(), strict=True)],
            dtype=torch.float64,
        )

        def model(inputs: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
            step = (told.cpu().double()[:, None] - times).abs().argmin(1)
            states = inputs.double()
            alpha, sigma = alphas[step].to(states.device), sigmas[step].to(states.device)
            from_state, from_output = parts[step].to(states.device).T[..., None]
            outputs = (self.clean(states, alpha, sigma) - from_state * states) / from_output
            return outputs.to(inputs.dtype)

        return model
