"""Draft models of another vocabulary.

Timor et al. 2025, "Accelerating LLM inference with lossless speculative decoding algorithms for heterogeneous
vocabularies", arXiv:2502.05202.

    Respelled           the draft model reads the committed text, encoded by its own tokenizer
    TextBridge          SLEM: the draft's text is encoded by the target's tokenizer
    IntersectionBridge  TLI: the draft's law on the tokens that both have, renormalised

Deviations. SLEM and TLI encode the text anew for every draft. Here it is encoded piece by piece as it comes,
so that the draft model's cache stays; only its last token is spelled again, together with what follows. A
draft is encoded as the continuation that it is (`spell`), not together with the text before it.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask
from outpace.core.tree import Draw, TokenTree
from outpace.drafters.model.vocabulary import Reading, Words
from outpace.trees.grow import EVERY_DRAW


class Respelled:
    """The draft model reads the text, and of special tokens those that it has itself."""

    def __init__(self, ours: Words, theirs: Words) -> None:
        self._ours = ours
        self._theirs = theirs

    def start(self, prompt: Sequence[int]) -> Reading:
        """The prompt, behind the draft model's own beginning-of-text token if it wants one."""
        bos = [self._theirs.tokenizer.bos_id] if self._theirs.tokenizer.add_bos else []
        reading = Reading(bos)
        self._read(reading, prompt[1:] if bos == [self._special(prompt[0])] else prompt)
        return reading

    def pending(self, reading: Reading) -> list[int]:
        """[] while the text ends within a character."""
        ids = spell(self._theirs, reading.tail)
        return [] if ids is None else reading.ids + ids

    def commit(self, reading: Reading, scored: TokenTree | None, tokens: Sequence[int]) -> list[int] | None:
        """The path whose text is the committed one, or the longest that goes some of its way."""
        texts = [self._ours.text(token) for token in tokens]
        if scored is None or not all(texts):
            self._read(reading, tokens)
            return None
        path, kept, node = list[int](), 0, 0
        rest = whole = b"".join(texts)
        while True:
            fitting = [
                (len(text), child)
                for child in scored.children(node)
                # Some text has to be left over: it makes the root of the next tree.
                if (text := self._theirs.text(scored.token_list[child]))
                and rest.startswith(text)
                and text != rest
            ]
            if not fitting:
                break
            length, node = max(fitting)
            path.append(node)
            rest = rest[length:]
            if rest[0] & 0xC0 != 0x80:  # not within a character
                kept, whole = len(path), rest
        root = self._theirs.text(scored.token_list[0])
        if kept or not _complete(root):
            reading.ids, reading.tail = [], whole
            return path[:kept]
        # The root was spelled without what now follows it: together they may be another token.
        reading.ids, reading.tail = [], root + whole
        return None

    def _read(self, reading: Reading, tokens: Sequence[int]) -> None:
        for token in tokens:
            if text := self._ours.text(token):
                reading.tail += text
            elif (special := self._special(token)) is not None:
                reading.ids += [*(spell(self._theirs, reading.tail, whole=True) or []), special]
                reading.tail = b""

    def _special(self, token: int) -> int | None:
        """The draft model's special token of the same name."""
        name = None if self._ours.text(token) else self._ours.name(token)
        found: int | None = None if name is None else self._theirs.tokenizer.token_id(name)
        return found if found is not None and not self._theirs.text(found) else None


class TextBridge:
    """The draft model's greedy text, encoded by the target's tokenizer: "point" drafts."""

    draws: frozenset[Draw] = frozenset()
    plain = True

    def __init__(self, ours: Words, theirs: Words) -> None:
        self._ours = ours
        self._theirs = theirs

    def ask(self, ask: Ask, root: int) -> Ask:
        """Noise belongs to the target's tokens: the likeliest text is the best guess at any temperature."""
        return replace(ask, root=root, sampling=Sampling(), edit=None, law=False)

    def into_draft(self, tree: TokenTree, root: int) -> TokenTree:
        """The tree."""
        return tree

    def from_draft(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits."""
        return logits

    def proposal(self, tree: TokenTree, ask: Ask) -> TokenTree:
        """The union of its paths' texts, each up to a special token or half a character."""
        chains = []
        for path in tree.paths():
            text = b""
            for node in path[1:]:
                if not (piece := self._theirs.text(tree.token_list[node])):
                    break
                text += piece
            chains.append(TokenTree.chain(ask.root, spell(self._ours, text, whole=True) or []))
        merged = chains[0] if len(chains) == 1 else TokenTree.merge(*chains)
        return merged.fit(ask.root, vocab_size=self._ours.size, budget=ask.budget, depth=ask.depth)


class IntersectionBridge:
    """The draft model's law on the tokens that both vocabularies have, in the target's ids.

    OutpaceError if there are none.
    """

    draws = EVERY_DRAW
    plain = False

    def __init__(self, ours: Words, theirs: Words) -> None:
        our, their = _by_text(ours), _by_text(theirs)
        both = sorted((our[text], their[text]) for text in our.keys() & their.keys())
        if not both:
            raise OutpaceError("the two vocabularies have no token in common, accepted is bridge=text")
        self._vocab_size = ours.size
        self._ours, self._theirs = (np.array(ids) for ids in zip(*both, strict=True))
        self._into = dict(both)

    def ask(self, ask: Ask, root: int) -> Ask:
        """The ask: trees are grown in the target's tokens, so that its noise is at hand."""
        return ask

    def into_draft(self, tree: TokenTree, root: int) -> TokenTree:
        """The same shape in the draft model's tokens."""
        return TokenTree([root, *map(self._into.__getitem__, tree.token_list[1:])], tree.shape)

    def from_draft(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """-inf for tokens that only the target has."""
        mapped = np.full((len(logits), self._vocab_size), -np.inf, np.float32)
        mapped[:, self._ours] = logits[:, self._theirs]
        return mapped

    def proposal(self, tree: TokenTree, ask: Ask) -> TokenTree:
        """The tree."""
        return tree


def spell(words: Words, data: bytes, *, whole: bool = False) -> list[int] | None:
    """Tokens whose bytes are `data`, a text that continues another one.

    Many tokenizers put a space before a text. So it is encoded behind another letter too, and what comes
    after that letter is taken. If `data` ends within a character: None, or with `whole` its whole characters.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    if (cut := len(decoder.getstate()[0])) and not whole:
        return None
    data = data[: len(data) - cut]
    for before in ("", "\n", ","):
        ids = words.tokenizer.encode(before + text, add_special_tokens=False)
        spelled, first = b"", len(ids)
        while first and len(spelled) < len(data):
            first -= 1
            spelled = words.text(ids[first]) + spelled
        if spelled == data:
            return ids[first:]
    # No spelling at all, such as the name of a special token: a reader of drafts may see something else.
    ids = words.tokenizer.encode(text, add_special_tokens=False)
    return [token for token in ids if words.text(token)]


def _complete(data: bytes) -> bool:
    """Whether these bytes are whole characters, one or more."""
    try:
        return data.decode() != ""
    except UnicodeDecodeError:
        return False


def _by_text(words: Words) -> dict[bytes | str, int]:
    """Token ids by their bytes, special ones by their name; of several with the same bytes the highest.

    Those are letters that a vocabulary also has as bytes, in front, for what it cannot spell otherwise.
    """
    texts = ((words.text(token) or words.name(token), token) for token in range(words.size))
    return {text: token for text, token in texts if text}
