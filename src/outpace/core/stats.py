"""What a generation counts and times; no printing. Times are seconds of time.perf_counter."""

from __future__ import annotations

from dataclasses import dataclass

from outpace.core.steps import Step, StepTimes


@dataclass(slots=True)
class GenerationStats:
    """One generation. The prompt's own call gives the first tokens; every later token comes from a step.

    first_tokens   what the prompt's own call gave: one, and what it kept of a draft.
    target_calls   calls that scored a tree; the prompt's own call is not counted.
    num_drafted    drafted tokens that the target scored.
    num_accepted   those of them that became output (a draft kept but cut off by a stop is not counted).
    wall_s         from the request to its last token, without the time that the reader of a stream held it.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_tokens: int = 1
    target_calls: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    prompt_s: float = 0.0
    draft_s: float = 0.0
    score_s: float = 0.0
    wall_s: float = 0.0
    time_to_first_token_s: float = 0.0

    @property
    def mean_accepted_length(self) -> float:
        """Tokens per scoring call, the bonus token counted; 1.0 in plain decoding and without any call."""
        return (self.completion_tokens - self.first_tokens) / self.target_calls if self.target_calls else 1.0

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed: tokens after the first call's per second after it; 0.0 if there were none."""
        decode_s = self.wall_s - self.time_to_first_token_s
        num_tokens = self.completion_tokens - self.first_tokens
        return num_tokens / decode_s if self.target_calls and decode_s > 0 else 0.0

    def open(self, step: Step, num_used: int, times: StepTimes) -> None:
        """Count the prompt's own call, of which the first `num_used` tokens became output."""
        self.first_tokens = num_used
        self.prompt_s = times.score_s
        self._count(step, num_used, times)

    def add(self, step: Step, num_used: int, times: StepTimes) -> None:
        """Count a later step."""
        self.target_calls += 1
        self.score_s += times.score_s
        self._count(step, num_used, times)

    def _count(self, step: Step, num_used: int, times: StepTimes) -> None:
        self.completion_tokens += num_used
        self.num_drafted += step.tree.num_nodes - 1
        self.num_accepted += min(len(step.verdict.path), num_used)
        self.draft_s += times.draft_s
