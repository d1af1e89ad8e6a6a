"""What all models have in common: parts by name or as objects, one text or many, streams, and an end.

A face says in `_request` how a prompt and the options of a call become a request of the engine; the rest
is here. `Model` is the face of our own targets, `Accelerated` and `AcceleratedSeq2Seq` are of transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

from outpace.core.call import Prompt
from outpace.core.contracts import Closable, Drafter, Rule, Target, TreePolicy
from outpace.core.edits import forces
from outpace.core.errors import OutpaceError
from outpace.core.machine import processor_key
from outpace.core.options import accept, accept_object, checked, taken, whole
from outpace.core.turns import turns_of
from outpace.decode.pairing import check_pairing
from outpace.drafters import make_drafter
from outpace.drafters.auto import own_draft
from outpace.drafters.forced import with_forced
from outpace.engine.engine import Event
from outpace.engine.generate import events, result_of
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.models.grammar import Grammar, check_grammar
from outpace.models.grammar_tokens import Grammars
from outpace.models.options import Drafting, Prompting, Showing, Stopping, Text, Texts
from outpace.models.prompt import Chat, prompt_ids
from outpace.models.stream import Stream
from outpace.pricing.costs import CallCosts, LiveCosts, are_costs
from outpace.pricing.pace import pace_of
from outpace.rules import RULES
from outpace.trees import TREES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from outpace.files.memo import Memo
    from outpace.files.tokenizer import Tokenizer

OWN: Any = object()
"""In place of a draft: what is best where nobody names one."""
MOST_DRAFTERS = 64  # that a model keeps by name, each with what it has learnt


class Face(ABC):
    """A target with its tokenizer, and whatever drafts for it.

    tokenizer  None: prompts are token ids, `outpace.Prompt`, and texts stay tokens.
    chat       what renders messages; None: prompts are continued as they are.
    memo       keeps what was computed for the model's file.
    """

    _with_text: ClassVar[str]  # what has a tokenizer, for errors

    def __init__(
        self,
        target: Target,
        *,
        name: str,
        num_threads: int,
        tokenizer: Tokenizer | None = None,
        chat: Chat | None = None,
        memo: Memo | None = None,
    ) -> None:
        self.name = name
        self.num_threads = num_threads
        self.target = target
        self._tokenizer = tokenizer
        self.chat = chat
        self.closed = False
        self._memo = memo or (lambda name, make, fits=None: make())
        self._beside: Callable[[str], Path] | None = None if memo is None else memo.path
        self._costs: CallCosts | None = None
        self._own_draft: str | None = None
        self._grammars: Grammars | None = None
        self._parts: Drafting = {}  # in place of the usual ones
        self._drafters: dict[tuple[str, str | None], Drafter] = {}

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.num_threads} threads"
        return (
            f"{type(self).__name__}({self.name!r}, {type(self.target).__name__}, "
            f"context of {self.target.context_length} tokens, {state})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back threads and memory, when the step under way is over; texts that are not written end.

        Any other use then raises an OutpaceError.
        """
        with turns_of(self.target):
            self.closed = True
            self._drafters.clear()
            self._parts = {}
            if isinstance(self.target, Closable):
                self.target.close()
        with turns_of(self):
            self._grammars = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; an OutpaceError where it has none."""
        if self._tokenizer is None:
            raise OutpaceError(
                f"text needs a tokenizer, accepted are {self._with_text}, and outpace.Prompt(ids)"
            )
        return self._tokenizer

    @checked
    def prompt_ids(self, prompt: Text, **options: Unpack[Prompting]) -> list[int]:
        """The token ids that the target reads for a prompt; the options are those of `stream` about it."""
        return list(self._ids(prompt, taken(Prompting, dict(options))))

    def drafter(self, draft: str | Drafter | None = OWN, *, tree: str | TreePolicy | None = None) -> Drafter:
        """The drafter that a spec describes, made once per model. A Drafter is returned as it is.

        All requests with the spec share it, and what it learns from them. None is plain decoding. Without an
        argument it is the one of calls that name none.
        """
        if draft is OWN:
            own = self._drafting({} if tree is None else {"tree": tree})
            draft, tree = own["draft"], own["tree"]
        draft = "none" if draft is None else draft
        self._check_open()
        check_tree(tree)
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
        self._check_open()
        draft = accept("draft", draft, str)
        check_tree(tree)
        with turns_of(self.target):
            policy = TREES.create(tree, costs=self.costs) if isinstance(tree, str) else tree
            return make_drafter(draft, policy, self._context())

    def prepare(
        self, draft: str | Drafter | None, *, tree: str | TreePolicy | None, rule: str | Rule
    ) -> None:
        """Make now what requests with these will use; an OutpaceError if they do not go together."""
        check_pairing(self.target, self.drafter(draft, tree=tree), rule_of(rule))

    def costs(self) -> CallCosts:
        """What a call costs on this machine: measured once per model, in about a second, and kept on disk.

        While drafters use them, they follow what calls take.
        """

        def measure() -> Mapping[str, NDArray[Any]]:
            costs = CallCosts.measure(self.target)
            return {"sizes": costs.sizes, "contexts": costs.contexts, "seconds": costs.seconds}

        self._check_open()
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
            "tokenizer": self._tokenizer,
            "open_model": self._open,
            "memo": self._memo,
            "beside": self._beside,
            "costs": self.costs,
        }

    @abstractmethod
    def _open(self, source: str) -> Face:
        """A model that drafts for this one: each drafter has a target of its own, over the same file."""

    def _check_open(self) -> None:
        if self.closed:
            raise OutpaceError(f"the model {self.name!r} is closed, accepted is a model that load gives anew")

    @abstractmethod
    def _request(
        self, prompt: Text, given: dict[str, Any], *, streams: bool
    ) -> tuple[Request, TextStream | None]:
        """The request of a prompt, and how its tokens become text. `given` are the options but `Drafting`."""

    def _answer(self, prompt: Text | Texts, options: Mapping[str, Any]) -> Generation | list[Generation]:
        """One text, or the texts of a list, side by side: each is what it is alone."""
        many = isinstance(prompt, list | tuple) and not (prompt and isinstance(prompt[0], Mapping))
        prompts: Any = prompt if many else [prompt]
        results = self._answers(prompts, options)
        return results if many else results[0]

    def _answers(self, prompts: Sequence[Text], options: Mapping[str, Any]) -> list[Generation]:
        self._check_open()
        if not prompts:
            return []
        given = dict(options)
        drafting = self._drafting(given)
        made = [self._request(one, dict(given), streams=False) for one in prompts]
        requests, texts = zip(*made, strict=True)
        return result_of(self._steps(requests, texts, drafting))

    def _stream(self, prompt: Text, options: Mapping[str, Any]) -> Stream:
        self._check_open()
        given = dict(options)
        drafting = self._drafting(given)
        request, text = self._request(prompt, given, streams=True)
        return Stream(self._steps([request], [text], drafting), self._check_open)

    def _drafting(self, given: dict[str, Any]) -> Drafting:
        """Takes the parts out of the options of a call; what is not given there is the model's own.

        The model's own tree is that of its own draft alone.
        """
        named: Drafting = {n: given.pop(n) for n in _PARTS if n in given}  # type: ignore[assignment]
        own = {n: part for n, part in self._parts.items() if n != "tree" or "draft" not in named}
        drafting = taken(Drafting, {**own, **named})
        if "draft" not in {**own, **named} and drafting["rule"] == "match" and drafting["tree"] is None:
            drafting["draft"] = self.own_draft
        return drafting

    @property
    def own_draft(self) -> str:
        """The draft of calls that name none: a looped model guesses by itself, a prepared one says which."""
        if self._own_draft is None:
            self._own_draft = own_draft(self.target, self._beside, self.drafter)
        return self._own_draft

    def _steps(
        self, requests: Sequence[Request], texts: Sequence[TextStream | None] | None, drafting: Drafting
    ) -> Generator[dict[int, Event], None, list[Generation]]:
        drafter = self.drafter(drafting["draft"], tree=drafting["tree"])
        rule = rule_of(drafting["rule"])
        check_pairing(self.target, drafter, rule)
        pace = pace_of(drafter)
        if any(forces(request.edit) for request in requests):
            drafter = with_forced(drafter)
        return events(self.target, drafter, rule, requests, texts=texts, pace=pace)

    def _prompt_of(self, prompt: Text, given: dict[str, Any]) -> tuple[Sequence[int], TextStream | None]:
        """Takes the options about prompt and end; the prompt's ids, and what makes text of what follows."""
        about, stop = taken(Prompting, given), taken(Stopping, given)["stop"]
        shown = self._shown(taken(Showing, given)["show_tokens"])
        ids = self._ids(prompt, about)
        if self._tokenizer is None:
            if stop or shown:
                name = "stop" if stop else "show_tokens"
                raise OutpaceError(
                    f"{name} needs the tokenizer, accepted are max_tokens and end tokens without it"
                )
            return ids, None
        # The spaces of a grammar are its own.
        keep = about["raw"] or isinstance(prompt, Prompt) or given.get("grammar") is not None
        stop = () if stop is None else stop
        return ids, TextStream(self._tokenizer, stop=stop, keep_first_space=keep, shown=shown)

    def _constrained(self, request: Request, grammar: Grammar | None, first: int | None = None) -> Request:
        """The request with a grammar; an OutpaceError for one that cannot be read. `first`: see Grammars."""
        grammar = check_grammar(grammar)
        if grammar is None:
            return request
        # Not in a turn of the target: a large grammar takes seconds, and other texts go on meanwhile.
        with turns_of(self):
            if self._grammars is None:
                self._grammars = Grammars(self.tokenizer, self.target.vocab_size)
            return self._grammars.constrained(request, grammar, self.target, first)

    def _shown(self, ids: Sequence[int] | None) -> frozenset[int]:
        last = self.target.vocab_size - 1
        return frozenset(whole("show_tokens", one, 0, last) for one in ids or ())

    def _ids(self, prompt: Text, about: Prompting) -> Sequence[int]:
        self._check_open()
        if not isinstance(prompt, Prompt):
            return prompt_ids(self.tokenizer, self.chat, prompt, about)
        if given := [name for name, value in about.items() if value]:
            raise OutpaceError(f"a prompt of token ids takes no {given[0]}, accepted are the ids alone")
        return prompt


_PARTS = tuple(Drafting.__annotations__)


def rule_of(rule: str | Rule) -> Rule:
    """A rule by its name, or as it is."""
    if isinstance(rule, str):
        made: Rule = RULES.create(rule)
        return made
    accept_object("rule", rule, ("judge",), "texts and Rules")
    return rule


def check_tree(tree: str | TreePolicy | None) -> None:
    """Raise an OutpaceError for what is neither a tree's name nor a tree."""
    if not isinstance(tree, str | None):
        accept_object("tree", tree, ("expand", "grow", "prune"), "texts, TreePolicies and None")
