"""What a run of the sampler has cost: calls one after another, evaluations in all, acceptance by position."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class Stats:
    """Of all samples of a run.

    num_steps            of the chain
    plain_calls          i64[num]: calls of plain sampling, one after another: one for each step, but none for
                         a step that needs none, such as one of a masked model that unmasks nothing
    sequential_calls     i64[num]: calls that each sample had to wait for, those at a round's root included
    verification_calls   i64[num]: of these, the ones that judged a window; some count these alone
    evaluations          i64[num]: states at which the model was evaluated
    tested, accepted     i64[L]: drafts judged and accepted at each position of the window; a last step
                         without noise is no draft that could be accepted, and not counted
    num_calls            calls of the model in all, each for a batch of samples
    wall_s               seconds
    """

    num_steps: int
    plain_calls: torch.Tensor
    sequential_calls: torch.Tensor
    verification_calls: torch.Tensor
    evaluations: torch.Tensor
    tested: torch.Tensor
    accepted: torch.Tensor
    num_calls: int = 0
    wall_s: float = 0.0

    @classmethod
    def zero(cls, num_steps: int, num: int, most: int) -> Stats:
        """Before the first round of `num` samples with windows of `most` steps."""
        plain = torch.full((num,), num_steps, dtype=torch.int64)
        calls, verifications, evaluations = torch.zeros(3, num, dtype=torch.int64)
        tested, accepted = torch.zeros(2, most, dtype=torch.int64)
        return cls(num_steps, plain, calls, verifications, evaluations, tested, accepted)

    def count_call(self, samples: torch.Tensor) -> None:
        """One call of the model, at a state of each of these samples, i64[n]; one may have several."""
        numbers = samples.cpu()
        self.num_calls += 1
        self.sequential_calls[torch.unique(numbers)] += 1
        self.evaluations.index_add_(0, numbers, torch.ones_like(numbers))

    def count_drafts(self, tested: torch.Tensor, kept: torch.Tensor) -> None:
        """Drafts of a round, bool[B, L]: which were judged, and which of these were accepted."""
        self.tested[: tested.shape[1]] += tested.sum(0).cpu()
        self.accepted[: tested.shape[1]] += kept.sum(0).cpu()

    @property
    def speedup_calls(self) -> float:
        """How many times fewer sequential calls than plain sampling, over all samples."""
        return int(self.plain_calls.sum()) / max(1, int(self.sequential_calls.sum()))

    @property
    def acceptance(self) -> torch.Tensor:
        """f64[L]: share of the drafts judged at each position that were accepted; nan where none was."""
        return self.accepted / self.tested.double()

    @property
    def evaluations_per_step(self) -> float:
        """States evaluated for each call of plain sampling."""
        return int(self.evaluations.sum()) / max(1, int(self.plain_calls.sum()))
