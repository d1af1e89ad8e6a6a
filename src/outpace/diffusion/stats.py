"""What a run of the sampler has cost: calls one after another, evaluations in all, acceptance by position."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class Stats:
    """Of all samples of a run.

    num_steps            of the chain: what plain sampling calls the model for, one after another
    sequential_calls     i64[num]: calls that each sample had to wait for, those at a round's root included
    verification_calls   i64[num]: of these, the ones that judged a window; some count these alone
    evaluations          i64[num]: states at which the model was evaluated
    tested, accepted     i64[L]: drafts judged and accepted at each position of the window; a last step
                         without noise is no draft that could be accepted, and not counted
    num_calls            calls of the model in all, each for a batch of samples
    wall_s               seconds
    """

    num_steps: int
    sequential_calls: torch.Tensor
    verification_calls: torch.Tensor
    evaluations: torch.Tensor
    tested: torch.Tensor
    accepted: torch.Tensor
    num_calls: int = 0
    wall_s: float = 0.0

    @classmethod
    def zero(cls, num_steps: int, num: int, most: int) -> Stats:
        """Before the first round."""
        calls, verifications, evaluations = torch.zeros(3, num, dtype=torch.int64)
        tested, accepted = torch.zeros(2, most, dtype=torch.int64)
        return cls(num_steps, calls, verifications, evaluations, tested, accepted)

    @property
    def speedup_calls(self) -> float:
        """How many times fewer sequential calls than plain sampling, over all samples."""
        return self.num_steps * len(self.sequential_calls) / max(1, int(self.sequential_calls.sum()))

    @property
    def acceptance(self) -> torch.Tensor:
        """f64[L]: share of the drafts judged at each position that were accepted; nan where none was."""
        return self.accepted / self.tested.double()

    @property
    def evaluations_per_step(self) -> float:
        """States evaluated for each step of plain sampling."""
        return float(self.evaluations.sum()) / (self.num_steps * max(1, len(self.evaluations)))
