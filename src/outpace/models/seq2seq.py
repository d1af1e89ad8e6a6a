"""`generate` of encoder-decoder models as users of transformers know it, sooner: translation, speech.

model = AutoModelForSeq2SeqLM.from_pretrained(...).eval()
ids = outpace.accelerate(model, draft="ngram").generate(input_ids, attention_mask, max_new_tokens=100)

Greedy output is token for token that of `model.generate` with one beam, up to floating-point ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter, Rule
from outpace.core.errors import OutpaceError
from outpace.core.options import checked
from outpace.core.turns import turns_of
from outpace.decode.pairing import check_pairing
from outpace.engine.generate import generate, generate_batch
from outpace.engine.generation_config import Options, Wanted, read_options
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.files.tokenizer import Tokenizer
from outpace.models.text import Stream
from outpace.pricing.pace import Pace
from outpace.targets.hf_inputs import SOURCES_ARE_GUESSED, check_ids, check_mask, draw_seed
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget
from outpace.targets.hf_seq2seq_models import begin_ids
from outpace.targets.hf_whisper import SPEECH, check_speech, longest_speech
from outpace.targets.hf_wrapped import generation_config_of


class AcceleratedSeq2Seq:
    """An encoder-decoder model with a drafter: made by `accelerate`. Drafts change the speed alone."""

    def __init__(
        self,
        model: Any,
        target: HfSeq2SeqTarget,
        drafter: Drafter,
        rule: Rule,
        pace: Pace | None,
        *,
        tokenizer: Any = None,
        pieces: Tokenizer | None = None,
    ) -> None:
        """tokenizer  of transformers, for texts; `pieces` is our view of it, for `stream`."""
        check_pairing(target, drafter, rule)
        self.model = model
        self.target = target
        self.drafter = drafter
        self._pace = pace
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
        attention_mask     [B, S], 0 for padding; None: as the installed transformers takes it. That is no
                           padding, and before 5.2 what equals the pad token.
        input_features     [B, mel, frames], Whisper's sources, instead.
        decoder_input_ids  i64[B, P], what the decoder begins with; None: what generation_config says.

        The options are those of `Accelerated.generate`, decoder_start_token_id, and for Whisper language and
        task. Whisper transcribes one window without time stamps; its output keeps start and end tokens, and
        it samples, as its own `generate` does, where the call has a temperature above 0.
        """
        asked = self._asked(options, decoder_input_ids)
        inputs = _one_of(input_ids, input_features)
        prompts = self._prompts(inputs, attention_mask, asked)
        results = self._run(prompts, asked, inputs)
        rows = [[*prompt, *result.token_ids] for prompt, result in zip(prompts, results, strict=True)]
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
        asked = self._asked(options, decoder_input_ids)
        inputs = _one_of(input_ids, input_features)
        return self._run(self._prompts(inputs, attention_mask, asked), asked, inputs)

    def refresh(self) -> None:
        """Make copies of the model's weights anew.

        Needed only with kernels="block", after writes through `.data` to a few weights: others are noticed.
        """
        with turns_of(self.target):
            self.target.refresh()

    def generate_text(self, text: str, **options: Any) -> Generation:
        """Text to text, such as its translation. Needs the tokenizer."""
        asked = self._asked(options)
        ids = self._text_ids(text)
        (result,) = self._run(self._prompts(ids, None, asked), asked, ids)
        decoded = self._tokenizer.decode(result.token_ids, skip_special_tokens=True)
        return replace(result, text=decoded)

    @checked
    def stream(self, text: str, *, stop: str | Sequence[str] = (), **options: Any) -> Stream:
        """An iterator of pieces of the text that is made of this one; its `result` is the Generation.

        Needs a fast tokenizer. `stop` are texts before which the output ends.
        """
        asked = self._asked(options)
        ids = self._text_ids(text)
        if self._pieces is None:
            raise OutpaceError(
                f"{type(self._tokenizer).__name__} has no fast tokenizer, accepted is generate_text"
            )
        pieces = TextStream(self._pieces, stop=stop)
        (prompt,) = self._prompts(ids, None, asked)
        (request,) = asked.requests([prompt], ids)
        return Stream(generate(self.target, self.drafter, self.rule, request, text=pieces, pace=self._pace))

    def _asked(self, options: dict[str, Any], decoder_input_ids: Any = None) -> Asked:
        inner = self.target.model
        return Asked.read(options, generation_config_of(self.model, inner), inner, decoder_input_ids)

    def _text_ids(self, text: str) -> Any:
        if self._tokenizer is None:
            raise OutpaceError("text needs the tokenizer, accepted is accelerate(model, tokenizer)")
        return self._tokenizer(text, return_tensors="pt")["input_ids"].to(self.target.model.device)

    def _prompts(self, inputs: Any, attention_mask: Any, asked: Asked) -> list[Prompt]:
        is_speech = check_sources(inputs)
        pad_id = asked.wanted.pad_id
        if is_speech:
            attention_mask = None  # they have one length
        elif attention_mask is not None:
            attention_mask = check_mask(attention_mask, inputs)
        elif SOURCES_ARE_GUESSED and pad_id is not None and pad_id not in asked.wanted.eos_ids:
            # As transformers did: a pad token that also ends texts says nothing.
            attention_mask = inputs.ne(pad_id)
        sources = self.target.encode(inputs, attention_mask)
        begins = asked.begins * len(sources) if len(asked.begins) == 1 else asked.begins
        if len(begins) != len(sources):
            raise OutpaceError(
                f"decoder_input_ids has {len(begins)} rows, accepted are as many as sources, {len(sources)}"
            )
        return [Prompt(*pair) for pair in zip(begins, sources, strict=True)]

    def _run(self, prompts: Sequence[Prompt], asked: Asked, inputs: Any) -> list[Generation]:
        requests = asked.requests(prompts, inputs)
        steps = generate_batch(self.target, self.drafter, self.rule, requests, pace=self._pace)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asks for. `begins`: what the decoder begins with, per row or once for all."""

    wanted: Wanted
    begins: list[list[int]]
    model: Any

    @classmethod
    def read(cls, options: dict[str, Any], config: Any, model: Any, decoder_input_ids: Any = None) -> Asked:
        """The options of a call over a generation_config; OutpaceError for what we do not have."""
        given, speaks = dict(options), model.config.model_type == "whisper"
        ours = Options(given, config)
        if speaks:
            given |= check_speech(ours)
        wanted = read_options(given, config, draw_seed=draw_seed, others=SPEECH if speaks else ())
        if decoder_input_ids is None:
            return cls(wanted, [begin_ids(ours, model)], model)
        check_ids("decoder_input_ids", decoder_input_ids)
        begins = decoder_input_ids.tolist()
        if not speaks:  # as transformers does: put in front unless a row begins with it
            (start,) = begin_ids(ours, model)
            if all(begin[0] != start for begin in begins):
                begins = [[start, *begin] for begin in begins]
        return cls(wanted, begins, model)

    def requests(self, prompts: Sequence[Prompt], inputs: Any) -> list[Request]:
        """The requests of a batch; `inputs` are what the encoder has read."""
        config, wanted = self.model.config, self.wanted
        places = getattr(config, "max_position_embeddings", None)
        if config.model_type == "whisper":
            wanted = longest_speech(wanted, len(prompts[0]), config)
        return [
            wanted.request(
                prompt,
                longest=wanted.longest(len(prompt), places=places),
                vocab_size=self.model.get_output_embeddings().weight.shape[0],
                source=[] if inputs.is_floating_point() else inputs[number].tolist(),
                number=number,
            )
            for number, prompt in enumerate(prompts)
        ]


def _one_of(input_ids: Any, input_features: Any) -> Any:
    if input_ids is not None and input_features is not None:
        raise OutpaceError("there are input_ids and input_features, accepted are sources of one kind")
    return input_ids if input_features is None else input_features


def check_sources(inputs: Any) -> bool:
    """Whether the sources are speech; OutpaceError for what is neither that nor token ids."""
    is_tensor = hasattr(inputs, "is_floating_point")
    if not is_tensor or inputs.ndim != (3 if inputs.is_floating_point() else 2) or 0 in inputs.shape:
        shape = f"of shape {tuple(inputs.shape)}" if is_tensor else f"a {type(inputs).__name__}"
        raise OutpaceError(
            f"the sources are {'missing' if inputs is None else shape}, accepted are input_ids [B, S] and "
            "input_features [B, mel, frames]"
        )
    return bool(inputs.is_floating_point())
