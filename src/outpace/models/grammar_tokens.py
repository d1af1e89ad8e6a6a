"""A model's vocabulary for llguidance, built once, and the grammars that have been compiled for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from outpace.core.contracts import Target
from outpace.core.edits import TextEdit
from outpace.core.errors import OutpaceError
from outpace.engine.request import Request
from outpace.models.grammar import Grammar, llguidance
from outpace.models.grammar_edit import GrammarEdit, too_much

MOST_GRAMMARS = 32  # that stay compiled
MOST_FUEL = 100_000  # for a mask of a text, half of llguidance's own limit: 0.2 seconds
MARK = "\x02"  # no vocabulary merges it with what follows


class Words(Protocol):
    """What is needed of a tokenizer."""

    @property
    def text_bytes(self) -> Mapping[int, bytes]: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


class Grammars:
    """The grammars of one model; for one thread at a time."""

    def __init__(self, tokenizer: Words, vocab_size: int) -> None:
        """Takes half a second for 50,000 tokens. OutpaceError where llguidance is not installed."""
        library = llguidance()
        self._matcher = library.LLMatcher
        self._limits = library.LLParserLimits(step_lexer_fuel=MOST_FUEL, verbose_errors=False)
        self._vocab_size = vocab_size
        vocabulary = _Vocabulary(tokenizer, vocab_size)
        self._tokens = library.LLTokenizer(library.TokenizerWrapper(vocabulary))
        self._known: OrderedDict[Grammar, Any] = OrderedDict()

    def constrained(
        self, request: Request, grammar: Grammar, target: Target, first: int | None = None
    ) -> Request:
        """The request with a grammar, beside whatever else edits its logits. Raises an OutpaceError.

        first  how many tokens are none of the grammar's; None: those of the prompt.
        """
        ends = target.eos_ids if request.eos_ids is None else request.eos_ids
        if not ends:
            raise OutpaceError(
                "a grammar needs a token that ends the text, accepted are models with an end token without "
                "ignore_eos, and stop_token_ids"
            )
        first = len(request.prompt) if first is None else first
        edit = self.edit(grammar, ends=ends, first=first, other=request.edit)
        return replace(request, eos_ids=frozenset(ends), edit=edit)

    def edit(
        self, grammar: Grammar, *, ends: Iterable[int], first: int, other: TextEdit | None = None
    ) -> GrammarEdit:
        """The edit of a request whose text begins behind `first` tokens, with a matcher of its own."""
        return GrammarEdit(
            self._compiled(grammar), vocab_size=self._vocab_size, ends=sorted(ends), first=first, other=other
        )

    def _compiled(self, grammar: Grammar) -> Any:
        """A matcher at the beginning of a grammar, to be copied."""
        if grammar in self._known:
            self._known.move_to_end(grammar)
            return self._known[grammar]
        matcher = self._matcher(self._tokens, grammar.compiled(), log_level=0, limits=self._limits)
        # Asked once before a step asks: this is what takes long, and Python's other threads go on meanwhile.
        matcher.compute_bitmask()
        if (wrong := too_much(matcher)) is not None:
            raise grammar.wrong(wrong)
        self._known[grammar] = matcher
        if len(self._known) > MOST_GRAMMARS:
            self._known.popitem(last=False)
        return matcher


class _Vocabulary:
    """A tokenizer as llguidance wants one: the bytes of all tokens, and a way to encode.

    The last token is one more than the target has and stands for an end: which tokens end a text is up to a
    request. Ids without a text, which the target may have more of, are never allowed.
    """

    def __init__(self, tokenizer: Words, vocab_size: int) -> None:
        special = {i for i in getattr(tokenizer, "special_ids", ()) if i < vocab_size}
        written = getattr(tokenizer, "token_bytes", lambda token_id: b"")
        self._encode = tokenizer.encode
        self._plain = {"parse_special": False} if special else {}
        self.tokens = [
            written(i) if i in special else _bytes(tokenizer.text_bytes, i) for i in range(vocab_size)
        ]
        self.tokens.append(b"<|end of the grammar|>")
        self.special_token_ids = [*sorted(special), vocab_size]
        self.eos_token_id, self.bos_token_id = vocab_size, None
        self._ids = {text: i for i, text in enumerate(self.tokens) if text and i not in special}
        self._ids.pop(self.tokens[-1])
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, data: bytes) -> list[int]:
        """Token ids of a text that stands within another: SentencePiece puts no space before it.

        Always such that their bytes are those of the text, for what a grammar forces is written so.
        """
        for before in ("", MARK):
            try:
                ids = self._encode(before + data.decode(), add_special_tokens=False, **self._plain)
            except ValueError:  # of another package's tokenizer, which has not every letter
                continue
            for start in range(len(before), 4 * len(before) + 1):
                if self._spells(ids[start:], data):
                    return ids[start:]
        return self._greedy(data)

    def _spells(self, ids: list[int], data: bytes) -> bool:
        return b"".join(self.tokens[i] if i < len(self.tokens) else b"\0" for i in ids) == data

    def _greedy(self, data: bytes) -> list[int]:
        """The longest token each time; nothing from where there is none."""
        ids, at = list[int](), 0
        while at < len(data):
            sizes = range(min(self._longest, len(data) - at), 0, -1)
            size = next((size for size in sizes if data[at : at + size] in self._ids), 0)
            if not size:
                break
            ids.append(self._ids[data[at : at + size]])
            at += size
        return ids


def _bytes(table: Mapping[int, bytes], token_id: int) -> bytes:
    try:
        return table[token_id]
    except KeyError:
        return b""
