"""`generate` of encoder-decoder models as users of transformers know it, sooner: translation, speech.

model = AutoModelForSeq2SeqLM.from_pretrained(...).eval()
ids = outpace.accelerate(model, draft="ngram").generate(input_ids, attention_mask, max_new_tokens=100)

Greedy output is token for token that of `model.generate` with one beam, up to floating-point ties.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from outpace.api import Stream
from outpace.core.contracts import Drafter, Rule
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Edit
from outpace.core.tree import TokenTree
from outpace.decode.pairing import check_pairing
from outpace.engine.generate import generate, generate_batch
from outpace.engine.generation_config import Wanted, read_options
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.formats.tokenizer import Tokenizer
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget, SourcePrompt
from outpace.targets.hf_seq2seq_models import begin_ids

# Of a generation_config or a call, beside the options that `read_options` knows.
_BANS = ("bad_words_ids", "begin_suppress_tokens", "suppress_tokens")
_FORCES = ("forced_bos_token_id", "forced_eos_token_id")
_SPEECH = ("language", "task")
_DEFAULT_NEW_TOKENS = 20


class AcceleratedSeq2Seq:
    """An encoder-decoder model with a drafter: made by `accelerate`. Drafts change the speed alone."""

    def __init__(
        self,
        model: Any,
        target: HfSeq2SeqTarget,
        drafter: Drafter,
        rule: Rule,
        *,
        tokenizer: Any = None,
        pieces: Tokenizer | None = None,
    ) -> None:
        """tokenizer  of transformers, for texts; `pieces` is our view of it, for `stream`."""
        check_pairing(target, drafter, rule)
        self.model = model
        self.target = target
        self.drafter = drafter
        self.rule = rule
        self._tokenizer = tokenizer
        self._pieces = pieces

    def generate(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        *,
        input_features: Any = None,
        decoder_input_ids: Any = None,
        **options: Any,
    ) -> Any:
        """i64[B, T]: what the decoder begins with and what comes after it, as `model.generate` returns it.

        input_ids          i64[B, S], the sources.
        attention_mask     [B, S], 0 for padding; None: what equals the pad token is padding.
        input_features     [B, mel, frames], Whisper's sources, instead.
        decoder_input_ids  i64[B, P], what the decoder begins with; None: what generation_config says.

        The options are those of `Accelerated.generate` and forced_bos_token_id, forced_eos_token_id,
        suppress_tokens, begin_suppress_tokens, bad_words_ids of one token each, and for Whisper language and
        task. Whisper transcribes one window without time stamps; its output keeps start and end tokens.
        """
        asked = Asked.read(options, self.model, decoder_input_ids)
        inputs = input_ids if input_features is None else input_features
        prompts = self._prompts(inputs, attention_mask, asked)
        rows = [
            [*prompt, *result.token_ids]
            for prompt, result in zip(prompts, self._run(prompts, asked), strict=True)
        ]
        output = np.full((len(rows), max(map(len, rows))), asked.wanted.pad_id or 0, dtype=np.int64)
        for place, row in zip(output, rows, strict=True):
            place[: len(row)] = row
        return inputs[:0].long().new_tensor(output)

    def generations(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        *,
        input_features: Any = None,
        decoder_input_ids: Any = None,
        **options: Any,
    ) -> list[Generation]:
        """As `generate`, but one Generation per row: new tokens, why they end, and counts and times."""
        asked = Asked.read(options, self.model, decoder_input_ids)
        inputs = input_ids if input_features is None else input_features
        return self._run(self._prompts(inputs, attention_mask, asked), asked)

    def generate_text(self, text: str, **options: Any) -> Generation:
        """Text to text, such as its translation. Needs the tokenizer."""
        asked = Asked.read(options, self.model)
        (result,) = self._run(self._text_prompts(text, asked), asked)
        decoded = self._tokenizer.decode(result.token_ids, skip_special_tokens=True)
        return replace(result, text=decoded)

    def stream(self, text: str, *, stop: str | Sequence[str] = (), **options: Any) -> Stream:
        """An iterator of pieces of the text that is made of this one; its `result` is the Generation.

        Needs a fast tokenizer. `stop` are texts before which the output ends.
        """
        asked = Asked.read(options, self.model)
        (prompt,) = self._text_prompts(text, asked)
        if self._pieces is None:
            raise OutpaceError(
                f"{type(self._tokenizer).__name__} has no fast tokenizer, accepted is generate_text"
            )
        pieces = TextStream(self._pieces, stop=stop)
        request = asked.request(prompt, 0)
        return Stream(generate(self.target, self.drafter, self.rule, request, text=pieces))

    def _text_prompts(self, text: str, asked: Asked) -> list[SourcePrompt]:
        if self._tokenizer is None:
            raise OutpaceError("text needs the tokenizer, accepted is accelerate(model, tokenizer)")
        ids = self._tokenizer(text, return_tensors="pt")["input_ids"].to(self.model.device)
        return self._prompts(ids, None, asked)

    def _prompts(self, inputs: Any, attention_mask: Any, asked: Asked) -> list[SourcePrompt]:
        if inputs is None or inputs.ndim != (3 if inputs.is_floating_point() else 2) or 0 in inputs.shape:
            shape = "missing" if inputs is None else f"of shape {tuple(inputs.shape)}"
            raise OutpaceError(
                f"the sources are {shape}, accepted are input_ids [B, S] and input_features [B, mel, frames]"
            )
        pad_id = asked.wanted.pad_id
        if attention_mask is None and not inputs.is_floating_point() and pad_id is not None:
            # As transformers does: a pad token that also ends texts says nothing.
            attention_mask = None if pad_id in asked.wanted.eos_ids else inputs.ne(pad_id)
        sources = self.target.encode(inputs, None if inputs.is_floating_point() else attention_mask)
        begins = asked.begins * len(sources) if len(asked.begins) == 1 else asked.begins
        if len(begins) != len(sources):
            raise OutpaceError(
                f"decoder_input_ids has {len(begins)} rows, accepted are as many as sources, {len(sources)}"
            )
        return [SourcePrompt(*pair) for pair in zip(begins, sources, strict=True)]

    def _run(self, prompts: Sequence[SourcePrompt], asked: Asked) -> list[Generation]:
        requests = [asked.request(prompt, number) for number, prompt in enumerate(prompts)]
        steps = generate_batch(self.target, self.drafter, self.rule, requests)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return [asked.closed(*pair) for pair in zip(requests, end.value, strict=True)]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asks for.

    begins      what the decoder begins with, per row or once for all.
    num_forced  how many tokens at their ends transformers counts as new ones: mBART's language is one.
    forced_eos  what must stand at the end of a text that is cut off; None: anything may.
    banned      tokens that are never chosen; `banned_first`, those that are not chosen first.
    """

    wanted: Wanted
    begins: list[list[int]]
    num_forced: int
    forced_eos: int | None
    banned: list[int]
    banned_first: list[int]

    @classmethod
    def read(cls, options: dict[str, Any], model: Any, decoder_input_ids: Any = None) -> Asked:
        """The options of a call over the model's generation_config; OutpaceError for what we do not have."""
        ours, given = copy.copy(model.generation_config), dict(options)
        for name in (*_BANS, *_FORCES, *_SPEECH):
            if given.get(name) is not None:
                setattr(ours, name, given[name])
            given.pop(name, None)
        theirs = copy.copy(ours)
        for name in (*_BANS, *_FORCES):
            setattr(theirs, name, None)
        for name in ("return_timestamps", "encoder_no_repeat_ngram_size"):
            if getattr(ours, name, None):
                raise OutpaceError(
                    f"the model's generation_config has {name}={getattr(ours, name)!r}, which is not "
                    "available here, accepted is None"
                )
        wanted = read_options(given, theirs)
        if decoder_input_ids is None:
            begins = [begin_ids(ours, model.config.model_type)]
        else:
            begins = decoder_input_ids.tolist()
        forced = _ids(ours.forced_bos_token_id) if len(begins[0]) == 1 else []
        last = _ids(ours.forced_eos_token_id)
        banned = _ids(getattr(ours, "suppress_tokens", None))
        for word in ours.bad_words_ids or []:
            if len(word) != 1:
                raise OutpaceError(
                    f"bad_words_ids has the word {word}, accepted are words of one token, or None"
                )
            banned += [] if word[0] in wanted.eos_ids else word
        first = _ids(getattr(ours, "begin_suppress_tokens", None))
        vocab_size = model.get_output_embeddings().weight.shape[0]
        banned, first = ([token for token in ids if token < vocab_size] for ids in (banned, first))
        begins = [[*begin, *forced] for begin in begins]
        return cls(wanted, begins, len(forced), last[0] if last else None, banned, first)

    def request(self, prompt: SourcePrompt, number: int) -> Request:
        """The request of one row; `number` is its place in the batch."""
        most, wanted = self.wanted.max_new_tokens, self.wanted
        if most is None and wanted.max_length is None:
            most = _DEFAULT_NEW_TOKENS
        wanted = replace(wanted, max_new_tokens=None if most is None else most - self.num_forced)
        request = wanted.request([], width=len(prompt), number=number)
        edits = (
            Bans(self.banned, self.banned_first, len(prompt)) if self.banned or self.banned_first else None
        )
        return replace(request, prompt=prompt, edits=edits)

    def closed(self, request: Request, result: Generation) -> Generation:
        """The result with the end token that transformers forces upon a text of full length."""
        full = result.finish_reason == "length" and len(result.token_ids) == request.max_tokens
        if self.forced_eos is None or not full:
            return result
        return replace(result, token_ids=[*result.token_ids[:-1], self.forced_eos])


class Bans:
    """Logit edits: tokens that are never chosen, and others that are not chosen first.

    begin  the length of the prompt.
    """

    def __init__(self, always: Sequence[int], first: Sequence[int], begin: int) -> None:
        self._always = _ban(always)
        self._first = _ban([*always, *first])
        self._begin = begin

    def __call__(self, tokens: Sequence[int], tree: TokenTree) -> list[Edit | None]:
        """What to add to the logits after each node of a tree, whose root is the last of `tokens`."""
        edits = [self._always] * tree.num_nodes
        if len(tokens) == self._begin:
            edits[0] = self._first
        return edits


def _ban(tokens: Sequence[int]) -> Edit | None:
    ids = np.unique(np.array(tokens, dtype=np.int32))
    return (ids, np.full(len(ids), -np.inf, dtype=np.float32)) if tokens else None


def _ids(listed: Any) -> list[int]:
    """One id, several or none."""
    if listed is None:
        return []
    return [int(token) for token in (listed if isinstance(listed, list | tuple) else [listed])]
