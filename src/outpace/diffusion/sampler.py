"""Speculative sampling of a diffusion model: draft a window of steps, judge all of them in one call.

De Bortoli, Galashov, Gretton & Doucet 2025, arXiv:2501.05370, algorithm 3, for many samples at once:

    draft    y~1 ... y~L from the sample's state, with means m_p
    verify   the model at y~0 ... y~(L-1), of all samples, in ONE call; it gives the means m_q
    couple   each step (`coupling.py`) up to the first that is not accepted, which is repaired
    commit   these steps, at least one

The samples have exactly the law of plain sampling, whatever the draft. Every sample goes at its own pace;
one that is done makes room for the next. Noise depends on (seed, sample, step) alone, so that a sample is
the same in every batch, and the same for every window and draft wherever the drafts' means are the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from outpace.core.errors import OutpaceError
from outpace.core.options import checked, whole
from outpace.diffusion.checks import (
    MOST,
    checked_conditions,
    checked_device,
    checked_dtype,
    checked_function,
    checked_part,
    checked_shape,
    enough_memory,
)
from outpace.diffusion.coupling import couple
from outpace.diffusion.drafts import Draft
from outpace.diffusion.memory import Memory, Proposal, Round
from outpace.diffusion.names import make_draft, make_window
from outpace.diffusion.noise import MOST_AHEAD, PRIOR, Noise, Tape
from outpace.diffusion.plain import sample_plainly
from outpace.diffusion.process import Model, Process, evaluated
from outpace.diffusion.stats import Stats
from outpace.diffusion.windows import Record, Window
from outpace.pricing import clock


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples [num, *S] and what they have cost."""

    samples: torch.Tensor
    stats: Stats


