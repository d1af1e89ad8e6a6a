"""SentencePiece BPE: scores of pieces instead of a list of merges.

Kudo and Richardson, arXiv:1808.06226. Reference: its `bpe_model.cc`, and `llm_tokenizer_spm` of llama.cpp.

    while the union of two neighbours is a piece:  merge those whose union scores best, the leftmost of equals
    text that is no piece in the end is written as its UTF-8 bytes, else as the unknown token

A list of merges, which the `tokenizers` library wants, is a total order of pairs. It cannot say "leftmost of
equals" where two different unions share a score, as the runs of spaces of Llama 2, Phi-3 and Mistral do.
"""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, models

from outpace.core.errors import FormatError
from outpace.files.spans import Range

_SPACE = "▁"
_PAIR_BITS = 18
_CACHED_LENGTH, _CACHED_CHUNKS = 32, 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The encoder's data besides the vocabulary.

    - `scores`: f32[V], NaN for a token that no merge makes (control tokens, bytes).
    - `unused`: pieces that are merged to get further, but are taken apart again where they are left over.
    - `joined`: u8, the bits `_hash(left, right)` of characters that stand side by side in some piece.
    - `add_space`: a text begins with a space.
    """

    scores: NDArray[np.float32]
    unused: frozenset[int]
    joined: NDArray[np.uint8]
    add_space: bool

    @classmethod
    def make(
        cls, tokens: Sequence[str], scores: NDArray[np.float32], unused: Iterable[int], *, add_space: bool
    ) -> Pieces:
        """From the vocabulary: a text per token, its score (NaN: not mergeable)."""
        usable = [tokens[i] for i in np.flatnonzero(~np.isnan(scores)).tolist()]
        bits = np.zeros(1 << _PAIR_BITS, dtype=bool)
        bits[_hashes("\0".join(usable))] = True
        return cls(scores=scores, unused=frozenset(unused), joined=np.packbits(bits), add_space=add_space)

    def to_fields(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "scores": base64.b64encode(self.scores.astype("<f4").tobytes()).decode(),
            "unused": sorted(self.unused),
            "joined": base64.b64encode(self.joined.tobytes()).decode(),
            "add_space": self.add_space,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Pieces:
        """From the fields of `to_fields`. Raises FormatError."""
        try:
            scores, joined = (base64.b64decode(fields[name], validate=True) for name in ("scores", "joined"))
            if len(joined) << 3 != 1 << _PAIR_BITS or not isinstance(fields["add_space"], bool):
                raise ValueError
            return cls(
                scores=np.frombuffer(scores, "<f4"),
                unused=frozenset(map(int, fields["unused"])),
                joined=np.frombuffer(joined, np.uint8),
                add_space=fields["add_space"],
            )
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise FormatError("the stored pieces are damaged") from None


class SentencePieceEncoder:
    """An Encoder (see spans) over the vocabulary of a library's tokenizer, which is not asked to merge."""

    def __init__(self, backend: tokenizers.Tokenizer, pieces: Pieces) -> None:
        self._find: Callable[[str], int | None] = backend.token_to_id
        self._scores: list[float] = pieces.scores.tolist()
        self._unused = pieces.unused
        self._add_space = pieces.add_space
        self._joined = np.unpackbits(pieces.joined).view(bool)
        self._bytes = [self._find(f"<0x{byte:02X}>") for byte in range(256)]
        unknown = backend.model.unk_token
        self._unknown = None if unknown is None else self._find(unknown)
        added = backend.get_added_tokens_decoder()
        self._special = {token.content: i for i, token in added.items() if token.special}
        self._specials = _Splitter(self._special)
        # Spaces are written "▁" before these are looked for.
        whole = {i: token.content for i, token in added.items() if not token.special}
        self._whole = _Splitter({text.replace(" ", _SPACE): i for i, text in whole.items()})
        self._cache: dict[str, list[int] | None] = {}

    def guarded(self, guard: str) -> SentencePieceEncoder:
        """See Encoder."""
        twin = copy(self)
        twin._specials = _Splitter({guard + text: i for text, i in self._special.items()})
        return twin

    def encode(self, text: str) -> tuple[list[int], list[Range]]:
        """See Encoder. Special tokens first, then what must stay whole, then the merges."""
        ids, found = list[int](), list[Range]()
        for special, start, end in self._specials.split(text):
            if special is not None:
                ids.append(special)
                found.append((start, end))
                continue
            spaced = text[start:end].replace(" ", _SPACE)
            for token, first, last in self._whole.split(spaced):
                if token is not None:
                    ids.append(token)
                else:  # as llama.cpp, the space stands after every such token anew
                    ids += self._merged(_SPACE * self._add_space + spaced[first:last])
        return ids, found

    def _merged(self, text: str) -> list[int]:
        """The ids of a text without added tokens: by chunks, over whose ends nothing can be merged."""
        ids, start = list[int](), 0
        cuts = np.flatnonzero(~self._joined[_hashes(text)]) + 1
        for end in [*cuts.tolist(), len(text)]:
            chunk, start = text[start:end], end
            try:
                found = self._cache[chunk]
            except KeyError:
                found = self._spelled(*self._merge(chunk), whole=False)
                if len(chunk) <= _CACHED_LENGTH:
                    if len(self._cache) >= _CACHED_CHUNKS:
                        self._cache.clear()
                    self._cache[chunk] = found
            if found is None:
                return self._spelled(*self._merge(text), whole=True) or []
            # Neighbouring unknown characters are one unknown token.
            ids += found[1:] if ids and found and ids[-1] == found[0] == self._unknown else found
        return ids

    def _score(self, text: str) -> float | None:
        """The score of a piece; None for all that is not one, NaN is in no order."""
        token = self._find(text)
        if token is None or token >= len(self._scores) or (score := self._scores[token]) != score:
            return None
        return score

    def _merge(self, text: str) -> tuple[list[str], dict[str, tuple[str, str]]]:
        """The parts that are left, and how each unused piece that was met came about (the last time)."""
        parts, apart = list(text), dict[str, tuple[str, str]]()
        before, after = list(range(-1, len(parts) - 1)), list(range(1, len(parts) + 1))
        agenda = list[tuple[float, int, int, int]]()

        def consider(left: int, right: int) -> None:
            both = parts[left] + parts[right]
            if (score := self._score(both)) is not None:
                heapq.heappush(agenda, (-score, left, right, len(both)))
                if self._unused and self._find(both) in self._unused:
                    apart[both] = parts[left], parts[right]

        for place in range(len(parts) - 1):
            consider(place, place + 1)
        while agenda:
            _, left, right, length = heapq.heappop(agenda)
            if not parts[left] or not parts[right] or len(parts[left]) + len(parts[right]) != length:
                continue  # one of the two is another by now
            parts[left] += parts[right]
            parts[right] = ""
            after[left] = end = after[right]
            if before[left] >= 0:
                consider(before[left], left)
            if end < len(parts):
                before[end] = left
                consider(left, end)
        return [part for part in parts if part], apart

    def _spelled(
        self, parts: Sequence[str], apart: Mapping[str, tuple[str, str]], *, whole: bool
    ) -> list[int] | None:
        """The ids of parts; None where an unused piece is left and `apart` is not of the `whole` text."""
        ids, todo = list[int](), list(reversed(parts))
        while todo:
            part = todo.pop()
            token = None if self._score(part) is None else self._find(part)
            if token is None or (token in self._unused and len(part) == 1):
                ids += self._fallback(part, ids)
            elif token not in self._unused:
                ids.append(token)
            elif whole:
                todo += reversed(apart[part])
            else:
                return None
        return ids

    def _fallback(self, part: str, ids: Sequence[int]) -> list[int]:
        spelled = [token for byte in part.encode() if (token := self._bytes[byte]) is not None]
        if len(spelled) == len(part.encode()):
            return spelled
        return [] if self._unknown is None or ids[-1:] == [self._unknown] else [self._unknown]


class _Splitter:
    """Cuts out the tokens that are written in a text: leftmost first, the longest of those."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._backend = tokenizers.Tokenizer(models.WordLevel({"": 0}, unk_token=""))
        self._backend.add_tokens([AddedToken(text, normalized=False) for text in ids if text])
        self._ids = {self._backend.token_to_id(text): token for text, token in ids.items() if text}

    def split(self, text: str) -> list[tuple[int | None, int, int]]:
        """(token, start, end) in ascending order, None for text between tokens; nothing is empty."""
        if not self._ids:
            return [(None, 0, len(text))] if text else []
        cut = self._backend.encode(text, add_special_tokens=False)
        return [(self._ids.get(own), *place) for own, place in zip(cut.ids, cut.offsets, strict=True)]


def _hashes(text: str) -> NDArray[np.uint32]:
    """u32[len(text) - 1]: one number below 2**_PAIR_BITS per pair of neighbouring characters."""
    letters: NDArray[np.uint32] = np.frombuffer(text.encode("utf-32-le"), "<u4")
    mixed: NDArray[np.uint32] = letters[:-1] * np.uint32(40503) + letters[1:] * np.uint32(2654435761)
    return mixed >> np.uint32(32 - _PAIR_BITS)
