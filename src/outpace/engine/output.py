"""The state of one request: its tokens so far, its next ask, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core.contracts import Target
from outpace.core.edits import edit_after
from outpace.core.stats import GenerationStats
from outpace.core.steps import Ask, Exactness, Step, StepTimes
from outpace.core.traits import Numerics
from outpace.core.tree import Draw
from outpace.engine.logprobs import TokenLogprob, logprobs_of
from outpace.engine.request import FinishReason, Generation, Request
from outpace.engine.text import TextStream


class Output:
    """A request in progress. `finish_reason` is None while it runs; `logprobs` are of all tokens so far."""

    def __init__(self, target: Target, request: Request, text: TextStream | None) -> None:
        self.request = request
        self.stats = GenerationStats(prompt_tokens=len(request.prompt))
        self.finish_reason: FinishReason | None = None
        self._drafting = False  # whether the last step could have a draft
        self._drafted = 0  # how many tokens there were at the last one that could
        self.tokens = list(request.prompt)
        self._text = text
        self._pieces: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self._eos_ids = target.eos_ids if request.eos_ids is None else request.eos_ids
        self._edit = None if request.edit is None else edit_after(request.edit, self.tokens)
        # The token after a full context can still be chosen, but no longer be scored.
        limit = min(request.max_tokens, target.context_length - len(request.prompt) + 1)
        self._end = len(request.prompt) + limit
        self._context_length = target.context_length

    @property
    def lag(self) -> int:
        """How many tokens a drafter may have to catch up with: none if the last step could have a draft."""
        return 0 if self._drafting else len(self.tokens) - self._drafted

    def drafts(self, *, allowed: bool) -> None:
        """Whether the step that runs now may have a draft."""
        self._drafting = allowed
        if allowed:
            self._drafted = len(self.tokens)

    def starts_anew(self) -> None:
        """The drafter has been stopped: another one will have to read all tokens."""
        self._drafting, self._drafted = False, 0

    def ask(self, *, row: int, draw: Draw, law: bool, top: int, room: int, unread: Sequence[int] = ()) -> Ask:
        """What to propose now: no deeper than what is still wanted, no more than context and call hold.

        room    how many drafted nodes of this row the next call has a place for.
        unread  what the target has still to read before the last token.
        """
        position = len(self.tokens) - 1
        return Ask(
            root=self.tokens[-1],
            position=position,
            sampling=self.request.sampling,
            budget=min(self.request.budget, room, self._context_length - position - 1),
            depth=self._end - position - 2,
            edit=self._edit,
            row=row,
            draw=draw,
            law=law,
            top=top,
            unread=unread,
        )

    def start(self, step: Step, times: StepTimes, *, wall_s: float) -> tuple[list[int], str]:
        """Take the first tokens, which the prompt's own call gave."""
        new, piece = self._add(step)
        self.stats.open(step, len(new), times)
        self.stats.time_to_first_token_s = self.stats.wall_s = wall_s
        return new, piece

    def take(self, step: Step, times: StepTimes, *, wall_s: float) -> tuple[list[int], str]:
        """Take a step; `times` are those of the whole call, which the rows of a batch share."""
        new, piece = self._add(step)
        self.stats.add(step, len(new), times)
        self.stats.wall_s = wall_s
        return new, piece

    def generation(self, exactness: Exactness, numerics: Numerics) -> Generation:
        """The whole, once it has ended."""
        assert self.finish_reason is not None
        num_prompt = len(self.request.prompt)
        new_tokens = self.tokens[num_prompt:]
        text = "".join(self._pieces)
        logprobs = None if self.request.logprobs is None else self.logprobs
        return Generation(
            text, new_tokens, self.finish_reason, self.stats, num_prompt, exactness, numerics, logprobs
        )

    def _add(self, step: Step) -> tuple[list[int], str]:
        """Take tokens up to the end; returns what was taken, and the text that became certain."""
        tokens = step.tokens
        assert len(self.tokens) + len(tokens) <= self._end, "the ask's depth bounds what a step commits"
        new = shown = tokens
        for index, token in enumerate(new):
            if token in self._eos_ids:
                new, shown = new[: index + 1], new[:index]
                self.finish_reason = "stop"
                break
            if self.request.stops is not None and self.request.stops([*self.tokens, *new[: index + 1]]):
                new = shown = new[: index + 1]
                self.finish_reason = "stop"
                break
        piece = ""
        if self._text is not None:
            before = self._text.tokens_used
            piece = self._text.push(shown)
            if self._text.stopped:
                new = new[: self._text.tokens_used - before]
                self.finish_reason = "stop"
        if self.request.logprobs is not None:
            self.logprobs += logprobs_of(step, len(new), self.request.logprobs)
        self.tokens += new
        if self.finish_reason is None and len(self.tokens) == self._end:
            self.finish_reason = "length"
        if self.finish_reason is not None and self._text is not None:
            piece += self._text.finish()
        self._pieces.append(piece)
        return new, piece
