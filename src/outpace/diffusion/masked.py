"""Speculative sampling of masked (absorbing) diffusion: draft some unmasking steps, judge them in one call.

The chain of D3PM (arXiv:2107.03006) and MDLM (arXiv:2406.07524): a step unmasks some positions, chosen apart
from the model (`unmasking.py`), and draws their tokens independently of each other, given the state before.

    draft    the tokens of the next L steps, all from the logits of the last verified state
    verify   the model at y~0 ... y~(L-1), partly drafted, of all samples, in ONE call
    judge    every token of a step (`masked_rules.py`), up to the first step with a token that is not kept
    commit   these steps, at least one, the last one repaired; drafts beyond it saw another state

Speculation by token is from Leviathan et al. 2022 (arXiv:2211.17192), the window that ends with its first
repair from De Bortoli et al. 2025 (arXiv:2501.05370). A step that unmasks nothing needs no call, here or in
plain sampling: it takes no place in a window and is not in `Stats.plain_calls`. A sample's first step is
drawn from the model itself; no draft is judged there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from outpace.core.errors import OutpaceError
from outpace.core.options import checked, shown, whole
from outpace.core.sampling import fresh_seed
from outpace.diffusion.checks import (
    MOST,
    checked_conditions,
    checked_device,
    checked_function,
    checked_part,
    checked_shape,
    enough_memory,
)
from outpace.diffusion.masked_rules import Draws, Match, Rule
from outpace.diffusion.names import make_window
from outpace.diffusion.noise import Noise
from outpace.diffusion.process import Model, turns_of_model
from outpace.diffusion.sampler import Samples
from outpace.diffusion.stats import Stats
from outpace.diffusion.unmasking import Schedule
from outpace.diffusion.windows import Record, Window
from outpace.pricing import clock


@torch.no_grad()
@checked
def sample_masked(
    model: Model,
    schedule: Schedule,
    length: int,
    num: int = 1,
    *,
    mask_id: int,
    rule: Rule | None = None,
    window: Window | int | str = 8,
    temperature: float = 1.0,
    seed: int = 0,
    batch: int | None = None,
    partial: torch.Tensor | None = None,
    conditions: torch.Tensor | Sequence[Any] | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Sequences i64[num, length] of a masked diffusion model.

    model        model(tokens i64[n, length], times f32[n]) -> logits [n, length, V], row by row; with
                 conditions, a third argument.
    mask_id      0 to V. Its logit, if it has one, is not used: no position is unmasked to it.
    rule         `Match` or `Speculative`; None samples plainly, a call for each step that unmasks something.
    window       how many of these steps a round drafts; a number is a fixed one, a name as in `names.py`.
    temperature  >= 0; tokens are drawn from softmax(logits / temperature), the likeliest at 0.
    batch        so many samples at a time; all if None. A call has up to batch * window states.
    partial      i64[num, length]: mask_id where a token is wanted, other tokens stay. None: all masked.
    conditions   [num, ...]: what the model is told of each sample.
    on_progress  is told (steps done, steps in all) after every round, of those that unmask something.

    Raises OutpaceError where the logits have another shape or are no law, naming the step.
    """
    checked_function("model", model)
    checked_part("schedule", schedule, Schedule, "OneByOne()")
    num, length = whole("num", num, 1, MOST), whole("length", length, 1, MOST)
    batch = num if batch is None else whole("batch", batch, 1, MOST)
    checked_shape((length,), num)
    if mask_id < 0:
        raise OutpaceError(f"mask_id is {mask_id}, accepted are 0 to the size of the vocabulary")
    if not 0 <= temperature < math.inf:
        raise OutpaceError(f"temperature is {temperature}, accepted are finite numbers >= 0")
    told, where = checked_conditions(conditions, num), checked_device(device)
    if rule is None:
        rule, window = Match(), 1
    checked_part("rule", rule, Rule, "Match()")
    made = make_window(window)
    began = clock.now()
    with enough_memory(f"{min(batch, num)} samples of {length} tokens at a time"):
        tokens = _begun(partial, num, length, mask_id).to(where, copy=True)
        run = _Run(model, schedule, tokens, mask_id, rule, made, temperature, seed, told)
        run.all(batch, on_progress)
    run.stats.wall_s = clock.now() - began
    return Samples(tokens, run.stats)


