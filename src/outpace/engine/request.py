"""One request and what comes out of it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from outpace.core.contracts import Target
from outpace.core.edits import TextEdit
from outpace.core.errors import OutpaceError, PromptTooLong
from outpace.core.options import accept, shown, whole
from outpace.core.sampling import Sampling
from outpace.core.stats import GenerationStats
from outpace.core.steps import Exactness
from outpace.core.traits import Numerics
from outpace.engine.logprobs import MOST, TokenLogprob

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate.

    prompt      token ids, one or more.
    sampling    how the target chooses.
    max_tokens  the most tokens to generate; the context may end a text earlier.
    eos_ids     tokens that end the text; None for the target's own.
    budget      the most drafted nodes in a step.
    logprobs    how many of the likeliest tokens to report with each token's own log-probability; None: none.
    edit        (the text so far, tokens drafted behind it) -> what changes the logits after both, or None.
                The text, with the prompt, is one list that grows; it is the engine's, and not to be changed.
                With a method `forced` of both it names tokens that are certain (`core.edits.ForcingText`).
    stops       (the text so far) -> whether it ends there; asked after every token, in order.
    """

    prompt: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 128
    eos_ids: frozenset[int] | None = None
    budget: int = 63
    edit: TextEdit | None = None
    logprobs: int | None = None
    stops: Callable[[Sequence[int]], bool] | None = None

    def check(self, target: Target) -> None:
        """Raise an OutpaceError if this target cannot serve the request."""
        if accept("max_tokens", self.max_tokens, int) < 1:
            raise OutpaceError(f"max_tokens is {self.max_tokens}, accepted are whole numbers >= 1")
        if self.logprobs is not None:
            whole("logprobs", self.logprobs, 0, MOST)
        if not self.prompt:
            raise OutpaceError("the prompt is empty, accepted are prompts of 1 token or more")
        try:
            ids = list(map(operator.index, self.prompt))
        except TypeError:
            accepted = f"token ids from 0 to {target.vocab_size - 1}"
            raise OutpaceError(f"the prompt is {shown([*self.prompt])}, accepted are {accepted}") from None
        if len(self.prompt) > target.context_length:
            raise PromptTooLong(
                f"the prompt has {len(self.prompt)} tokens, the context holds {target.context_length}"
            )
        if min(ids) < 0 or max(ids) >= target.vocab_size:
            raise OutpaceError(f"the prompt has token ids outside 0 to {target.vocab_size - 1}")


@dataclass(frozen=True, slots=True)
class Generation:
    """What came out.

    text           without the stop string or the end token.
    token_ids      with the end token, or with the token that completed the stop string; nothing after it.
    finish_reason  "stop": an end token or a stop string; "length": max_tokens, or the context is full.
    exactness      what target and rule promise together.
    logprobs       how likely the model found each of token_ids, where the request asked for it.
    numerics       how far logits depend on what shares a call: "bitwise" not at all, "ties" in last digits.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stats: GenerationStats
    prompt_tokens: int
    exactness: Exactness
    numerics: Numerics
    logprobs: list[TokenLogprob] | None = None