@torch.no_grad()
@checked
def sample(
    model: Model,
    process: Process,
    shape: Sequence[int],
    num: int = 1,
    *,
    draft: Draft | str | None = None,
    window: Window | int | str = 8,
    seed: int = 0,
    batch: int | None = None,
    conditions: torch.Tensor | Sequence[Any] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Samples of a process, each of this shape.

    model        model(inputs [n, *S], times [n]) -> [n, *S], row by row; with conditions, a third argument.
    draft        one, or its name (see `names.py`); None samples plainly: one call a step.
    window       how many steps a round drafts; a number is a fixed one.
    batch        so many samples at a time; all if None. A call has up to batch * (window + 1) states.
    conditions   [num, ...]: what the model is told of each sample; a tensor, an array or a list.
    on_progress  is told (steps done, steps in all) after every round.

    Raises OutpaceError where the model's output has another shape or is not finite, naming the step, and
    where a sample leaves the numbers of its type.
    """
    checked_function("model", model)
    checked_part("process", process, Process, "those that chain(...) makes")
    num = whole("num", num, 1, MOST)
    batch = num if batch is None else min(whole("batch", batch, 1, MOST), num)
    size, told = checked_shape(shape, num), checked_conditions(conditions, num)
    dtype, where = checked_dtype(dtype), checked_device(device)
    draft = make_draft(draft)
    window = make_window(1 if draft is None else window)
    noise = Noise(seed)
    began = clock.now()
    with enough_memory(f"{batch} samples of shape {size} at a time"):
        stats = Stats.zero(len(process.sigmas), num, window.most)
        if draft is None:
            samples = sample_plainly(
                model, process, noise, size, batch, told, stats,
                dtype=dtype, device=where, on_progress=on_progress,
            )  # fmt: skip
        else:
            run = _Run(model, process, draft, window, noise, told, stats)
            samples = run.all(size, batch, dtype, where, on_progress)
    if not samples.isfinite().all():
        number = int((~samples.flatten(1).isfinite().all(1)).nonzero()[0])
        raise OutpaceError(f"sample {number} is not finite: the model's output is too large for {dtype}")
    stats.wall_s = clock.now() - began
    return Samples(samples, stats)


@dataclass(slots=True)
class _Rows:
    """The samples under way: numbers i64[B], states [B, *S], steps i64[B], and what is known of them."""

    samples: torch.Tensor
    states: torch.Tensor
    steps: torch.Tensor
    tape: Tape
    memory: Memory
    record: Record


class _Run:
    """One call of `sample`."""

    def __init__(
        self,
        model: Model,
        process: Process,
        draft: Draft,
        window: Window,
        noise: Noise,
        conditions: torch.Tensor | None,
        stats: Stats,
    ) -> None:
        self._model, self._process = model, process
        self._draft, self._window = draft, window
        self._noise, self._conditions = noise, conditions
        self.stats, self._ahead = stats, False
        self._calls = torch.tensor(
            [draft.num_calls(length + 1) for length in range(window.most)], dtype=torch.float64
        )

    def all(
        self,
        shape: tuple[int, ...],
        batch: int,
        dtype: torch.dtype,
        device: torch.device,
        on_progress: Callable[[int, int], None] | None,
    ) -> torch.Tensor:
        """[num, *S]: the samples."""
        num, num_steps = len(self.stats.evaluations), self.stats.num_steps
        finished = torch.empty(num, *shape, dtype=dtype, device=device)
        self._ahead = batch * num_steps * finished[0].numel() <= MOST_AHEAD
        rows, begun, done = self._first(0, batch, shape, dtype, device), batch, 0
        while len(rows.samples):
            done += self._round(rows)
            if on_progress is not None:
                on_progress(done, num * num_steps)
            going = rows.steps < num_steps
            if going.all():
                continue
            finished[rows.samples[~going]] = rows.states[~going]
            new = self._first(begun, min(int((~going).sum()), num - begun), shape, dtype, device)
            begun += len(new.samples)
            rows = _Rows(
                torch.cat([rows.samples[going], new.samples]),
                torch.cat([rows.states[going], new.states]),
                torch.cat([rows.steps[going], new.steps]),
                rows.tape.rows(going, new.tape),
                rows.memory.rows(going).joined(new.memory),
                rows.record.rows(going, len(new.samples)),
            )
        return finished

    def _first(
        self, begin: int, num: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> _Rows:
        """Samples `begin`, `begin` + 1, ... before their first step."""
        numbers = torch.arange(begin, begin + num, device=device)
        noise = self._noise.normal(numbers, torch.full_like(numbers, PRIOR), shape, dtype=dtype)
        states = self._process.prior(noise)
        tape = Tape.of(self._noise, numbers, self.stats.num_steps, shape, dtype, ahead=self._ahead)
        steps, memory = torch.zeros_like(numbers), Memory.empty(states)
        return _Rows(numbers, states, steps, tape, memory, Record(num, device))

    def _round(self, rows: _Rows) -> int:
        """Draft, verify, couple, commit; returns the number of steps taken."""
        lengths = self._window.lengths(rows.record, self._calls.to(rows.steps.device))
        lengths = torch.minimum(lengths, self.stats.num_steps - rows.steps)
        positions = torch.arange(int(lengths.max()), device=rows.steps.device)
        steps = (rows.steps[:, None] + positions).clamp_max(self.stats.num_steps - 1)
        noise = rows.tape.normal(steps)
        round = Round(
            self._process, rows.states, rows.steps, lengths, noise, rows.samples,
            self._told(rows.samples), rows.memory, lambda *where: self._evaluate(rows.samples, *where),
        )  # fmt: skip
        proposal = self._draft.propose(round)
        outputs, count = self._verify(round, proposal)
        samples, accepted = self._couple(rows.tape.uniform(steps), steps, proposal, outputs, noise)
        accepted &= positions < lengths[:, None]
        kept = accepted.long().cumprod(1).sum(1)
        taken = torch.minimum(kept + 1, lengths)
        self._count(rows, steps, accepted, taken)
        rows.states = samples[torch.arange(len(taken), device=taken.device), taken - 1]
        rows.memory = Memory(
            proposal.states, outputs, rows.steps, count, taken, (kept == lengths) & (count > lengths)
        )
        rows.steps = rows.steps + taken
        return int(taken.sum())

    def _verify(self, round: Round, proposal: Proposal) -> tuple[torch.Tensor, torch.Tensor]:
        """(outputs [B, L + 1, *S] at the drafted states, i64[B]: how many of them, from the first, it has).

        One call, or none where only the states of the rows are asked for and known.
        """
        left = self.stats.num_steps - round.steps
        ahead = (left > round.lengths).long() if self._draft.looks_ahead else torch.zeros_like(left)
        count = round.lengths + ahead
        wanted = torch.arange(proposal.states.shape[1], device=count.device) < count[:, None]
        outputs = torch.zeros_like(proposal.states)
        exact = round.memory.exact
        outputs[exact, 0] = round.memory.at(round.memory.committed)[1][exact]
        wanted[:, 0] &= ~exact
        rows, positions = wanted.nonzero(as_tuple=True)
        if len(rows):
            outputs[rows, positions] = round.evaluate(
                proposal.states[rows, positions], round.steps[rows] + positions, rows
            )
            self.stats.verification_calls[torch.unique(round.samples[rows]).cpu()] += 1
        return outputs, count

    def _couple(
        self,
        coins: torch.Tensor,
        steps: torch.Tensor,
        proposal: Proposal,
        outputs: torch.Tensor,
        noise: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(samples [B, L, *S], accepted bool[B, L]) of the target's steps i64[B, L] from drafted states."""
        flat = steps.flatten()
        states = proposal.states[:, :-1].flatten(0, 1)
        predictions = self._process.predict(states, outputs[:, :-1].flatten(0, 1), flat)
        means = self._process.step(states, predictions, flat)
        sigma = self._process.sigmas.to(flat.device)[flat]
        samples, accepted = couple(
            noise.flatten(0, 1), proposal.means.flatten(0, 1), means, sigma, coins.flatten()
        )
        return samples.reshape(noise.shape), accepted.reshape(steps.shape)

    def _evaluate(
        self, samples: torch.Tensor, states: torch.Tensor, steps: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """[n, *S]: one call of the target at states of these rows."""
        outputs = evaluated(self._model, self._process, states, steps, self._told(samples[rows]))
        self.stats.count_call(samples[rows])
        return outputs

    def _told(self, samples: torch.Tensor) -> torch.Tensor | None:
        """[n, ...]: the conditions of these samples."""
        return None if self._conditions is None else self._conditions[samples.to(self._conditions.device)]

    def _count(self, rows: _Rows, steps: torch.Tensor, accepted: torch.Tensor, taken: torch.Tensor) -> None:
        """Acceptance, for the statistics and for the windows."""
        noisy = self._process.sigmas.to(steps.device)[steps] > 0
        tested = (torch.arange(steps.shape[1], device=steps.device) < taken[:, None]) & noisy
        kept = tested & accepted
        self.stats.count_drafts(tested, kept)
        rows.record.learn(tested.sum(1), kept.sum(1))
