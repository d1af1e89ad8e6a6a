"""The five-line use: load a model, generate or stream text."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from outpace.core.contracts import Drafter, Rule, Target, TreePolicy
from outpace.core.costs import CallCosts, LiveCosts, are_costs
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.turns import turns_of
from outpace.decode.pairing import check_pairing
from outpace.drafters import make_drafter
from outpace.engine.generate import generate
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.formats.memo import Memo
from outpace.rules import RULES
from outpace.trees import TREES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from outpace.formats import LoadedModel

__all__ = ["Generation", "Model", "Stream", "load"]

Prompt = str | Sequence[Mapping[str, Any]]
ROLES = ("system", "user", "assistant", "tool")


def load(
    source: str | Path,
    *,
    threads: int | None = None,
    quantize: str | None = None,
    context_length: int | None = None,
    kv: Literal["f16", "f32"] = "f16",
    progress: Callable[[int, int, str], None] | None = None,
) -> Model:
    """Load a model and make it ready to generate.

    source          short name, path of a .gguf file or of a Hugging Face folder, or hub id.
    threads         threads to compute with; None for the physical cores.
    quantize        "q8" or "q4": round float weights of a folder to 8 or 4 bit; None keeps them.
    context_length  a smaller context than the model's own, in tokens.
    kv              "f16" or "f32": precision of cached keys and values.
    progress        called with (done, total, label) while the model is fetched and packed.
    """
    from outpace.formats import open_model
    from outpace.targets.native import NativeTarget

    loaded = open_model(source, quantize=quantize, progress=progress)
    target = NativeTarget(
        loaded.config,
        loaded.weights,
        eos_ids=loaded.tokenizer.eos_ids,
        threads=threads,
        context_length=context_length,
        kv=kv,
    )
    memo = Memo(loaded.weights.path)
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

    def generate(
        self,
        prompt: Prompt,
        *,
        draft: str | Drafter = "ngram",
        tree: str | TreePolicy | None = None,
        rule: str | Rule = "match",
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        system: str | None = None,
        raw: bool = False,
        stop: str | Sequence[str] = (),
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
        )
        for _ in stream:
            pass
        return stream.result

    def stream(
        self,
        prompt: Prompt,
        *,
        draft: str | Drafter = "ngram",
        tree: str | TreePolicy | None = None,
        rule: str | Rule = "match",
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        system: str | None = None,
        raw: bool = False,
        stop: str | Sequence[str] = (),
    ) -> Stream:
        """Generate piece by piece.

        prompt       a user message, or messages with "role" and "content", for the model's chat template.
        draft        `name:option=value,...` or a Drafter. Changes the speed, not the output.
        tree         the shape of a model-based draft, `name:option=value,...`; None for the drafter's own.
        rule         what to accept of a draft; "match" gives the tokens of plain decoding.
        max_tokens   the most tokens to generate.
        temperature  0 takes the likeliest token; with top_k, top_p, min_p and seed see `Sampling`.
        system       a system message to put in front.
        raw          continue the prompt as it is, without the chat template.
        stop         texts before which the output ends.

        Options out of range, and a prompt longer than the context, raise OutpaceError here.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
        request = Request(self.prompt_ids(prompt, system=system, raw=raw), sampling, max_tokens)
        text = TextStream(self.tokenizer, stop=stop, keep_first_space=raw)
        judge = RULES.create(rule) if isinstance(rule, str) else rule
        return Stream(generate(self.target, self.drafter(draft, tree=tree), judge, request, text=text))

    def prompt_ids(self, prompt: Prompt, *, system: str | None = None, raw: bool = False) -> list[int]:
        """The token ids that the target reads for a prompt."""
        if isinstance(prompt, str) and (raw or self.chat is None):
            if system is not None:
                why = "a raw prompt" if raw else "a model without a chat template"
                raise OutpaceError(f"{why} takes no system message; write it into the prompt")
            return self.tokenizer.encode(prompt, add_special_tokens=True)
        if raw or self.chat is None:
            what = "a raw prompt" if raw else "the prompt of a model without a chat template"
            raise OutpaceError(f"{what} must be a text, not messages")
        if not isinstance(prompt, str | Iterable):
            raise OutpaceError(f"the prompt is {prompt!r}, accepted are a text and messages")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if system is not None:
            messages = [{"role": "system", "content": system}, *messages]
        for message in messages:
            if not isinstance(message, Mapping):
                raise OutpaceError(f"a message is {message!r}, accepted are mappings with role and content")
            if message.get("role") not in ROLES:
                raise OutpaceError(f"unknown role {message.get('role')!r}, accepted are {', '.join(ROLES)}")
        if not messages:
            raise OutpaceError("the prompt has no messages, accepted are 1 message or more")
        return self.tokenizer.encode(self.chat.render(messages), add_special_tokens=False)

    def drafter(self, draft: str | Drafter, *, tree: str | TreePolicy | None = None) -> Drafter:
        """The drafter that a spec describes, made once per model. A Drafter is returned as it is.

        All requests with the spec share it, and what it learns from them.
        """
        if not isinstance(draft, str):
            if tree is not None:
                raise OutpaceError("a tree goes with a drafter's name; give the Drafter its own tree")
            return draft
        if tree is not None and not isinstance(tree, str):
            return self.new_drafter(draft, tree=tree)
        with turns_of(self.target):  # it may measure, and two threads that name one drafter share it
            if (draft, tree) not in self._drafters:
                self._drafters[draft, tree] = self.new_drafter(draft, tree=tree)
            return self._drafters[draft, tree]

    def new_drafter(self, draft: str, *, tree: str | TreePolicy | None = None) -> Drafter:
        """A drafter of one's own, which shares with no other what it learns."""
        with turns_of(self.target):
            policy = TREES.create(tree, costs=self.costs) if isinstance(tree, str) else tree
            return make_drafter(draft, policy, self._context())

    def prepare(self, draft: str | Drafter, *, tree: str | TreePolicy | None, rule: str | Rule) -> None:
        """Make now what requests with these will use; an OutpaceError if they do not go together."""
        judge = RULES.create(rule) if isinstance(rule, str) else rule
        check_pairing(self.target, self.drafter(draft, tree=tree), judge)

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
                name = f"costs-{self.num_threads}-{self.target.context_length}"
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


class Stream:
    """Pieces of text, by `for` or `async for`; once it has ended, `result` is the whole Generation.

    Every piece is certain. Streams of one model take turns step by step, in one thread or in many, and a
    stream may be closed by another thread than the one that reads it.
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
