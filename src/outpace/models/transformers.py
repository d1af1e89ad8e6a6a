"""Drafts for a model that transformers has loaded: `generate` as its users know it, sooner.

model = AutoModelForCausalLM.from_pretrained(...).eval()
ids = outpace.accelerate(model, draft="ngram").generate(input_ids, attention_mask, max_new_tokens=100)

The model is used as it is and nothing is left behind in it. Greedy output is token for token that of
`model.generate`, up to floating-point ties; sampled output has the same law.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter, Rule, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.machine import default_threads
from outpace.core.turns import turns_of
from outpace.decode.pairing import check_pairing
from outpace.drafters.model.small_model import SmallModel, small_model
from outpace.engine.generate import result_of
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.files.tokenizer import Tokenizer
from outpace.models import text
from outpace.models.choosing import own_names, with_own_names
from outpace.models.face import OWN, Face, check_tree, rule_of
from outpace.models.generation_config import read_options
from outpace.models.options import Text
from outpace.models.stream import Stream
from outpace.models.wanted import Wanted
from outpace.targets.hf_causal import HfCausalTarget
from outpace.targets.hf_inputs import check_ids, draw_seed, paddings
from outpace.targets.hf_looped import causal_target
from outpace.targets.hf_wrapped import generation_config_of, plain_model
from outpace.trees import TREES
from outpace.trees.chain import OpenChain

if TYPE_CHECKING:
    from outpace.targets.hf_seq2seq import HfSeq2SeqTarget
    from outpace.targets.hf_types import GenerationConfig, Model, PreTrainedTokenizerBase, Tensor

DRAFT_LENGTH = 20
"""The most of a draft model that nobody has chosen a tree for: it drafts as deep as pays."""


class Wrapped(Face):
    """A transformers model with its target. Drafts change the speed, not the output."""

    target: HfCausalTarget | HfSeq2SeqTarget
    _with_text = "accelerate(model, tokenizer)"
    _make_target: ClassVar[Callable[..., HfCausalTarget | HfSeq2SeqTarget]]

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        context_length: int | None,
        kernels: str,
    ) -> None:
        config = plain_model(model).config
        super().__init__(
            type(self)._make_target(model, context_length=context_length, kernels=kernels),
            name=getattr(config, "_name_or_path", "") or config.model_type,
            num_threads=default_threads(),
            tokenizer=self._tokenizer_of(tokenizer),
            chat=TransformersChat(tokenizer)
            if tokenizer is not None and getattr(tokenizer, "chat_template", None)
            else None,
        )
        self.model: Any = model
        self._theirs = tokenizer

    def _tokenizer_of(self, tokenizer: PreTrainedTokenizerBase | None) -> Tokenizer | None:
        """Our view of the model's tokenizer."""
        return None if tokenizer is None else TransformersTokenizer(tokenizer)

    def choose(
        self,
        draft: str | Drafter | Model | None,
        tree: str | TreePolicy | None,
        rule: str | Rule,
        draft_tokenizer: PreTrainedTokenizerBase | None,
        kernels: str,
    ) -> None:
        """The parts of calls that name no others. OutpaceError where they do not go together."""
        check_tree(tree)
        judge = rule_of(rule)
        if callable(getattr(draft, "state_dict", None)):
            policy = TREES.create(tree, costs=self.costs) if isinstance(tree, str) else tree
            policy = policy or OpenChain(length=DRAFT_LENGTH)
            drafter: Drafter = self._draft_model(draft, draft_tokenizer, policy, kernels)
        elif draft_tokenizer is not None:
            raise OutpaceError("draft_tokenizer goes with a transformers model as draft")
        else:
            self._parts = {"rule": rule}  # which the own draft goes by
            drafter = self.drafter(cast("str | Drafter | None", draft), tree=tree)
        check_pairing(self.target, drafter, judge)
        if draft is OWN:
            return
        if isinstance(draft, str) and isinstance(tree, str | None):  # calls can name another tree for it
            self._parts = {"draft": draft, "tree": tree, "rule": judge}
        else:
            self._parts = {"draft": drafter, "tree": None, "rule": judge}

    def _draft_model(self, draft: Any, tokenizer: Any, tree: TreePolicy, kernels: str) -> SmallModel:
        """The drafter that a smaller transformers model makes."""
        drafting = HfCausalTarget(draft, kernels=kernels)
        if tokenizer is not None:
            if self._tokenizer is None:
                raise OutpaceError(
                    "draft_tokenizer goes with the model's tokenizer, accepted are both or none"
                )
            opened = SimpleNamespace(target=drafting, tokenizer=TransformersTokenizer(tokenizer))
            return small_model(self.target, self.tokenizer, lambda source: opened, model="draft", tree=tree)
        if drafting.vocab_size != self.target.vocab_size:
            raise OutpaceError(
                f"the draft model has {drafting.vocab_size} tokens and the model {self.target.vocab_size}, "
                "accepted are equal vocabularies, or others with tokenizer and draft_tokenizer"
            )
        return SmallModel.of(drafting, tree=tree)

    def stream(self, prompt: Text, **options: Any) -> Stream:
        """Generate piece by piece, of one prompt that is no tensor, with the options of `generate`."""
        return self._stream(prompt, options)

    def refresh(self) -> None:
        """Make copies of the model's weights anew.

        Needed only with kernels="block", after writes through `.data` to a few weights: others are noticed.
        """
        self._check_open()
        with turns_of(self.target):
            self.target.refresh()

    def _is_text(self, prompt: Any, **tensors: Any) -> bool:
        """Whether `generate` is given prompts of ours, which go with no tensors, in place of one."""
        first = prompt
        for _ in range(2):  # a list of prompts, each of which may be a list of messages
            if isinstance(first, list | tuple) and first:
                first = first[0]
        if not isinstance(first, str | Prompt | Mapping | list | tuple):
            return False
        for name, tensor in tensors.items():
            if tensor is not None:
                raise OutpaceError(f"{name} goes with a tensor of input_ids, accepted with a text is none")
        return True

    def _generation_config(self) -> GenerationConfig | None:
        return generation_config_of(self.model, self.target.model)

    def _open(self, source: str) -> Face:
        return text.load(source, threads=self.num_threads)


