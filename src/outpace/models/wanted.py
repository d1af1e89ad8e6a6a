"""What a call of transformers' `generate` asks for, and the request of a row that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from outpace.core.edits import TextEdit
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, fresh_seed
from outpace.engine.request import Request
from outpace.models.processors import Place, Processors, Rules
from outpace.targets.hf_processors import Processing
from outpace.targets.hf_stopping import Stopping

DEFAULT_NEW_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """The wishes of a call of `generate`. `pad_id` follows a text that ended before the others.

    Lengths are counted as transformers counts them, padding and what the decoder begins with included.

    own         of rules, those that transformers has no names for; they come first.
    processing  what needs transformers' own processors. stopping: what else ends a text.
    """

    sampling: Sampling
    eos_ids: frozenset[int]
    pad_id: int | None
    max_new_tokens: int | None
    max_length: int | None
    min_new_tokens: int | None
    min_length: int
    rules: Rules
    own: Rules = field(default_factory=Rules)
    processing: Processing | None = None
    stopping: Stopping | None = None

    def longest(self, width: int, *, places: int | None = None) -> int:
        """The most tokens of a text that begins with `width` tokens; `places` caps the default.

        An OutpaceError where no new token is left.
        """
        if self.max_new_tokens is not None:
            most = width + self.max_new_tokens
        elif self.max_length is not None:
            most = self.max_length
        else:
            most = min(width + DEFAULT_NEW_TOKENS, places or width + DEFAULT_NEW_TOKENS)
        if most <= width:
            raise OutpaceError(
                f"max_new_tokens={self.max_new_tokens} and max_length={self.max_length} leave no new token "
                f"after {width}, accepted are max_new_tokens >= 1 or max_length > {width}"
            )
        return most

    def check_rows(self, count: int) -> None:
        """Raise an OutpaceError where transformers writes on behind the end of a row."""
        if self.stopping is not None and not self.eos_ids and count > 1:
            raise OutpaceError(
                f"stopping criteria end {count} rows where they are, accepted without an eos_token_id is one "
                "row: transformers writes on until the last one ends"
            )

    def first(self, width: int) -> int:
        """The length at which a text that begins with `width` tokens has its first one that is not forced."""
        return width + (width == 1 and self.rules.forced_first is not None)

    def request(
        self,
        prompt: Sequence[int],
        *,
        longest: int,
        vocab_size: int,
        padding: Sequence[int] = (),
        source: Sequence[int] = (),
        number: int = 0,
    ) -> Request:
        """The request of one row of a batch.

        longest  the most tokens, as in `longest`; `padding` is what stands in front of the prompt.
        source   the token ids that encoder_no_repeat_ngram_size is about.
        number   of the row: all have noise of their own; the first has that of the seed itself.
        """
        width = len(padding) + len(prompt)
        least = self.min_length if self.min_new_tokens is None else width + self.min_new_tokens
        rules, own = self.rules, self.own
        rules = replace(
            rules, biases=own.biases + rules.biases, presence=own.presence, frequency=own.frequency
        )
        if least <= width:
            rules = replace(rules, ends=frozenset())
        place = Place(vocab_size, self.first(width), least, longest, tuple(padding), tuple(source))
        edit: TextEdit | None = None
        if rules != Rules():
            forced = {"forced_bos_token_id": rules.forced_first, "forced_eos_token_id": rules.forced_last}
            for name, token in forced.items():
                if token is not None and not 0 <= token < vocab_size:
                    raise OutpaceError(
                        f"{name} is {token}, accepted are token ids from 0 to {vocab_size - 1}"
                    )
            edit = Processors(rules, place)
        if self.processing is not None:
            new = self.min_new_tokens
            edit = self.processing.edit(
                width=width,
                padding=padding,
                source=source,
                lengths={"min_length": least, "min_new_tokens": new, "max_length": longest},
                ends=sorted(self.eos_ids),
                number=number,
                known=edit,
                before=None if own == Rules() else Processors(own, place),
            )
        sampling = self.sampling
        if number:
            sampling = replace(sampling, seed=fresh_seed(sampling.seed, "row", number))
        stops = None if self.stopping is None else self.stopping.after(padding)
        return Request(prompt, sampling, longest - width, eos_ids=self.eos_ids, edit=edit, stops=stops)
