"""`generate` of encoder-decoder models as users of transformers know it, sooner: translation, speech.

model = AutoModelForSeq2SeqLM.from_pretrained(...).eval()
ids = outpace.accelerate(model, draft="ngram").generate(input_ids, attention_mask, max_new_tokens=100)

Greedy output is token for token that of `model.generate` with one beam, up to floating-point ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.options import accept, taken
from outpace.core.turns import turns_of
from outpace.engine.generate import result_of
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.files.tokenizer import Tokenizer
from outpace.models.choosing import own_names, with_own_names
from outpace.models.generation_config import Options, read_options
from outpace.models.options import Stopping
from outpace.models.transformers import Wrapped, filled
from outpace.models.wanted import Wanted
from outpace.targets.hf_inputs import SOURCES_ARE_GUESSED, check_ids, check_mask, draw_seed
from outpace.targets.hf_looped_seq2seq import seq2seq_target
from outpace.targets.hf_seq2seq_models import begin_ids
from outpace.targets.hf_whisper import SPEECH, check_speech, longest_speech

if TYPE_CHECKING:
    from outpace.targets.hf_seq2seq import HfSeq2SeqTarget
    from outpace.targets.hf_types import PreTrainedTokenizerBase, Tensor


class AcceleratedSeq2Seq(Wrapped):
    """An encoder-decoder model with a drafter: made by `accelerate`. Drafts change the speed alone."""

    target: HfSeq2SeqTarget
    _make_target = staticmethod(seq2seq_target)

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

        Where input_ids is a source text, or a list of them, the Generation of each comes back instead, such
        as its translation, which ends before a text of `stop`. This needs the tokenizer.

        The options are those of `Accelerated.generate`, decoder_start_token_id, and for Whisper language and
        task. Whisper transcribes one window without time stamps; its output keeps start and end tokens, and
        it samples, as its own `generate` does, where the call has a temperature above 0.
        """
        if self._is_text(
            input_ids,
            attention_mask=attention_mask,
            input_features=input_features,
            decoder_input_ids=decoder_input_ids,
        ):
            return self._answer(input_ids, options)
        inputs = _one_of(input_ids, input_features)
        prompts, results, pad_id = self._run(inputs, attention_mask, decoder_input_ids, options)
        return filled(inputs[:0].long(), prompts, results, pad_id)

    def generations(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        input_features: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        **options: Any,
    ) -> list[Generation]:
        """As `generate`, but one Generation per row: new tokens, why they end, and counts and times."""
        inputs = _one_of(input_ids, input_features)
        return self._run(inputs, attention_mask, decoder_input_ids, options)[1]

    def _tokenizer_of(self, tokenizer: PreTrainedTokenizerBase | None) -> Tokenizer | None:
        """None for a slow tokenizer, too: whole texts work without ours, streams do not."""
        return (
            None
            if getattr(tokenizer, "backend_tokenizer", None) is None
            else super()._tokenizer_of(tokenizer)
        )

    def _answers(self, prompts: Sequence[Any], options: Mapping[str, Any]) -> list[Generation]:
        found = super()._answers(prompts, options)
        if options.get("stop") or options.get("grammar") is not None or self._theirs is None:
            return found
        # The tokenizer itself cleans up spaces too.
        texts = [str(self._theirs.decode(one.token_ids, skip_special_tokens=True)) for one in found]
        return [replace(one, text=text) for one, text in zip(found, texts, strict=True)]

    def _request(
        self, prompt: Any, given: dict[str, Any], *, streams: bool
    ) -> tuple[Request, TextStream | None]:
        stop = taken(Stopping, given)["stop"] or ()
        logprobs, grammar, own = given.pop("logprobs", None), given.pop("grammar", None), own_names(given)
        asked = self._asked(given)
        asked = replace(asked, wanted=with_own_names(asked.wanted, own, self.target.vocab_size))
        if isinstance(prompt, Prompt):
            made, ids = prompt, list((prompt.source and prompt.source.ids) or ())
        elif self._theirs is None:
            raise OutpaceError("text needs the tokenizer, accepted is accelerate(model, tokenizer)")
        else:
            inputs = self._theirs(accept("the prompt", prompt, str), return_tensors="pt")["input_ids"]
            inputs = inputs.to(self.target.model.device)
            (made,), ids = self._prompts(inputs, None, asked), inputs[0].tolist()
        (request,) = asked.requests([made], [ids])
        first = asked.wanted.first(len(request.prompt))
        request = self._constrained(replace(request, logprobs=logprobs), grammar, first)
        if not (streams or stop or grammar is not None):
            return request, None
        if self._tokenizer is None and (stop or self._theirs is not None):
            kind = "the model" if self._theirs is None else type(self._theirs).__name__
            raise OutpaceError(f"{kind} has no fast tokenizer, accepted is generate without stop")
        if self._tokenizer is None:
            return request, None
        # The spaces of a grammar are its own.
        return request, TextStream(self._tokenizer, stop=stop, keep_first_space=grammar is not None)

    def _asked(self, given: dict[str, Any], decoder_input_ids: Any = None) -> Asked:
        config, model = self._generation_config(), self.target.model
        return Asked.read(given, config, model, decoder_input_ids, tokenizer=self._theirs)

    def _run(
        self, inputs: Any, attention_mask: Any, decoder_input_ids: Any, options: Mapping[str, Any]
    ) -> tuple[list[Prompt], list[Generation], int | None]:
        """What the decoder begins with, the texts, and the pad token."""
        self._check_open()
        given = dict(options)
        drafting, asked = self._drafting(given), self._asked(given, decoder_input_ids)
        prompts = self._prompts(inputs, attention_mask, asked)
        asked.wanted.check_rows(len(prompts))
        ids = [[] for _ in prompts] if inputs.is_floating_point() else inputs.tolist()
        results = result_of(self._steps(asked.requests(prompts, ids), None, drafting))
        return prompts, results, asked.wanted.pad_id

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
        with turns_of(self.target):
            sources = self.target.encode(inputs, attention_mask)
        begins = asked.begins * len(sources) if len(asked.begins) == 1 else asked.begins
        if len(begins) != len(sources):
            raise OutpaceError(
                f"decoder_input_ids has {len(begins)} rows, accepted are as many as sources, {len(sources)}"
            )
        return [Prompt(*pair) for pair in zip(begins, sources, strict=True)]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asks for. `begins`: what the decoder begins with, per row or once for all."""

    wanted: Wanted
    begins: list[list[int]]
    model: Any

    @classmethod
    def read(
        cls,
        options: dict[str, Any],
        config: Any,
        model: Any,
        decoder_input_ids: Any = None,
        *,
        tokenizer: Any = None,
    ) -> Asked:
        """The options of a call over a generation_config; OutpaceError for what we do not have."""
        given, speaks = dict(options), model.config.model_type == "whisper"
        ours = Options(given, config)
        if speaks:
            given |= check_speech(ours)
        wanted = read_options(
            given,
            config,
            model=model,
            tokenizer=tokenizer,
            draw_seed=draw_seed,
            others=SPEECH if speaks else (),
        )
        if decoder_input_ids is None:
            return cls(wanted, [begin_ids(ours, model)], model)
        check_ids("decoder_input_ids", decoder_input_ids)
        begins = decoder_input_ids.tolist()
        if not speaks:  # as transformers does: put in front unless a row begins with it
            (start,) = begin_ids(ours, model)
            if all(begin[0] != start for begin in begins):
                begins = [[start, *begin] for begin in begins]
        return cls(wanted, begins, model)

    def requests(self, prompts: Sequence[Prompt], sources: Sequence[Sequence[int]]) -> list[Request]:
        """The requests of a batch; `sources` are the token ids that the encoder has read."""
        config, wanted = self.model.config, self.wanted
        places = getattr(config, "max_position_embeddings", None)
        if config.model_type == "whisper":
            wanted = longest_speech(wanted, len(prompts[0]), config)
        return [
            wanted.request(
                prompt,
                longest=wanted.longest(len(prompt), places=places),
                vocab_size=self.model.get_output_embeddings().weight.shape[0],
                source=source,
                number=number,
            )
            for number, (prompt, source) in enumerate(zip(prompts, sources, strict=True))
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
            f"the sources are {'missing' if inputs is None else shape}, accepted are tensors: input_ids "
            "[B, S] and input_features [B, mel, frames]"
        )
    return bool(inputs.is_floating_point())
