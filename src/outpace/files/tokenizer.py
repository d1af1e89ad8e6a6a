"""Text to token ids and back, around the `tokenizers` library.

A tokenizer comes from a Hugging Face folder, a GGUF file's metadata, or the text that `to_json` gave.
Encoding is the library's, except for the scores of SentencePiece (see sentence_piece) and special tokens in
plain text (see spans). Decoding gives the library's text piece by piece (see token_text).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.gguf_tokenizer import read_gguf_tokenizer
from outpace.files.json_files import json_file
from outpace.files.sentence_piece import Pieces, SentencePieceEncoder
from outpace.files.spans import Encoder, LibraryEncoder, SpanEncoder
from outpace.files.token_text import BytesText, StagedText, Steps, TextDecoder
from outpace.files.tokenizer_json import library_error, parse_tokenizer, read_tokenizer_json
from outpace.files.turn_ends import turn_ends

_HEADER, _BODY = '{"version":2,"outpace":', ',"tokenizer":'  # other versions are packed anew
_T = TypeVar("_T")
_LAST_ID = 2**32 - 1  # that the library can be asked for


class Tokenizer:
    """One model's tokenizer.

    - `vocab_size`: one more than the highest token id (a model may have more rows than that).
    - `bos_id`: the token before every text, or None; `add_bos` says whether `encode` puts it there.
    - `bos_in_chats`: whether it also goes before a chat whose template writes none. GGUF files are meant so
      (llama.cpp does it); with folders, transformers reads what the template writes and no more.
    - `eos_ids`: every token that ends a generation.
    - `special_ids`: the tokens that `decode` leaves out.
    - `strips_space`: decoding drops one space at the very beginning (SentencePiece puts one there).
    - `text_bytes`: token id -> the bytes that it adds to a text; none for special and unknown ids.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        add_bos: bool = False,
        eos_ids: Iterable[int] = (),
        vocab_size: int | None = None,
        pieces: Pieces | None = None,
        bos_in_chats: bool = False,
    ) -> None:
        """`pieces`: SentencePiece encodes, and the backend has no part in it but its vocabulary."""
        added = backend.get_added_tokens_decoder()
        self._backend = backend
        self.vocab_size = vocab_size or 1 + max(backend.get_vocab().values(), default=-1)
        self.bos_id = bos_id
        self.add_bos = add_bos and bos_id is not None
        self.bos_in_chats = bos_in_chats and self.add_bos
        self.eos_ids = frozenset(eos_ids)
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        ids = sorted({*self.eos_ids, *([] if bos_id is None else [bos_id])})
        if bad := [i for i in ids if type(i) is not int or not 0 <= i < self.vocab_size]:
            raise FormatError(f"the special token id {bad[0]} is outside the {self.vocab_size} tokens")
        self._steps = Steps(backend.decoder)
        self.strips_space = self._steps.strips_space
        specials = frozenset(token.content for token in added.values() if token.special)

        def shown(token_id: int) -> str | None:
            text = self.token(token_id)
            return None if text in specials else text

        bytes_of = self._steps.bytes_of
        self._all_bytes = _Table[bytes](self.token, bytes_of, b"")
        self.text_bytes: Mapping[int, bytes] = _Table[bytes](shown, bytes_of, b"")
        self._all_texts = _Table[str | None](self.token, str, None)
        self._texts = _Table[str | None](shown, str, None)
        self._pieces = pieces
        encoder: Encoder = LibraryEncoder(backend, self.special_ids)
        if pieces is not None:
            encoder = SentencePieceEncoder(backend, pieces)
        self._spans = SpanEncoder(encoder, specials)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From the metadata of a GGUF file (`tokenizer.ggml.*`). Raises FormatError."""
        read = read_gguf_tokenizer(metadata)
        return cls(
            read.backend,
            bos_id=read.bos_id,
            add_bos=read.add_bos,
            eos_ids=read.eos_ids,
            vocab_size=read.num_tokens,
            pieces=read.pieces,
            bos_in_chats=read.add_bos,
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """From `tokenizer.json` and the configuration files in its folder. Raises FormatError."""
        folder = Path(folder)
        if not os.path.lexists(path := folder / "tokenizer.json"):
            raise FormatError(f"{folder} has no tokenizer.json (other tokenizer files are not read)")
        backend = read_tokenizer_json(path)
        # Older folders name the special tokens in a file of their own.
        config = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
        _add_declared_tokens(backend, config.get("added_tokens_decoder"))
        eos_ids = _eos_ids(backend, folder, config)
        bos_id = _id_of(backend, special_text(config, "bos_token"))
        # The post-processor shows what the library itself would put around a text.
        probe = backend.encode("", add_special_tokens=True).ids
        if bos_id is None and probe and probe[0] not in eos_ids:
            bos_id = probe[0]
        add_bos = config.get("add_bos_token")
        if not isinstance(add_bos, bool):
            add_bos = bos_id is not None and probe[:1] == [bos_id]
        return cls(backend, bos_id=bos_id, add_bos=add_bos, eos_ids=eos_ids)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that `to_json` wrote. Raises FormatError."""
        try:
            if not text.startswith(_HEADER):
                raise ValueError
            fields, end = json.JSONDecoder().raw_decode(text, len(_HEADER))
            if not text.startswith(_BODY, end):
                raise ValueError
            if "pieces" in fields:
                fields["pieces"] = Pieces.from_fields(fields["pieces"])
            return cls(parse_tokenizer(text[end + len(_BODY) : -1], name="the stored tokenizer"), **fields)
        except FormatError:
            raise
        except (TypeError, ValueError, RecursionError):
            raise FormatError("the stored tokenizer is damaged") from None

    def to_json(self) -> str:
        """Everything about this tokenizer as one JSON text, which `from_json` reads."""
        fields: dict[str, Any] = {
            "bos_id": self.bos_id,
            "add_bos": self.add_bos,
            "eos_ids": sorted(self.eos_ids),
            "vocab_size": self.vocab_size,
            "bos_in_chats": self.bos_in_chats,
        }
        if self._pieces is not None:
            fields["pieces"] = self._pieces.to_fields()
        # The library's text is placed as it is, so that nobody parses megabytes of vocabulary twice.
        return f"{_HEADER}{json.dumps(fields)}{_BODY}{self._backend.to_str()}}}"

    def encode(self, text: str, *, add_special_tokens: bool, parse_special: bool = True) -> list[int]:
        """Token ids of `text`.

        `add_special_tokens` puts the beginning-of-text token in front where the model wants one, unless the
        text begins with it (`begins_with_bos`). `parse_special`: special tokens written out in the text are
        recognised; else they stay text. Raises OutpaceError for a text that is not valid Unicode.
        """
        return self.encode_spans([(text, parse_special)], add_special_tokens=add_special_tokens)

    def encode_spans(
        self, spans: Sequence[tuple[str, bool]], *, add_special_tokens: bool = False
    ) -> list[int]:
        """Token ids of the spans (text, parse_special) put together.

        They are those of the whole text, but that special tokens inside a plain span (parse_special=False)
        stay text. So a prompt from a chat template is its own parts, parsed, and the messages, plain.
        An OutpaceError for half of a surrogate pair, and for a text that the library fails on.
        """
        try:
            ids = self._spans.encode(spans)
        except (TypeError, UnicodeEncodeError):
            raise OutpaceError("the text is not valid Unicode (it holds half of a surrogate pair)") from None
        except BaseException as error:  # the library panics, and raises nothing more specific
            raise OutpaceError(f"the tokenizer fails on the text: {library_error(error)}") from None
        if add_special_tokens and self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def begins_with_bos(self, text: str) -> bool:
        """Whether `text` itself begins with a beginning-of-text token that `encode` would put in front."""
        return self.add_bos and self.encode(text, add_special_tokens=False)[:1] == [self.bos_id]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`, as the `tokenizers` library decodes them. Unknown ids are nothing."""
        shown = frozenset() if skip_special_tokens else self.special_ids
        decoder = self.text_decoder(continues=False, shown=shown)
        return "".join(map(decoder.push, ids)) + decoder.finish()

    def text_decoder(self, *, continues: bool, shown: Collection[int] = frozenset()) -> TextDecoder:
        """Takes ids one by one and gives the pieces of `decode`.

        `continues`: the text goes on another one, so keep the space that `decode` drops at the beginning.
        `shown`: the special tokens that are written out all the same.
        """
        if self._steps.only_bytes:
            return BytesText(_Shown(self._all_bytes, self.text_bytes, shown) if shown else self.text_bytes)
        texts = _Shown(self._all_texts, self._texts, shown) if shown else self._texts
        return StagedText(texts, self._steps.stages(continues=continues))

    def token(self, token_id: int) -> str | None:
        """The vocabulary's own text of a token ("Ġthe", "▁the", "<|im_end|>"), or None."""
        if not 0 <= token_id <= _LAST_ID:
            return None
        text: str | None = self._backend.id_to_token(token_id)
        return text

    def token_id(self, token: str) -> int | None:
        """The id of a token by the vocabulary's own text, or None."""
        return _id_of(self._backend, token)

    def first_beyond(self, num_rows: int) -> str | None:
        """A token that texts can become and that a matrix of `num_rows` rows has no row for, or None.

        Added tokens do not count, but for the one before every text: Gemma 3 1B names one for pictures that
        only its larger siblings have.
        """
        if self.vocab_size <= num_rows:
            return None
        added = self._backend.get_added_tokens_decoder()
        own = self._backend.get_vocab(with_added_tokens=False)
        if self.add_bos and self.bos_id is not None and self.bos_id >= num_rows:
            return self.token(self.bos_id)
        return next((text for text, i in own.items() if i >= num_rows and i not in added), None)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for in the middle of a text; of a special token, its written form."""
        return self._all_bytes[token_id]


class _Shown(dict[int, _T]):
    """Token id -> what a table has for it where all tokens are written, for `shown`; else what a text has."""

    def __init__(self, every: Mapping[int, _T], usual: Mapping[int, _T], shown: Collection[int]) -> None:
        super().__init__()
        self._every, self._usual, self._shown = every, usual, frozenset(shown)

    def __missing__(self, token_id: int) -> _T:
        self[token_id] = value = (self._every if token_id in self._shown else self._usual)[token_id]
        return value


class _Table(dict[int, _T]):
    """Token id -> what is made of its text, computed once per token that is met; `none` for no token."""

    def __init__(self, text_of: Callable[[int], str | None], make: Callable[[str], _T], none: _T) -> None:
        super().__init__()
        self._text_of, self._make, self._none = text_of, make, none

    def __missing__(self, token_id: int) -> _T:
        text = self._text_of(token_id)
        self[token_id] = value = self._none if text is None else self._make(text)
        return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in an optional file: empty where there is no such file. Raises FormatError."""
    return json_file(path) if os.path.lexists(path) else {}


def special_text(config: Mapping[str, Any], name: str) -> str | None:
    """The text of a special token in tokenizer_config.json, where it is a string or an object."""
    value = config.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _id_of(backend: tokenizers.Tokenizer, token: str | None) -> int | None:
    found: int | None = None if token is None else backend.token_to_id(token)
    return found


def _eos_ids(backend: tokenizers.Tokenizer, folder: Path, config: Mapping[str, Any]) -> set[int]:
    added = {token.content: (i, token) for i, token in backend.get_added_tokens_decoder().items()}
    special = (text for text, (_, token) in added.items() if token.special)
    ids = turn_ends({text: i for text, (i, _) in added.items()}.get, special)
    named = (special_text(config, name) for name in ("eos_token", "eot_token", "eom_token"))
    ids |= {token for text in named if (token := _id_of(backend, text)) is not None}
    for name in ("generation_config.json", "config.json"):
        values = read_json(folder / name)
        inner = values.get("text_config")  # of a model that also sees
        for holder in (values, inner if isinstance(inner, dict) else {}):
            found = holder.get("eos_token_id")
            for value in found if isinstance(found, list) else [found]:
                if isinstance(value, int) and not isinstance(value, bool):
                    ids.add(value)
                elif value is not None:
                    raise FormatError(
                        f"{folder / name}: eos_token_id must be an integer or a list of integers"
                    )
    return ids


def _add_declared_tokens(backend: tokenizers.Tokenizer, declared: object) -> None:
    """Adds the tokens that only tokenizer_config.json declares. Raises FormatError where an id disagrees."""
    if not isinstance(declared, dict):
        return
    known = backend.get_added_tokens_decoder()
    missing = {
        int(i): entry
        for i, entry in declared.items()
        if i.isdecimal() and len(i) < 11 and int(i) not in known
    }
    for token_id, entry in sorted(missing.items()):
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise FormatError(
                "tokenizer_config.json: added_tokens_decoder must map ids to objects with content"
            )
        flags = {name: bool(entry.get(name)) for name in ("lstrip", "rstrip", "normalized", "single_word")}
        special = bool(entry.get("special"))
        token = tokenizers.AddedToken(entry["content"], special=special, **flags)
        (backend.add_special_tokens if special else backend.add_tokens)([token])
        if backend.token_to_id(entry["content"]) != token_id:
            raise FormatError(f"tokenizer_config.json: {entry['content']!r} cannot have the id {token_id}")
