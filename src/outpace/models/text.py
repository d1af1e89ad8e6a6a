"""The five-line use: load a model, generate or stream text."""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from outpace.core.contracts import Drafter, Rule, Target, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.machine import processor_key
from outpace.core.options import accept, accept_object, checked, whole
from outpace.core.sampling import Sampling
from outpace.core.turns import turns_of
from outpace.decode.pairing import check_pairing
from outpace.drafters import make_drafter
from outpace.engine.generate import generate
from outpace.engine.prompt import Prompt, prompt_ids
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.files.memo import Memo
from outpace.pricing.costs import CallCosts, LiveCosts, are_costs
from outpace.pricing.pace import pace_of
from outpace.rules import RULES
from outpace.trees import TREES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from outpace.files import LoadedModel

__all__ = ["Generation", "Model", "Stream", "load"]

MOST_THREADS = 1024
MOST_DRAFTERS = 64  # that a model keeps by name, each with what it has learnt


@checked
def load(
    source: str | Path,
    *,
    threads: int | None = None,
    quantize: Literal["q8", "q4"] | None = None,
    context_length: int | None = None,
    kv: Literal["f16", "f32"] = "f16",
    cache_tokens: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Model:
    """Load a model and make it ready to generate.

    source          short name, path of a .gguf file or of a Hugging Face folder, or hub id.
    threads         threads to compute with; None for the physical cores.
    quantize        "q8" or "q4": round float weights of a folder to 8 or 4 bit; None keeps them.
    context_length  a smaller context than the model's own, in tokens.
    kv              "f16" or "f32": precision of cached keys and values.
    cache_tokens    tokens that all unfinished texts may hold together, prompts included; None for 4 contexts.
    progress        called with (done, total, label) while the model is fetched and packed.
    """
    from outpace.files import open_model
    from outpace.targets.native import NativeTarget

    accept("source", source, str | Path)
    if threads is not None:  # before a model is fetched and packed
        whole("threads", threads, 1, MOST_THREADS)
    if context_length is not None:
        whole("context_length", context_length, 1, 2**31 - 1)
    if cache_tokens is not None:
        whole("cache_tokens", cache_tokens, 16, 2**40)
    loaded = open_model(source, quantize=quantize, progress=progress)
    target = NativeTarget(
        loaded.config,
        loaded.weights,
        eos_ids=loaded.tokenizer.eos_ids,
        threads=threads,
        context_length=context_length,
        kv=kv,
        cache_tokens=cache_tokens,
    )
    memo = Memo(loaded.weights.path)
    target.tune(memo)
    return Model(loaded, target, name=str(source), num_threads=target.threads, memo=memo)


class Model:
    """A loaded model: its files (`config`, `weights`, `tokenizer`, `chat`) and the `target` that runs it."""

    def __init__(
        self, loaded: LoadedModel, target: Target, *, name: str, num_threads: int, memo: Memo | None = None
    ) -> None:
        self.name = name
        self.num_threads = num_threads
        self.target = target
        self.config = loaded.config
        self.weights = loaded.weights
        self.tokenizer = loaded.tokenizer
        self.chat = loaded.chat
        self._memo = memo or (lambda name, make, fits=None: make())
        self._beside = memo and memo.path
        self._costs: CallCosts | None = None
        self._drafters: dict[tuple[str, str | None], Drafter] = {}

    @checked
    def generate(
        self,
        prompt: Prompt,
        *,
        draft: str | Drafter | None = "ngram",
        tree: str | TreePolicy | None = None,
        rule: str | Rule = "match",
        max_tokens: int | None = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | None = 0,
        system: str | None = None,
        raw: bool = False,
        stop: str | Sequence[str] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        parse_special: bool = False,
        logprobs: int | None = None,
    ) -> Generation:
        """Generate to the end. The options are those of `stream`."""
        stream = self.stream(
            prompt,
            draft=draft,
            tree=tree,
            rule=rule,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            system=system,
            raw=raw,
            stop=stop,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
            parse_special=parse_special,
            logprobs=logprobs,
        )
        for _ in stream:
            pass
        return stream.result

    @checked
    def stream(
        self,
        prompt: Prompt,
        *,
        draft: str | Drafter | None = "ngram",
        tree: str | TreePolicy | None = None,
        rule: str | Rule = "match",
        max_tokens: int | None = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | None = 0,
        system: str | None = None,
        raw: bool = False,
        stop: str | Sequence[str] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        parse_special: bool = False,
        logprobs: int | None = None,
    ) -> Stream:
        """Generate piece by piece.

        prompt       a user message, or messages with "role" and "content", for the model's chat template.
        draft        `name:option=value,...` or a Drafter; None is plain decoding. Changes the speed alone.
        tree         the shape of a model-based draft, `name:option=value,...`; None for the drafter's own.
        rule         what to accept of a draft; "match" gives the tokens of plain decoding.
        max_tokens   the most tokens to generate; None for as many as the context holds.
        temperature  0 takes the likeliest token; with top_k, top_p, min_p and seed see `Sampling`.
        seed         same seed, same text; None for another one in every call.
        system       a system message to put in front.
        raw          continue the prompt as it is, without the chat template.
        stop         texts before which the output ends.
        tools        descriptions of functions that the model may call, for the chat template.
        chat_template_kwargs  further variables of the template: {"enable_thinking": False}.
        logprobs     for every token its log-probability and those of so many of the likeliest, in the result.
        parse_special  read special tokens that are written in the prompt, instead of taking them as text.

        Options out of range, and a prompt longer than the context, raise OutpaceError here. A stream that has
        begun holds a row of the model until it ends or is closed (see `Stream`).
        """
        if seed is None:
            seed = secrets.randbits(64)
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
        ids = self.prompt_ids(
            prompt,
            system=system,
            raw=raw,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
            parse_special=parse_special,
        )
        most = self.target.context_length if max_tokens is None else max_tokens
        text = TextStream(self.tokenizer, stop=() if stop is None else stop, keep_first_space=raw)
        request = Request(ids, sampling, most, logprobs=logprobs)
        drafter = self.drafter(draft, tree=tree)
        pace = pace_of(drafter)
        steps = generate(self.target, drafter, _rule(rule), request, text=text, pace=pace)
        return Stream(steps)

    def prompt_ids(self, prompt: Prompt, **options: Any) -> list[int]:
        """The token ids that the target reads for a prompt; the options are those of `stream` about it."""
        return prompt_ids(self.tokenizer, self.chat, prompt, **options)

    def drafter(self, draft: str | Drafter | None, *, tree: str | TreePolicy | None = None) -> Drafter:
        """The drafter that a spec describes, made once per model. A Drafter is returned as it is.

        All requests with the spec share it, and what it learns from them. None is plain decoding.
        """
        draft = "none" if draft is None else draft
        _check_tree(tree)
        if not isinstance(draft, str):
            accept_object("draft", draft, ("start", "propose", "observe", "stop"), "texts, Drafters and None")
            if tree is not None:
                raise OutpaceError("a tree goes with a drafter's name; give the Drafter its own tree")
            return draft
        if tree is not None and not isinstance(tree, str):
            return self.new_drafter(draft, tree=tree)
        with turns_of(self.target):  # it may measure, and two threads that name one drafter share it
            if (draft, tree) not in self._drafters:
                self._drafters[draft, tree] = self.new_drafter(draft, tree=tree)
                if len(self._drafters) > MOST_DRAFTERS:  # the oldest goes when its requests have ended
                    del self._drafters[next(iter(self._drafters))]
            return self._drafters[draft, tree]

    def new_drafter(self, draft: str, *, tree: str | TreePolicy | None = None) -> Drafter:
        """A drafter of one's own, which shares with no other what it learns."""
        draft = accept("draft", draft, str)
        _check_tree(tree)
        with turns_of(self.target):
            policy = TREES.create(tree, costs=self.costs) if isinstance(tree, str) else tree
            return make_drafter(draft, policy, self._context())

    def prepare(
        self, draft: str | Drafter | None, *, tree: str | TreePolicy | None, rule: str | Rule
    ) -> None:
        """Make now what requests with these will use; an OutpaceError if they do not go together."""
        check_pairing(self.target, self.drafter(draft, tree=tree), _rule(rule))

    def costs(self) -> CallCosts:
        """What a call costs on this machine: measured once per model, in about a second, and kept on disk.

        While drafters use them, they follow what calls take.
        """

        def measure() -> Mapping[str, NDArray[Any]]:
            costs = CallCosts.measure(self.target)
            return {"sizes": costs.sizes, "contexts": costs.contexts, "seconds": costs.seconds}

        with turns_of(self.target):
            if self._costs is None:
                # What can be measured depends on how long contexts can be.
                name = f"costs-{processor_key()}-{self.num_threads}-{self.target.context_length}"
                self._costs = LiveCosts(**self._memo(name, measure, are_costs))
            return self._costs

    def _context(self) -> dict[str, Any]:
        """All that a drafter's constructor may ask for by name (see `outpace.drafters`)."""
        return {
            "target": self.target,
            "tokenizer": self.tokenizer,
            "open_model": self._open,
            "memo": self._memo,
            "beside": self._beside,
            "costs": self.costs,
        }

    def _open(self, source: str) -> Model:
        """A model that drafts for this one: each drafter has a target of its own, over the same file."""
        return load(source, threads=self.num_threads)


def _rule(rule: str | Rule) -> Rule:
    if isinstance(rule, str):
        made: Rule = RULES.create(rule)
        return made
    accept_object("rule", rule, ("judge",), "texts and Rules")
    return rule


def _check_tree(tree: str | TreePolicy | None) -> None:
    if not isinstance(tree, str | None):
        accept_object("tree", tree, ("expand", "grow", "prune"), "texts, TreePolicies and None")


class Stream:
    """Pieces of text, by `for` or `async for`; once it has ended, `result` is the whole Generation.

    Every piece is certain. Streams of one model take turns step by step, in one thread or in many, and a
    stream may be closed by another thread than the one that reads it.

    From its first piece on a stream holds a row of the model, until it has ended or is closed: leave one that
    you do not read to its end by `close()`, or use it in a `with` block.
    """

    def __init__(self, steps: Generator[tuple[list[int], str], None, Generation]) -> None:
        self._steps = steps
        self._result: Generation | None = None
        self._turn = threading.RLock()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        with self._turn:
            while True:
                try:
                    _, piece = next(self._steps)
                except StopIteration as end:
                    self._result = self._result or end.value
                    raise StopIteration from None
                if piece:
                    return piece

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        import asyncio  # takes longer to import than all of this package

        # A StopIteration can not pass through a future, and every piece has a character.
        if piece := await asyncio.to_thread(next, self, ""):
            return piece
        raise StopAsyncIteration

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End early and give back what the request holds, when the step under way is over."""
        with self._turn:
            self._steps.close()

    @property
    def result(self) -> Generation:
        """The whole Generation; a RuntimeError before the stream has ended, or if it was closed."""
        if self._result is None:
            raise RuntimeError("the stream has not come to its end")
        return self._result
