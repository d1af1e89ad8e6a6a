"""Text to token ids and back, around the `tokenizers` library.

A tokenizer comes from a Hugging Face folder, a GGUF file's metadata, or the text that `to_json` gave.
Encoding is the library's. Decoding is a table from token id to bytes, so that a text can be decoded piece
by piece in constant time per token: every decoder of the architectures that we read is such a table.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from outpace.core.errors import FormatError, OutpaceError
from outpace.formats.gguf_tokenizer import read_gguf_tokenizer
from outpace.formats.json_files import json_file
from outpace.formats.sentence_piece import Pieces, SentencePieceEncoder
from outpace.formats.spans import Encoder, LibraryEncoder, SpanEncoder

# A chat model may end its turn with any of these, whichever of them its file calls "the" end.
_END_OF_TURN = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<end_of_turn>",
)
_HEADER, _BODY = '{"version":2,"outpace":', ',"tokenizer":'  # other versions are packed anew


class Tokenizer:
    """One model's tokenizer.

    - `vocab_size`: one more than the highest token id (a model may have more rows than that).
    - `bos_id`: the token before every text, or None; `add_bos` says whether `encode` puts it there.
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
    ) -> None:
        """`pieces`: SentencePiece encodes, and the backend has no part in it but its vocabulary."""
        added = backend.get_added_tokens_decoder()
        self._backend = backend
        self.vocab_size = vocab_size or 1 + max(backend.get_vocab().values(), default=-1)
        self.bos_id = bos_id
        self.add_bos = add_bos and bos_id is not None
        self.eos_ids = frozenset(eos_ids)
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        if bad := [i for i in sorted({*self.eos_ids, bos_id or 0}) if not 0 <= i < self.vocab_size]:
            raise FormatError(f"the special token id {bad[0]} is outside the {self.vocab_size} tokens")
        to_bytes, self.strips_space = _read_decoder(backend.decoder)
        self._all_bytes = _ByteTable(backend, to_bytes, plain=frozenset(added), hidden=frozenset())
        specials = (token.content for token in added.values() if token.special)
        self._pieces = pieces
        encoder: Encoder = LibraryEncoder(backend, self.special_ids)
        if pieces is not None:
            encoder = SentencePieceEncoder(backend, pieces)
        self._spans = SpanEncoder(encoder, specials)
        self.text_bytes: Mapping[int, bytes]
        self.text_bytes = _ByteTable(backend, to_bytes, plain=frozenset(added), hidden=self.special_ids)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From the metadata of a GGUF file (`tokenizer.ggml.*`). Raises FormatError."""
        read = read_gguf_tokenizer(metadata)
        return cls(
            read.backend,
            bos_id=read.bos_id,
            add_bos=read.add_bos,
            eos_ids=read.eos_ids | _turn_ends(read.backend),
            vocab_size=read.num_tokens,
            pieces=read.pieces,
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """From `tokenizer.json` and the configuration files beside it. Raises FormatError."""
        folder = Path(folder)
        if not (path := folder / "tokenizer.json").is_file():
            raise FormatError(f"{folder} has no tokenizer.json (other tokenizer files are not read)")
        try:
            backend = _parse(path.read_text(encoding="utf-8"), name=str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(f"{path}: {error}") from None
        config = read_json(folder / "tokenizer_config.json")
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
            return cls(_parse(text[end + len(_BODY) : -1], name="the stored tokenizer"), **fields)
        except FormatError:
            raise
        except (TypeError, ValueError):
            raise FormatError("the stored tokenizer is damaged") from None

    def to_json(self) -> str:
        """Everything about this tokenizer as one JSON text, which `from_json` reads."""
        fields: dict[str, Any] = {
            "bos_id": self.bos_id,
            "add_bos": self.add_bos,
            "eos_ids": sorted(self.eos_ids),
            "vocab_size": self.vocab_size,
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
        """
        try:
            ids = self._spans.encode(spans)
        except (TypeError, UnicodeEncodeError):
            raise OutpaceError("the text is not valid Unicode (it holds half of a surrogate pair)") from None
        if add_special_tokens and self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def begins_with_bos(self, text: str) -> bool:
        """Whether `text` itself begins with a beginning-of-text token that `encode` would put in front."""
        return self.add_bos and self.encode(text, add_special_tokens=False)[:1] == [self.bos_id]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`. Bytes that are not valid UTF-8 become U+FFFD; unknown ids, nothing."""
        table = self.text_bytes if skip_special_tokens else self._all_bytes
        text = b"".join(map(table.__getitem__, ids)).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.strips_space else text

    def token(self, token_id: int) -> str | None:
        """The vocabulary's own text of a token ("Ġthe", "▁the", "<|im_end|>"), or None."""
        text: str | None = self._backend.id_to_token(token_id)
        return text

    def token_id(self, token: str) -> int | None:
        """The id of a token by the vocabulary's own text, or None."""
        return _id_of(self._backend, token)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; of a special token, its written form."""
        return self._all_bytes[token_id]


class _ByteTable(dict[int, bytes]):
    """Token id -> bytes, computed once per token that is met."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        to_bytes: Callable[[str], bytes],
        *,
        plain: frozenset[int],
        hidden: frozenset[int],
    ) -> None:
        super().__init__()
        self._backend, self._to_bytes, self._plain, self._hidden = backend, to_bytes, plain, hidden

    def __missing__(self, token_id: int) -> bytes:
        text = None if token_id in self._hidden or token_id < 0 else self._backend.id_to_token(token_id)
        if text is None:
            value = b""
        elif token_id in self._plain:
            value = text.encode()
        else:
            value = self._to_bytes(text)
        self[token_id] = value
        return value


_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def _read_decoder(decoder: Any) -> tuple[Callable[[str], bytes], bool]:
    """A decoder of the `tokenizers` library as (text of a token to bytes, whether one leading space goes)."""
    if decoder is None:  # the library then puts spaces between the tokens
        return lambda text: b" " + text.encode(), True
    steps = _flatten(json.loads(decoder.__getstate__()))
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        return _byte_level_bytes, False
    if kinds - {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        raise FormatError(
            f"unknown decoder {' + '.join(sorted(kinds))} in tokenizer.json; accepted: ByteLevel, or a "
            "sequence of Replace, ByteFallback, Fuse, Strip and Metaspace"
        )
    spaces = {step["replacement"]: " " for step in steps if step["type"] == "Metaspace"}
    for step in steps:
        if step["type"] == "Replace":
            pattern = step["pattern"].get("String")
            if not pattern:
                raise FormatError(
                    "a decoder in tokenizer.json replaces by a pattern; accepted: plain strings"
                )
            spaces[pattern] = step["content"]
        if step["type"] == "Strip" and (step["content"], step["start"], step["stop"]) != (" ", 1, 0):
            raise FormatError("a decoder in tokenizer.json strips text; accepted: one space at the beginning")

    def to_bytes(text: str) -> bytes:
        if "ByteFallback" in kinds and (byte := _BYTE_TOKEN.fullmatch(text)):
            return bytes([int(byte[1], 16)])
        for old, new in spaces.items():
            text = text.replace(old, new)
        return text.encode()

    metaspace = any(step["type"] == "Metaspace" and step.get("prepend_scheme") != "never" for step in steps)
    return to_bytes, metaspace or "Strip" in kinds


def _flatten(step: dict[str, Any]) -> list[dict[str, Any]]:
    if step["type"] != "Sequence":
        return [step]
    return [leaf for inner in step["decoders"] for leaf in _flatten(inner)]


def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the 68 others are U+0100 and on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()


def _byte_level_bytes(text: str) -> bytes:
    try:
        return bytes([_BYTE_OF_LETTER[letter] for letter in text])
    except KeyError:  # not written in that alphabet, so it is plain text
        return text.encode()


def _parse(text: str, *, name: str) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more specific
        raise FormatError(f"{name}: not a tokenizer of the `tokenizers` library: {error}") from None
    backend.no_truncation()
    backend.no_padding()
    return backend


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


def _turn_ends(backend: tokenizers.Tokenizer) -> set[int]:
    added = backend.get_added_tokens_decoder()
    return {i for i, token in added.items() if token.special and token.content in _END_OF_TURN}


def _eos_ids(backend: tokenizers.Tokenizer, folder: Path, config: Mapping[str, Any]) -> set[int]:
    ids = _turn_ends(backend)
    if (eos := _id_of(backend, special_text(config, "eos_token"))) is not None:
        ids.add(eos)
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name).get("eos_token_id")
        for value in found if isinstance(found, list) else [found]:
            if isinstance(value, int) and not isinstance(value, bool):
                ids.add(value)
            elif value is not None:
                raise FormatError(f"{folder / name}: eos_token_id must be an integer or a list of integers")
    return ids


def _add_declared_tokens(backend: tokenizers.Tokenizer, declared: object) -> None:
    """Adds the tokens that only tokenizer_config.json declares. Raises FormatError where an id disagrees."""
    if not isinstance(declared, dict):
        return
    known = backend.get_added_tokens_decoder()
    missing = {int(i): entry for i, entry in declared.items() if i.isdecimal() and int(i) not in known}
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