def _begun(partial: torch.Tensor | None, num: int, length: int, mask_id: int) -> torch.Tensor:
    """i64[num, length]: what is known of the sequences."""
    if partial is None:
        return torch.full((num, length), mask_id)
    if (
        not isinstance(partial, torch.Tensor)
        or partial.dtype != torch.int64
        or partial.shape != (num, length)
    ):
        tensor = isinstance(partial, torch.Tensor)
        given = f"{partial.dtype} {tuple(partial.shape)}" if tensor else shown(partial)
        raise OutpaceError(f"partial is {given}, accepted is torch.int64 {(num, length)}")
    if partial.min() < 0:
        raise OutpaceError(f"partial has the token {int(partial.min())}, accepted are numbers >= 0")
    return partial


@dataclass(slots=True)
class _Rows:
    """The samples under way: numbers i64[B], logits [B, length, V] that drafts come from, past acceptance."""

    samples: torch.Tensor
    logits: torch.Tensor
    record: Record


class _Run:
    """One call of `sample_masked`, on tokens i64[num, length] which it fills in.

    Steps are counted among those that unmask something, sample by sample: `order` i64[num, length] is the
    step of each position (-1: known from the start), `done` i64[num] the number of steps taken. What stands
    at a position whose step is to come has no meaning, and the model never sees it.
    """

    def __init__(
        self,
        model: Model,
        schedule: Schedule,
        tokens: torch.Tensor,
        mask_id: int,
        rule: Rule,
        window: Window,
        temperature: float,
        seed: int,
        conditions: torch.Tensor | None,
    ) -> None:
        self._model, self._conditions = model, conditions
        self._rule, self._window = rule, window
        self._mask_id, self._temperature, self._seed = mask_id, temperature, seed
        self._tokens = tokens
        self._times = schedule.times(tokens.shape[1]).to(tokens.device)
        places = torch.ones_like(tokens).nonzero(as_tuple=True)
        uniform = Noise(fresh_seed(seed, "unmasking")).uniform(*places).reshape(tokens.shape)
        moments = schedule.moments(uniform, tokens == mask_id)
        self._order, self._moments, self._total = _compressed(moments, tokens == mask_id, len(self._times))
        self._done = torch.zeros_like(self._total)
        self.stats = Stats.zero(len(self._times), len(tokens), window.most)
        self.stats.plain_calls = self._total.cpu()

    def all(self, batch: int, on_progress: Callable[[int, int], None] | None) -> None:
        """Take every sample to its end."""
        waiting = self._total.nonzero()[:, 0]
        new, waiting = waiting[:batch], waiting[batch:]
        nothing = torch.zeros(len(new), self._tokens.shape[1], 1, device=new.device)
        rows = _Rows(new, nothing, Record(len(new), new.device))
        while len(rows.samples):
            with turns_of_model(self._model):  # what it returned may be written over by its next call
                self._round(rows)
            if on_progress is not None:
                on_progress(int(self._done.sum()), int(self._total.sum()))
            going = self._done[rows.samples] < self._total[rows.samples]
            if going.all():
                continue
            free = batch - int(going.sum())
            new, waiting = waiting[:free], waiting[free:]
            rows = _Rows(
                torch.cat([rows.samples[going], new]),
                torch.cat([rows.logits[going], rows.logits.new_zeros(len(new), *rows.logits.shape[1:])]),
                rows.record.rows(going, len(new)),
            )

    def _round(self, rows: _Rows) -> None:
        """Draft, verify, judge, commit."""
        samples, done = rows.samples, self._done[rows.samples]
        begins = done == 0
        calls = torch.ones(self._window.most, dtype=torch.float64, device=done.device)
        lengths = torch.minimum(self._window.lengths(rows.record, calls), self._total[samples] - done)
        lengths = lengths.masked_fill(begins, 1)
        ahead = self._order[samples] - done[:, None]  # the place in the window of each position's step
        wanted = (ahead >= 0) & (ahead < lengths[:, None])
        tokens = self._tokens[samples]

        drafted = (wanted & ~begins[:, None]).nonzero(as_tuple=True)
        draws = Draws(self._seed, samples[drafted[0]], drafted[1])
        draft = self._law(rows.logits[drafted])
        tokens[drafted] = draws.choose(draft)

        logits, index = self._verify(samples, tokens, ahead, lengths)
        target = self._law(logits[index[drafted[0], ahead[drafted]], drafted[1]])
        tokens[drafted], kept = self._rule.judge(target, draft, tokens[drafted], draws)

        first = (wanted & begins[:, None]).nonzero(as_tuple=True)
        target = self._law(logits[index[first[0], 0], first[1]])
        tokens[first] = Draws(self._seed, samples[first[0]], first[1]).choose(target)

        accepted = torch.arange(index.shape[1], device=done.device) < lengths[:, None]
        accepted[drafted[0][~kept], ahead[drafted][~kept]] = False
        taken = torch.minimum(accepted.long().cumprod(1).sum(1) + 1, lengths)
        self._tokens[samples] = tokens
        self._done[samples] = done + taken
        rows.logits = logits[index.gather(1, taken[:, None] - 1)[:, 0]]
        self._count(rows, accepted, taken.masked_fill(begins, 0))

    def _verify(
        self, samples: torch.Tensor, tokens: torch.Tensor, ahead: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits [n, length, V], i64[B, L]: which of them are those before each step of the windows)."""
        places = torch.arange(int(lengths.max()), device=lengths.device)
        row, place = (places < lengths[:, None]).nonzero(as_tuple=True)
        index = torch.zeros(len(lengths), len(places), dtype=torch.int64, device=lengths.device)
        index[row, place] = torch.arange(len(row), device=lengths.device)
        states = tokens[row].masked_fill(ahead[row] >= place[:, None], self._mask_id)
        steps = self._moments[samples[row], self._done[samples[row]] + place]
        later = samples[self._done[samples] > 0].cpu()
        self.stats.verification_calls[later] += 1
        return self._evaluate(states, samples[row], steps), index

    def _evaluate(self, states: torch.Tensor, samples: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """[n, length, V]: one call of the model at partly masked states of these samples."""
        times = self._times[steps]
        given = () if self._conditions is None else (self._conditions[samples.to(self._conditions.device)],)
        logits = self._model(states, times.float(), *given)
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or logits.shape[:2] != states.shape:
            asked = f"({states.shape[0]}, {states.shape[1]}, vocabulary)"
            raise OutpaceError(f"step {int(steps[0])}: the model's logits are {shape}, accepted is {asked}")
        size = logits.shape[2]
        if self._mask_id > size or size == (self._mask_id == 0):
            raise OutpaceError(
                f"mask_id is {self._mask_id} in a vocabulary of {size}, accepted are 0 to its size if it has"
                " another token"
            )
        others = (logits[..., : self._mask_id], logits[..., self._mask_id + 1 :])
        top = torch.stack([part.amax(2) for part in others if part.shape[2]]).amax(0)
        bad = (states == self._mask_id) & ~top.isfinite()
        if bad.any():
            state, position = (int(place[0]) for place in bad.nonzero(as_tuple=True))
            where = f"step {int(steps[state])} of {len(self._times)} (time {float(times[state]):g})"
            raise OutpaceError(
                f"{where}: the largest logit at position {position} is {float(top[state, position])},"
                " accepted are finite numbers, or -inf for some tokens"
            )
        self.stats.count_call(samples)
        return logits

    def _law(self, logits: torch.Tensor) -> torch.Tensor:
        """f64[T, V]: logarithms of the laws of tokens, up to a constant; -inf for the mask."""
        logs = logits.double()
        if self._mask_id < logs.shape[1]:
            logs = logs.index_fill(1, torch.tensor(self._mask_id, device=logs.device), -math.inf)
        logs = logs - logs.amax(1, keepdim=True)  # no temperature overflows
        if self._temperature > 0:
            return logs / self._temperature
        return torch.full_like(logs, -math.inf).scatter(1, logs.argmax(1, keepdim=True), 0.0)

    def _count(self, rows: _Rows, accepted: torch.Tensor, judged: torch.Tensor) -> None:
        """Acceptance by step, for the statistics and for the windows. judged: i64[B], the steps that were."""
        tested = torch.arange(accepted.shape[1], device=judged.device) < judged[:, None]
        self.stats.count_drafts(tested, tested & accepted)
        rows.record.learn(tested.sum(1), (tested & accepted).sum(1))


def _compressed(
    moments: torch.Tensor, masked: torch.Tensor, num_steps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(order i64[num, length], moments i64[num, N], total i64[num]): without the steps that unmask nothing.

    order: the rank of each position's step, -1 if it is not masked. moments: the steps that are left.
    """
    moments = moments.masked_fill(~masked, 0)
    happens = torch.zeros(len(moments), num_steps, dtype=torch.bool, device=moments.device)
    happens[masked.nonzero()[:, 0], moments[masked]] = True
    order = (happens.long().cumsum(1) - 1).gather(1, moments).masked_fill(~masked, -1)
    left = (~happens).long().argsort(dim=1, stable=True)
    return order, left, happens.sum(1)
