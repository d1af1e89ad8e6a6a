"""Drafts of denoising steps: their means come from what the model has said already, or from a cheaper model.

De Bortoli, Galashov, Gretton & Doucet 2025, arXiv:2501.05370, section 3.2 (frozen target, independent draft)
and its appendix (Picard sweeps). Reusing the last verification's outputs instead of a fresh evaluation is
known from implementations. A draft has the target's sigma and a mean of its own:

    Frozen       evaluate the model at the row's state, hold that over the window: two calls a round
    Stale        hold the last evaluation that lies on the row's path: one call a round
    Carried      one call a round, which has the window's last state too; then each step holds the evaluation
                 of its own time, though of a state that was rejected, and the last one beyond
    Independent  a cheaper model of the same chain
    Picard       another draft, corrected by sweeps: one more call for each

What is held is an object as well: the step's whole `Increment` (as in the paper), the model's raw `Output`,
or the process's `Prediction`, so that all that is affine in the state is computed anew. Exact in every case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from outpace.core.options import checked, whole
from outpace.diffusion.checks import MOST_STEPS, checked_function, checked_part
from outpace.diffusion.memory import Proposal, Round
from outpace.diffusion.process import Model, Process, evaluated

Known = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""States [B, *S], outputs [B, *S] there, steps i64[B]."""

Means = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(states [B, *S], steps i64[B]) -> [B, *S]: means of the next states."""


@runtime_checkable
class Draft(Protocol):
    """What proposes a window.

    looks_ahead  whether the verification should evaluate the last drafted state too: it is where the next
                 round begins if all is accepted.
    """

    looks_ahead: bool

    def propose(self, round: Round) -> Proposal:
        """Means that depend on each step's past alone, and the states that follow from them."""

    def num_calls(self, length: int) -> int:
        """Sequential calls of the target for a round of such a window, verification included."""


@runtime_checkable
class Held(Protocol):
    """What of an evaluation is held while the state moves on."""

    def hold(self, process: Process, known: Known) -> Means:
        """The means that follow from it, for other states and steps."""


class Increment:
    """The mean's distance from the state."""

    def hold(self, process: Process, known: Known) -> Means:
        """m(y, n) = y + m(y0, n0) - y0."""
        there, outputs, then = known
        increment = process.step(there, process.predict(there, outputs, then), then) - there
        return lambda states, steps: states + increment


class Output:
    """The model's output."""

    def hold(self, process: Process, known: Known) -> Means:
        """As if the model had said the same at this state and step."""
        return lambda states, steps: process.step(states, process.predict(states, known[1], steps), steps)


class Prediction:
    """The process's prediction, such as the clean sample."""

    def hold(self, process: Process, known: Known) -> Means:
        """As if the prediction were the same at this state and step."""
        predictions = process.predict(*known)
        return lambda states, steps: process.step(states, predictions, steps)


def _held(held: Held | None) -> Held:
    return Prediction() if held is None else checked_part("held", held, Held, "Prediction() and Output()")


class _OneCall:
    """What calls the target once a round."""

    looks_ahead = False

    def num_calls(self, length: int) -> int:
        """The verification."""
        return 1


class _Holding(_OneCall):
    """What holds a part of evaluations: a prediction unless told otherwise."""

    def __init__(self, held: Held | None = None) -> None:
        self._held = _held(held)


class Frozen(_Holding):
    """The evaluation at the row's own state: the window's first step is always accepted."""

    def propose(self, round: Round) -> Proposal:
        """One call, then none."""
        round.evaluate_roots(torch.ones_like(round.memory.exact))
        means = self._held.hold(round.process, round.memory.at(round.memory.committed))
        return round.roll(lambda _, *where: means(*where))

    def num_calls(self, length: int) -> int:
        """Root and verification; the root alone verifies a single step."""
        return min(length, 2)


class Stale(_Holding):
    """The evaluation at the last state of the row's path that the last verification has seen."""

    def propose(self, round: Round) -> Proposal:
        """One call for rows that begin, otherwise none."""
        round.evaluate_roots(round.memory.count == 0)
        known = round.memory.at(round.memory.committed - (~round.memory.exact).long())
        means = self._held.hold(round.process, known)
        return round.roll(lambda _, *where: means(*where))


class Carried(_Holding):
    """The last round's evaluations, each for the step that it was made for."""

    looks_ahead = True

    def propose(self, round: Round) -> Proposal:
        """One call for rows that begin, otherwise none."""
        round.evaluate_roots(round.memory.count == 0)
        memory = round.memory

        def mean(position: int, states: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            known = memory.at(torch.minimum(memory.committed + position, memory.count - 1))
            return self._held.hold(round.process, known)(states, steps)

        return round.roll(mean)


class Independent(_OneCall):
    """A cheaper model of the same process: its own step after its own step.

    model  as the target: model(inputs, times) or model(inputs, times, conditions).
    """

    def __init__(self, model: Model) -> None:
        self._model = checked_function("model", model)

    def propose(self, round: Round) -> Proposal:
        """As many calls of the cheap model as there are steps, none of the target."""

        def mean(position: int, states: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            rows = (position < round.lengths).nonzero()[:, 0]
            given = None if round.conditions is None else round.conditions[rows.to(round.conditions.device)]
            outputs = torch.zeros_like(states)
            outputs[rows] = evaluated(
                self._model, round.process, states[rows], steps[rows], given, name="draft model"
            )
            return round.process.step(states, round.process.predict(states, outputs, steps), steps)

        return round.roll(mean)


class Picard:
    """Another draft, then sweeps: evaluate its states in one call, roll anew with what the model said there.

    After j sweeps the first j steps, at least, are the target's own.

    draft   what the first sweep starts from. sweeps: >= 1.
    held    what of an evaluation is kept when the states move.
    """

    @checked
    def __init__(self, draft: Draft | None = None, *, sweeps: int = 1, held: Held | None = None) -> None:
        self._draft = Stale() if draft is None else checked_part("draft", draft, Draft, "Stale()")
        self._sweeps = whole("sweeps", sweeps, 1, MOST_STEPS)
        self._held = _held(held)
        self.looks_ahead = self._draft.looks_ahead

    def propose(self, round: Round) -> Proposal:
        """As many calls as sweeps, and those of the first draft."""
        proposal = self._draft.propose(round)
        width = round.noise.shape[1]
        for _ in range(self._sweeps):
            wanted = torch.arange(width, device=round.steps.device) < round.lengths[:, None]
            rows, positions = wanted.nonzero(as_tuple=True)
            states, outputs = proposal.states[:, :width], torch.zeros_like(proposal.means)
            outputs[rows, positions] = round.evaluate(
                states[rows, positions], round.steps[rows] + positions, rows
            )

            def mean(position: int, *where: torch.Tensor) -> torch.Tensor:
                known = states[:, position], outputs[:, position], round.steps_at(position)  # noqa: B023
                return self._held.hold(round.process, known)(*where)

            proposal = round.roll(mean)
        return proposal

    def num_calls(self, length: int) -> int:
        """One more for each sweep."""
        return self._draft.num_calls(length) + self._sweeps