class Accelerated(Wrapped):
    """A transformers model with a drafter: made by `accelerate`. Drafts change the speed, not the output."""

    target: HfCausalTarget
    _make_target = staticmethod(causal_target)

    def generate(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        """i64[B, T]: the prompts and what comes after them, as `model.generate` returns it.

        input_ids       i64[B, W], prompts padded on the left.
        attention_mask  [B, W], 0 for padding; None: what equals the pad token is padding.

        Where input_ids is a prompt as in `Model.generate`, or a list of them, the Generation of each comes
        back instead. `system`, `raw`, `stop`, `tools`, `chat_template_kwargs`, `parse_special`, `logit_bias`,
        `presence_penalty`, `frequency_penalty`, `min_tokens`, `ignore_eos`, `stop_token_ids`, `logprobs` and
        `grammar` belong to these (see `Model.stream`).

        The options are those of transformers, with the defaults of `model.generation_config`; a None in the
        call means none. Beside them: `sampling`, a Sampling; `max_tokens` and `seed`; `draft`, `tree` and
        `rule` in place of those of `accelerate`. What we do not have raises an OutpaceError, which lists what
        there is. Rows that end early are filled up with the pad token. Without a `seed` sampling draws one
        from torch's default generator; the same seed gives the same tokens, whatever drafts.
        """
        if self._is_text(input_ids, attention_mask=attention_mask):
            return self._answer(input_ids, options)
        results, pad_id = self._run(input_ids, attention_mask, options)
        return filled(input_ids, input_ids.tolist(), results, pad_id)

    def generations(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **options: Any
    ) -> list[Generation]:
        """As `generate`, but one Generation per row: new tokens, why they end, and counts and times."""
        return self._run(input_ids, attention_mask, options)[0]

    def _request(
        self, prompt: Text, given: dict[str, Any], *, streams: bool
    ) -> tuple[Request, TextStream | None]:
        ids, text = self._prompt_of(prompt, given)
        logprobs, grammar, own = given.pop("logprobs", None), given.pop("grammar", None), own_names(given)
        wanted = with_own_names(self._wanted(given), own, self.target.vocab_size)
        request = replace(self._row_request(list(ids), wanted), logprobs=logprobs)
        return self._constrained(request, grammar, wanted.first(len(request.prompt))), text

    def _wanted(self, given: Mapping[str, Any]) -> Wanted:
        return read_options(
            given,
            self._generation_config(),
            model=self.target.model,
            tokenizer=self._theirs,
            draw_seed=draw_seed,
        )

    def _row_request(self, row: list[int], wanted: Wanted, *, padding: int = 0, number: int = 0) -> Request:
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

    def _run(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, options: Mapping[str, Any]
    ) -> tuple[list[Generation], int | None]:
        """The texts of a batch, and the pad token."""
        self._check_open()
        given = dict(options)
        drafting, wanted = self._drafting(given), self._wanted(given)
        check_ids("input_ids", input_ids)
        assert input_ids is not None
        # As transformers does: a pad token that also ends texts says nothing.
        pad_id = None if wanted.pad_id in wanted.eos_ids else wanted.pad_id
        wanted.check_rows(len(input_ids))
        counts = paddings(input_ids, attention_mask, pad_id)
        requests = [
            self._row_request(row, wanted, padding=count, number=number)
            for number, (row, count) in enumerate(zip(input_ids.tolist(), counts, strict=True))
        ]
        return result_of(self._steps(requests, None, drafting)), wanted.pad_id


def filled(
    like: Tensor, begins: Sequence[Sequence[int]], results: Sequence[Generation], pad_id: int | None
) -> Tensor:
    """i64[B, T]: beginnings and what comes after them, with pad tokens behind what ends early."""
    rows = [[*begin, *result.token_ids] for begin, result in zip(begins, results, strict=True)]
    longest = max(map(len, rows))
    # Without a pad or end token all rows have one length, or a full context.
    return like.new_tensor([row + [pad_id or 0] * (longest - len(row)) for row in rows])


class TransformersTokenizer(Tokenizer):
    """Our view of a transformers tokenizer; it encodes itself."""

    def __init__(self, theirs: PreTrainedTokenizerBase) -> None:
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
        ids = self._theirs.encode(text, add_special_tokens=add_special_tokens)
        doubled = add_special_tokens and self.bos_id is not None and ids[:2] == [self.bos_id] * 2
        return ids[1:] if doubled else ids


class TransformersChat:
    """A transformers tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def render(self, messages: Any, /, **variables: Any) -> str:
        """The prompt's text; an OutpaceError says what a template fails with."""
        variables = {"add_generation_prompt": True, **variables}
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **variables))
        except Exception as error:  # a template can fail like any program
            raise OutpaceError(f"the chat template fails with {type(error).__name__}: {error}") from error
