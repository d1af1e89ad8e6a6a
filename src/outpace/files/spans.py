"""Special tokens in a text: tokens where a template wrote them, plain text where a user did.

A text comes as spans, some of which are plain. It is encoded in one call, because one token may lie across
the end of a span. Where a plain span spells a special token, a twin of the encoder is used: it knows every
special token by another name, `guard + name`, and only spans that are not plain are written in that way.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import tokenizers

Range = tuple[int, int]


LONG = 1 << 14  # letters of a text that takes tens of milliseconds


class Encoder(Protocol):
    """Text to token ids; special tokens that are written in the text are recognised."""

    def encode(self, text: str) -> tuple[list[int], list[Range]]:
        """The ids, and where in `text` (in characters) the special ones among them stand."""

    def guarded(self, guard: str) -> Encoder:
        """The same, but each special token is written `guard + name`."""


class SpanEncoder:
    """Encodes spans (text, whether special tokens are recognised in it)."""

    def __init__(self, encoder: Encoder, specials: Iterable[str]) -> None:
        self._encoder = encoder
        self._specials = sorted(filter(None, specials), key=len, reverse=True)
        self._twin: tuple[str, re.Pattern[str], Encoder] | None = None

    def encode(self, spans: Sequence[tuple[str, bool]]) -> list[int]:
        """The ids of the spans put together, but that special tokens inside the plain ones stay text."""
        text = "".join(part for part, _ in spans)
        ids, found = self._encoder.encode(text)
        if not found or all(parse for _, parse in spans):
            return ids
        end, plain = 0, []
        for part, parse in spans:
            end += len(part)
            if part and not parse:
                plain.append((end - len(part), end))
        if not _overlap(found, plain):
            return ids
        guard, written, twin = self._guarded()
        return twin.encode(
            "".join(written.sub(guard + r"\g<0>", part) if parse else part for part, parse in spans)
        )[0]

    def _guarded(self) -> tuple[str, re.Pattern[str], Encoder]:
        if self._twin is None:
            # U+FDD0 is no character, so no normalizer changes it; the rest is what nobody can guess.
            guard = "\ufdd0" + secrets.token_hex(8)
            written = re.compile("|".join(map(re.escape, self._specials)))
            self._twin = guard, written, self._encoder.guarded(guard)
        return self._twin


def _overlap(found: Sequence[Range], plain: Sequence[Range]) -> bool:
    """Whether any range of the one shares a character with one of the other. Both ascend."""
    i = j = 0
    while i < len(found) and j < len(plain):
        if found[i][0] < plain[j][1] and plain[j][0] < found[i][1]:
            return True
        if found[i][1] <= plain[j][0]:
            i += 1
        else:
            j += 1
    return False


class LibraryEncoder:
    """The encoder of the `tokenizers` library."""

    def __init__(self, backend: tokenizers.Tokenizer, special_ids: frozenset[int]) -> None:
        self._backend = backend
        self._special_ids = special_ids

    def encode(self, text: str) -> tuple[list[int], list[Range]]:
        """See Encoder."""
        encoded = self._encoded(text)
        ids: list[int] = encoded.ids
        if self._special_ids.isdisjoint(ids):
            return ids, []
        pairs = zip(ids, encoded.offsets, strict=True)
        return ids, [place for token, place in pairs if token in self._special_ids]

    def _encoded(self, text: str) -> Any:
        if len(text) < LONG:
            return self._backend.encode(text, add_special_tokens=False)
        # Other threads of Python run meanwhile.
        return self._backend.encode_batch([text], add_special_tokens=False)[0]

    def guarded(self, guard: str) -> LibraryEncoder:
        """See Encoder. No merge leads to a special token any more either."""
        fields = json.loads(self._backend.to_str())
        names = {
            token["content"]: guard + token["content"] for token in fields["added_tokens"] if token["special"]
        }
        for token in fields["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        _rename(fields["model"], names)
        fields["post_processor"] = fields["decoder"] = None
        return LibraryEncoder(tokenizers.Tokenizer.from_str(json.dumps(fields)), self._special_ids)


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    """Other names for some tokens of the library's model, in its vocabulary and its merges."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(text, text): token for text, token in vocab.items()}
    else:  # Unigram: pairs of text and score
        model["vocab"] = [[names.get(text, text), score] for text, score in vocab]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint({*pair, "".join(pair)})]
