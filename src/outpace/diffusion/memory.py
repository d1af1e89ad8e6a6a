"""Where the model has been evaluated in the last round, and a round as a draft sees it.

The noise of a step is a function of (seed, sample, step): a draft of step n may use whatever was computed
from noise before step n, even from states that were rejected, and nothing that came of later noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from outpace.diffusion.process import Process

Evaluate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(states [n, *S], steps i64[n], rows i64[n]) -> outputs [n, *S]: one call of the model, counted by row."""


@dataclass(slots=True)
class Memory:
    """Evaluations of each row at consecutive steps, M at most.

    states, outputs  [B, M, *S]; entry j is of step first + j, and counts if j < count
    committed        i64[B]: entry `committed` is of the row's own step
    exact            bool[B]: entry `committed` is of the row's own state. Entries before it always lie on the
                     row's path, entries from it on are of drafted states otherwise.
    """

    states: torch.Tensor
    outputs: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor
    committed: torch.Tensor
    exact: torch.Tensor

    @classmethod
    def empty(cls, states: torch.Tensor) -> Memory:
        """Of rows that have not been evaluated. states: [B, *S]."""
        slots, zero = states[:, None], states.new_zeros(len(states), dtype=torch.int64)
        return cls(slots, torch.zeros_like(slots), zero, zero, zero, zero.bool())

    def at(self, entry: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(states [B, *S], outputs [B, *S], steps i64[B]) of one entry of each row."""
        rows = torch.arange(len(entry), device=entry.device)
        return self.states[rows, entry], self.outputs[rows, entry], self.first + entry

    def rows(self, chosen: torch.Tensor) -> Memory:
        """Of some rows only."""
        return Memory(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def joined(self, other: Memory) -> Memory:
        """The rows of both, one after another."""
        return Memory(
            *(_joined(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        )


def _joined(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    if one.ndim > 1 and one.shape[1] != two.shape[1]:
        slots = max(one.shape[1], two.shape[1])
        one, two = (_widened(values, slots) for values in (one, two))
    return torch.cat([one, two])


def _widened(values: torch.Tensor, slots: int) -> torch.Tensor:
    missing = values.new_zeros(len(values), slots - values.shape[1], *values.shape[2:])
    return torch.cat([values, missing], 1)


@dataclass(slots=True)
class Round:
    """B rows, each at a state of its own, for which up to L steps are to be drafted.

    states, steps  [B, *S], i64[B]
    lengths        i64[B]: so many steps are wanted; the largest is L
    noise          [B, L, *S]: of the steps; what lies beyond a row's length is never used
    samples        i64[B]: the samples' numbers
    conditions     [B, ...] or None: what the model is called with besides
    evaluate       calls the target
    """

    process: Process
    states: torch.Tensor
    steps: torch.Tensor
    lengths: torch.Tensor
    noise: torch.Tensor
    samples: torch.Tensor
    conditions: torch.Tensor | None
    memory: Memory
    evaluate: Evaluate

    def evaluate_roots(self, wanted: torch.Tensor) -> None:
        """One call at the states of these rows, bool[B], where it is not known; memory then has just that."""
        rows = (wanted & ~self.memory.exact).nonzero()[:, 0]
        if not len(rows):
            return
        memory = self.memory
        memory.states, memory.outputs = memory.states.clone(), memory.outputs.clone()
        memory.states[rows, 0] = self.states[rows]
        memory.outputs[rows, 0] = self.evaluate(self.states[rows], self.steps[rows], rows)
        memory.first = memory.first.index_copy(0, rows, self.steps[rows])
        memory.count = memory.count.index_fill(0, rows, 1)
        memory.committed = memory.committed.index_fill(0, rows, 0)
        memory.exact = memory.exact.index_fill(0, rows, True)

    def steps_at(self, position: int) -> torch.Tensor:
        """i64[B]: the steps at a position of the window, the chain's last one at most."""
        return (self.steps + position).clamp_max(len(self.process.sigmas) - 1)

    def roll(self, mean: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]) -> Proposal:
        """Draft by mean(position, states [B, *S], steps i64[B]) -> [B, *S] and the steps' noise."""
        states, means = [self.states], []
        positions = torch.arange(self.noise.shape[1], device=self.steps.device)
        steps = (self.steps[:, None] + positions).clamp_max(len(self.process.sigmas) - 1)
        sigmas = self.process.sigmas.to(steps.device, self.states.dtype)[steps]
        pushes = sigmas.reshape(*sigmas.shape, *[1] * (self.states.ndim - 1)) * self.noise
        for position, there in enumerate(steps.unbind(1)):
            means.append(mean(position, states[-1], there))
            states.append(means[-1] + pushes[:, position])
        return Proposal(torch.stack(states, 1), torch.stack(means, 1))


@dataclass(frozen=True, slots=True)
class Proposal:
    """Drafted states [B, L + 1, *S], the rows' own first, and the means [B, L, *S] of the steps between."""

    states: torch.Tensor
    means: torch.Tensor
