"""Drafts for a model that transformers has loaded: `generate` as its users know it, sooner.

model = AutoModelForCausalLM.from_pretrained(...).eval()
ids = outpace.accelerate(model, draft="ngram").generate(input_ids, attention_mask, max_new_tokens=100)

The model is used as it is and nothing is left behind in it. Greedy output is token for token that of
`model.generate`, up to floating-point ties; sampled output has the same law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from outpace.core.contracts import Drafter, Rule, Target, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.machine import default_threads
from outpace.core.options import checked, shown
from outpace.core.turns import turns_of
from outpace.decode.pairing import check_pairing
from outpace.drafters.model.small_model import SmallModel, small_model
from outpace.engine.generate import generate, generate_batch
from outpace.engine.generation_config import Wanted, read_options
from outpace.engine.prompt import Prompt
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.files import LoadedModel
from outpace.files.tokenizer import Tokenizer
from outpace.models.seq2seq import AcceleratedSeq2Seq
from outpace.models.text import Model, Stream
from outpace.pricing.pace import Pace, pace_of
from outpace.rules import RULES
from outpace.targets.hf_causal import HfCausalTarget
from outpace.targets.hf_inputs import check_ids, draw_seed, paddings
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget
from outpace.targets.hf_wrapped import generation_config_of, plain_model
from outpace.trees import TREES
from outpace.trees.chain import OpenChain

DRAFT_LENGTH = 20
"""The most of a draft model that nobody has chosen a tree for: it drafts as deep as pays."""


@checked
def accelerate(
    model: Any,
    tokenizer: Any = None,
    *,
    draft: Any = "ngram",
    tree: str | TreePolicy | None = None,
    rule: str | Rule = "match",
    draft_tokenizer: Any = None,
    context_length: int | None = None,
    kernels: str = "torch",
) -> Accelerated | AcceleratedSeq2Seq:
    """Put a transformers model, which stays as it is, together with a drafter.

    model            a decoder-only or encoder-decoder model in eval mode, on any device, in any float type;
                     also in a PeftModel whose adapters are layers of it, such as LoRA.
    tokenizer        its tokenizer, for text in and text out, and for drafters that read text.
    draft            `name:option=value,...`, a Drafter, or a smaller transformers model; None for no drafts.
    tree             the shape of a model-based draft, `name:option=value,...`; None for the drafter's own, or
                     of a transformers model as draft for as many tokens as have paid of late, maybe none.
    rule             what to accept of a draft; "match" gives the tokens of plain decoding.
    draft_tokenizer  of a draft model with another vocabulary than the model's.
    context_length   a smaller context than the model's own, in tokens.
    kernels          who multiplies in linear layers: "torch", or "block", whose calls of some nodes are
                     cheaper where the model runs in float32 on a CPU, at the price of a copy of its weights.

    Raises OutpaceError for a model that cannot keep a path of a tree, and for parts that do not go together.
    """
    if tree is not None and not isinstance(tree, str):
        _check_part("tree", tree, "grow", "None, the name of a tree and a TreePolicy")
    draft = "none" if draft is None else draft
    inner = plain_model(model)
    seq2seq = getattr(inner.config, "is_encoder_decoder", False)
    target = (HfSeq2SeqTarget if seq2seq else HfCausalTarget)(
        model, context_length=context_length, kernels=kernels
    )
    slow = seq2seq and getattr(tokenizer, "backend_tokenizer", None) is None
    ours = None if tokenizer is None or slow else TransformersTokenizer(tokenizer)
    chat = _Chat(tokenizer) if getattr(tokenizer, "chat_template", None) else None
    loaded = SimpleNamespace(config=inner.config, weights=None, tokenizer=ours, chat=chat)
    name = getattr(inner.config, "_name_or_path", "") or inner.config.model_type
    text_model = Model(cast(LoadedModel, loaded), target, name=name, num_threads=default_threads())
    if hasattr(draft, "state_dict"):  # a model of torch
        policy = TREES.create(tree, costs=text_model.costs) if isinstance(tree, str) else tree
        policy = policy or OpenChain(length=DRAFT_LENGTH)
        drafter: Drafter = _draft_model(draft, draft_tokenizer, policy, target, ours, kernels)
    elif draft_tokenizer is not None:
        raise OutpaceError("draft_tokenizer goes with a transformers model as draft")
    else:
        drafter = text_model.drafter(draft, tree=tree)
        _check_part("draft", drafter, "propose", "None, the name of a drafter, a Drafter and a model")
    pace = pace_of(drafter)
    judge = RULES.create(rule) if isinstance(rule, str) else rule
    _check_part("rule", judge, "judge", "the name of a rule and a Rule")
    if isinstance(target, HfSeq2SeqTarget):
        return AcceleratedSeq2Seq(model, target, drafter, judge, pace, tokenizer=tokenizer, pieces=ours)
    return Accelerated(model, text_model, drafter, judge, pace)


class Accelerated:
    """A transformers model with a drafter: made by `accelerate`. Drafts change the speed, not the output."""

    def __init__(
        self, model: Any, text_model: Model, drafter: Drafter, rule: Rule, pace: Pace | None
    ) -> None:
        check_pairing(text_model.target, drafter, rule)
        self.model = model
        assert isinstance(text_model.target, HfCausalTarget)
        self.target = text_model.target
        self.drafter = drafter
        self._pace = pace
        self.rule = rule
        self._text_model = text_model

    def generate(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        """i64[B, T]: the prompts and what comes after them, as `model.generate` returns it.

        input_ids       i64[B, W], prompts padded on the left.
        attention_mask  [B, W], 0 for padding; None: what equals the pad token is padding.

        The options are those of transformers, with the defaults of `model.generation_config`; a None in the
        call means none. What we do not have raises an OutpaceError, which lists what there is. Rows that end
        early are filled up with the pad token. Without a `seed` sampling draws one from torch's default
        generator; the same seed gives the same tokens, whatever drafts.
        """
        wanted = self._wanted(options)
        results = self._run(input_ids, attention_mask, wanted)
        longest = max(len(result.token_ids) for result in results)
        pad_id = wanted.pad_id or 0  # without a pad or end token all rows have one length, or a full context
        new = [[*r.token_ids, *[pad_id] * (longest - len(r.token_ids))] for r in results]
        batch, width = input_ids.shape
        output = input_ids.new_empty((batch, width + longest))
        output[:, :width] = input_ids
        output[:, width:] = input_ids.new_tensor(new)
        return output

    def generations(
        self, input_ids: Any = None, attention_mask: Any = None, **options: Any
    ) -> list[Generation]:
        """As `generate`, but one Generation per row: new tokens, why they end, and counts and times."""
        return self._run(input_ids, attention_mask, self._wanted(options))

    def refresh(self) -> None:
        """Make copies of the model's weights anew.

        Needed only with kernels="block", after writes through `.data` to a few weights: others are noticed.
        """
        with turns_of(self.target):
            self.target.refresh()

    def generate_text(self, prompt: Prompt, **options: Any) -> Generation:
        """Text to text: `stream` to its end."""
        stream = self.stream(prompt, **options)
        for _ in stream:
            pass
        return stream.result

    @checked
    def stream(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        raw: bool = False,
        stop: str | Sequence[str] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        parse_special: bool = False,
        **options: Any,
    ) -> Stream:
        """An iterator of pieces of text; its `result` is the Generation. Needs the tokenizer.

        prompt  a user message, or messages with "role" and "content", for the tokenizer's chat template.
        system  a system message to put in front.
        raw     continue the prompt as it is, without the chat template.
        stop    texts before which the output ends.

        `tools`, `chat_template_kwargs` and `parse_special` are those of `Model.stream`, the other options
        those of `generate`.
        """
        if self._text_model.tokenizer is None:
            raise OutpaceError("text needs the tokenizer, accepted is accelerate(model, tokenizer)")
        prompt_ids = self._text_model.prompt_ids(
            prompt,
            system=system,
            raw=raw,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
            parse_special=parse_special,
        )
        request = self._request(prompt_ids, self._wanted(options))
        text = TextStream(self._text_model.tokenizer, stop=() if stop is None else stop, keep_first_space=raw)
        return Stream(generate(self.target, self.drafter, self.rule, request, text=text, pace=self._pace))

    def _wanted(self, options: dict[str, Any]) -> Wanted:
        config = generation_config_of(self.model, self.target.model)
        return read_options(options, config, draw_seed=draw_seed)

    def _request(self, row: list[int], wanted: Wanted, *, padding: int = 0, number: int = 0) -> Request:
        """The request of one row, the first tokens of which are padding."""
        places = getattr(self.target.model.config, "max_position_embeddings", None)
        return wanted.request(
            row[padding:],
            longest=wanted.longest(len(row), places=places),
            vocab_size=self.target.vocab_size,
            padding=row[:padding],
            source=row,
            number=number,
        )

    def _run(self, input_ids: Any, attention_mask: Any, wanted: Wanted) -> list[Generation]:
        check_ids("input_ids", input_ids)
        # As transformers does: a pad token that also ends texts says nothing.
        pad_id = None if wanted.pad_id in wanted.eos_ids else wanted.pad_id
        counts = paddings(input_ids, attention_mask, pad_id)
        requests = [
            self._request(row, wanted, padding=count, number=number)
            for number, (row, count) in enumerate(zip(input_ids.tolist(), counts, strict=True))
        ]
        steps = generate_batch(self.target, self.drafter, self.rule, requests, pace=self._pace)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value


class TransformersTokenizer(Tokenizer):
    """Our view of a transformers tokenizer; it encodes itself."""

    def __init__(self, theirs: Any) -> None:
        backend = getattr(theirs, "backend_tokenizer", None)
        if backend is None:
            raise OutpaceError(
                f"{type(theirs).__name__} has no fast tokenizer, accepted are those of the tokenizers library"
            )
        eos_ids = () if theirs.eos_token_id is None else (theirs.eos_token_id,)
        add_bos = theirs.bos_token_id is not None and theirs.encode("")[:1] == [theirs.bos_token_id]
        super().__init__(backend, bos_id=theirs.bos_token_id, add_bos=add_bos, eos_ids=eos_ids)
        self._theirs = theirs

    def encode(self, text: str, *, add_special_tokens: bool, parse_special: bool = True) -> list[int]:
        """Token ids of a text; see Tokenizer."""
        if not parse_special:
            return super().encode(text, add_special_tokens=add_special_tokens, parse_special=False)
        ids: list[int] = self._theirs.encode(text, add_special_tokens=add_special_tokens)
        doubled = add_special_tokens and self.bos_id is not None and ids[:2] == [self.bos_id] * 2
        return ids[1:] if doubled else ids


class _Chat:
    """A transformers tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def render(self, messages: Any, **variables: Any) -> str:
        variables = {"add_generation_prompt": True, **variables}
        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, **variables)
        except Exception as error:  # a template can fail like any program
            raise OutpaceError(f"the chat template fails with {type(error).__name__}: {error}") from error
        return text


def _check_part(name: str, part: Any, verb: str, accepted: str) -> None:
    if isinstance(part, type) or not callable(getattr(part, verb, None)):
        raise OutpaceError(f"{name} is {shown(part)}, accepted are {accepted}")


def _draft_model(
    draft: Any, tokenizer: Any, tree: TreePolicy, target: Target, ours: Tokenizer | None, kernels: str
) -> SmallModel:
    """The drafter that a smaller transformers model makes."""
    drafting = HfCausalTarget(draft, kernels=kernels)
    if tokenizer is not None:
        if ours is None:
            raise OutpaceError("draft_tokenizer goes with the model's tokenizer, accepted are both or none")
        opened = SimpleNamespace(target=drafting, tokenizer=TransformersTokenizer(tokenizer))
        return small_model(target, ours, lambda source: opened, model="draft", tree=tree)
    if drafting.vocab_size != target.vocab_size:
        raise OutpaceError(
            f"the draft model has {drafting.vocab_size} tokens and the model {target.vocab_size}, accepted "
            "are equal vocabularies, or others with tokenizer and draft_tokenizer"
        )
    return SmallModel.of(drafting, tree=tree)
