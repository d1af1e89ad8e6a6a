"""Rules for drafted tokens of a masked sequence: keep them, or put the model's own in their place.

`Match`: tokens are the argmax of logits and Gumbel noise that is a function of (seed, sample, position,
token). Draft and model share the noise, and a draft is kept if it is what the model chooses. `Speculative`:
Leviathan, Kalman & Matias 2022, arXiv:2211.17192. Keep a draft x from q with chance min(1, p(x) / q(x)),
else draw from max(p - q, 0); no rule keeps more. Its coin and its second draw have noise of their own.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from outpace.core.sampling import fresh_seed
from outpace.core.steps import Exactness
from outpace.diffusion.noise import Noise


class Draws:
    """The noise of tokens at T places: of samples i64[T], at positions i64[T].

    A draft that was discarded with an earlier step is drawn again from the same noise. That is no bias: what
    had been judged by then depends on the noise of other positions only.
    """

    def __init__(self, seed: int, samples: torch.Tensor, positions: torch.Tensor) -> None:
        self._seed = seed
        self._places = samples, positions
        self._noise: torch.Tensor | None = None

    def choose(self, logs: torch.Tensor) -> torch.Tensor:
        """i64[T]: draws from laws whose logarithms are f64[T, V]; alike where the laws are alike."""
        if self._noise is None:
            self._noise = Noise(self._seed).gumbel(*self._places, logs.shape[1])
        return (logs + self._noise).argmax(1)

    def choose_again(self, logs: torch.Tensor) -> torch.Tensor:
        """i64[T]: independent of `choose`."""
        noise = Noise(fresh_seed(self._seed, "unmasking again")).gumbel(*self._places, logs.shape[1])
        return (logs + noise).argmax(1)

    def coins(self) -> torch.Tensor:
        """f64[T]: uniform in (0, 1), independent of both."""
        return Noise(self._seed).uniform(*self._places)


@runtime_checkable
class Rule(Protocol):
    """What becomes of drafted tokens."""

    @property
    def exactness(self) -> Exactness:
        """What it promises, as the rules of text do."""

    def judge(
        self, target: torch.Tensor, draft: torch.Tensor, tokens: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens i64[T] with the law of the target, bool[T]: whether it is the drafted one that was kept).

        target, draft: f64[T, V], logarithms of laws up to a constant of each. tokens: draws.choose(draft).
        """


class Match:
    """The tokens of plain sampling with the same seed."""

    exactness: Exactness = "identical"

    def judge(
        self, target: torch.Tensor, draft: torch.Tensor, tokens: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Kept if it is the target's choice, which it becomes in any case."""
        chosen = draws.choose(target)
        return chosen, chosen == tokens


class Speculative:
    """The law of plain sampling; keeps the most drafts that can be kept."""

    exactness: Exactness = "distribution"

    def judge(
        self, target: torch.Tensor, draft: torch.Tensor, tokens: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Kept with chance min(1, p/q), else drawn from what p has beyond q."""
        p, q = target.softmax(1), draft.softmax(1)
        rest = (p - q).clamp_min(0)
        p_drafted, q_drafted = (law.gather(1, tokens[:, None])[:, 0] for law in (p, q))
        equal = (rest == 0).all(1)
        kept = (draws.coins() * q_drafted < p_drafted) | equal
        return torch.where(kept, tokens, draws.choose_again(rest.log())), kept
