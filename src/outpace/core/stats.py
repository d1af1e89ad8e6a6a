"""What a generation counts and times; no printing. Times are seconds of time.perf_counter."""

from __future__ import annotations

from dataclasses import dataclass, field

from outpace.core.steps import Step, StepTimes


@dataclass(slots=True)
class GenerationStats:
    """One generation. The prompt's own call gives the first tokens; every later token comes from a step.

    cached_tokens  of the prompt, which were not read anew: a row had them that began alike.
    first_tokens   what the prompt's own call gave: one, and what it kept of a draft.
    target_calls   calls that scored a tree; the prompt's own call is not counted.
    num_passes     of a looped model's layers in a pipeline, R of which are a whole call; 0 elsewhere. Those
                   for the first tokens are not counted: R, or for a prompt of one token what a pipeline took.
    num_drafted    drafted tokens that the target scored.
    num_accepted   those of them that became output (a draft kept but cut off by a stop is not counted).
    num_tried_at   by depth, 1 first: how often the drafts up to there were right and one was tried here.
    num_kept_at    by depth: how often it was right. The last draft of a text that was cut off is not counted.
    wall_s         from the request to its last token, without the time that the reader of a stream held it.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_tokens: int = 1
    target_calls: int = 0
    num_passes: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_tried_at: list[int] = field(default_factory=list)
    num_kept_at: list[int] = field(default_factory=list)
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
    def passes_per_token(self) -> float:
        """Passes of a looped model's layers for each token of a pipeline; 0.0 elsewhere."""
        num_tokens = self.completion_tokens - self.first_tokens
        return self.num_passes / num_tokens if num_tokens else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed: tokens after the first call's per second after it; 0.0 if there were none."""
        decode_s = self.wall_s - self.time_to_first_token_s
        num_tokens = self.completion_tokens - self.first_tokens
        return num_tokens / decode_s if self.target_calls and decode_s > 0 else 0.0

    def open(self, step: Step, num_used: int, times: StepTimes) -> None:
        """Count the prompt's own call, of which the first `num_used` tokens became output."""
        self.first_tokens = num_used
        self.prompt_s += times.score_s
        self._count(step, num_used, times)

    def add(self, step: Step, num_used: int, times: StepTimes) -> None:
        """Count a later step."""
        self.target_calls += 1
        self.score_s += times.score_s
        self.num_passes += step.passes
        self._count(step, num_used, times)

    def wait(self, times: StepTimes) -> None:
        """Count a pass of a pipeline that gave no token yet: for the first one it is the prompt's."""
        self.draft_s += times.draft_s
        if self.completion_tokens:
            self.score_s += times.score_s
        else:
            self.prompt_s += times.score_s

    def _count(self, step: Step, num_used: int, times: StepTimes) -> None:
        self.completion_tokens += num_used
        tree, path = step.drafts
        self.num_drafted += tree.num_nodes - 1
        self.num_accepted += min(len(path), num_used)
        self.draft_s += times.draft_s
        if tree.num_nodes > 1 and len(path) <= num_used:
            last = path[-1] if path else 0
            self._count_depths(len(path), last in tree.shape.parent_list)

    def _count_depths(self, kept: int, tried_one_more: bool) -> None:
        tried = kept + tried_one_more
        while len(self.num_tried_at) < tried:
            self.num_tried_at.append(0)
            self.num_kept_at.append(0)
        for depth in range(tried):
            self.num_tried_at[depth] += 1
        for depth in range(kept):
            self.num_kept_at[depth] += 1
