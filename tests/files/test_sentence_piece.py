"""SentencePiece BPE over any vocabulary, against the sentencepiece library and the definition itself."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.errors import FormatError
from outpace.files.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
Piece = tuple[str, float, int]
BEGINNING: list[Piece] = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
BYTES: list[Piece] = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
LLAMA_RUNS: list[Piece] = [("a", -1.0, NORMAL), *(("▁" * n, -1e9, NORMAL) for n in range(1, 17))]


def metadata(pieces: list[Piece], *, add_space: bool = False) -> dict[str, Any]:
    texts, scores, types = zip(*pieces, strict=True)
    fields = {
        "model": "llama",
        "tokens": list(texts),
        "scores": np.array(scores, np.float32),
        "token_type": list(types),
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_space_prefix": add_space,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()}


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: bytes | int | float) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def library(pieces: list[Piece], *, add_space: bool = False) -> sentencepiece.SentencePieceProcessor:
    """The library's processor for a BPE model of these pieces: the message ModelProto of its .proto file."""
    listed = b"".join(
        field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in pieces
    )
    fallback = any(kind == BYTE for *_, kind in pieces)
    trainer = field(3, 2) + field(35, int(fallback))
    normalizer = field(1, b"identity") + field(3, int(add_space)) + field(4, 0) + field(5, 1)
    model = listed + field(2, trainer) + field(3, normalizer)
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def by_definition(pieces: list[Piece], text: str, *, add_space: bool = False) -> list[int]:
    """Merges one pair after another, looking at all of them each time. No user-defined or unused pieces."""
    ids = {piece: i for i, (piece, _, kind) in enumerate(pieces)}
    score = {piece: number for piece, number, kind in pieces if kind == NORMAL}
    parts = list(("▁" * (add_space and text != "") + text).replace(" ", "▁"))
    while unions := [
        (score[both], -place)
        for place in range(len(parts) - 1)
        if (both := parts[place] + parts[place + 1]) in score
    ]:
        place = -max(unions)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    found: list[int] = []
    for part in parts:
        found += [ids[part]] if part in score else [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
    return found


LETTERS = "ab▁é"
texts = st.text(alphabet="ab é▁x\n", max_size=30)
# Few scores, so that ties are the rule; -inf, and what differs in the last bit, are scores like any other.
some_scores = st.sampled_from([0.0, -1.0, -1.0000001, -2.0, 3.5, -1e9, -math.inf])


@st.composite
def vocabularies(draw: st.DrawFn, kinds: tuple[int, ...] = (NORMAL,)) -> list[Piece]:
    names = draw(
        st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=5), min_size=1, max_size=25, unique=True)
    )
    return [*BEGINNING, *((name, draw(some_scores), draw(st.sampled_from(kinds))) for name in names), *BYTES]


@given(pieces=vocabularies(), text=texts, add_space=st.booleans())
def test_any_vocabulary_equals_sentencepiece_and_the_definition(
    pieces: list[Piece], text: str, add_space: bool
) -> None:
    ours = Tokenizer.from_gguf(metadata(pieces, add_space=add_space))
    ids = ours.encode(text, add_special_tokens=False)
    assert ids == by_definition(pieces, text, add_space=add_space)
    assert ids == library(pieces, add_space=add_space).encode(text)
    assert Tokenizer.from_json(ours.to_json()).encode(text, add_special_tokens=False) == ids
    assert ours.encode(text, add_special_tokens=False) == ids  # from the cache


@given(pieces=vocabularies((NORMAL, NORMAL, USER_DEFINED, UNUSED)), text=texts)
def test_user_defined_and_unused_pieces_equal_sentencepiece(pieces: list[Piece], text: str) -> None:
    ours = Tokenizer.from_gguf(metadata(pieces))
    ids = library(pieces).encode(text)
    assert ours.encode(text, add_special_tokens=False) == ids
    assert Tokenizer.from_json(ours.to_json()).encode(text, add_special_tokens=False) == ids


@given(pieces=vocabularies(), text=texts)
def test_without_bytes_a_run_of_unknown_characters_is_one_token(pieces: list[Piece], text: str) -> None:
    pieces = pieces[: -len(BYTES)]
    ours = Tokenizer.from_gguf(metadata(pieces))
    assert ours.encode(text, add_special_tokens=False) == library(pieces).encode(text)


@pytest.mark.parametrize("spaces", [1, 2, 3, 5, 8, 15, 16, 17, 31, 100])
@pytest.mark.parametrize("add_space", [False, True])
def test_runs_of_spaces_that_share_a_score(spaces: int, add_space: bool) -> None:
    """As in Llama 2, Mistral 7B and Phi-3, where each run of spaces has the score -1e9."""
    pieces = [*BEGINNING, *LLAMA_RUNS, *BYTES]
    ours = Tokenizer.from_gguf(metadata(pieces, add_space=add_space))
    for text in ("a" + " " * spaces, " " * spaces + "a", " " * spaces, f"a\n{' ' * spaces}a a"):
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == library(pieces, add_space=add_space).encode(text)
    assert len(ours.encode("a" + " " * spaces, add_special_tokens=False)) <= 2 + add_space + spaces // 8


def test_unused_pieces_may_share_a_name() -> None:
    """Rows that pad the embedding often do; what a text needs may be called like them."""
    padding: list[Piece] = [
        ("[PAD]", 0.0, UNUSED),
        ("[PAD]", 0.0, UNUSED),
        ("", 0.0, UNUSED),
        ("a", 0.0, UNUSED),
    ]
    pieces = [*BEGINNING, ("a", -1.0, NORMAL), *padding, *BYTES]
    ours = Tokenizer.from_gguf(metadata(pieces))
    assert ours.vocab_size == len(pieces)
    text = ours.encode("a[PAD]", add_special_tokens=False)
    assert text[0] == 3 and ours.decode(text) == "a[PAD]" and not {4, 5, 6, 7} & {*text}
    named_twice: list[Piece] = [*BEGINNING, ("a", -1.0, NORMAL), ("a", -1.0, NORMAL), *BYTES]
    with pytest.raises(FormatError, match="'a' twice"):
        Tokenizer.from_gguf(metadata(named_twice))


def test_a_text_of_many_chunks_and_a_very_long_one() -> None:
    """Cut where nothing can be merged, long ones not cached; a piece may span a newline or a space."""
    joined: list[Piece] = [
        ("a", -3.0, NORMAL),
        ("b", -3.0, NORMAL),
        ("a\na", -1.0, NORMAL),
        ("\na", -2.0, NORMAL),
    ]
    pieces = [*BEGINNING, *joined, ("▁", -4.0, NORMAL), ("b▁a", -0.5, NORMAL), ("▁a", -0.75, NORMAL), *BYTES]
    ours, theirs = Tokenizer.from_gguf(metadata(pieces)), library(pieces)
    for text in ("a\na b a\nb x b a " * 300, "ab" * 3000, "b a" * 2000, "x" * 4000, "\0a\0" * 9):
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text)


def test_control_tokens_and_bytes_are_no_merge_of_text() -> None:
    pieces: list[Piece] = [(letter, -1.0, NORMAL) for letter in "<s>0x41/"]
    pieces += [("<s", -0.5, NORMAL), ("<0", -0.5, NORMAL), ("x41>", -0.5, NORMAL), ("x4", 0.0, NORMAL)]
    pieces = [*BEGINNING, *dict.fromkeys(pieces), *BYTES]
    ours = Tokenizer.from_gguf(metadata(pieces))
    for text in ("<s>", "<0x41>", "</s><unk>"):
        ids = ours.encode(text, add_special_tokens=False, parse_special=False)
        assert ids == library(pieces).encode(text) and min(ids) > 2
    assert ours.encode("<s></s>", add_special_tokens=False) == [1, 2]
    assert ours.encode_spans([("<s>", True), ("<s>", False), ("</s>", True)]) == [
        1,
        *ours.encode("<s>", add_special_tokens=False, parse_special=False),
        2,
    ]


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": "%"},
        {"scores": "AAA="},
        {"joined": ""},
        {"unused": ["x"]},
        {"unused": None},
        {"add_space": 0},
    ],
)
def test_damaged_pieces_are_one_line(damage: dict[str, Any]) -> None:
    stored = json.loads(Tokenizer.from_gguf(metadata([*BEGINNING, *LLAMA_RUNS, *BYTES])).to_json())
    stored["outpace"]["pieces"] |= damage
    with pytest.raises(FormatError, match="damaged"):
        Tokenizer.from_json(json.dumps(stored, separators=(",", ":")))


def test_a_tokenizer_of_the_format_before_is_packed_anew() -> None:
    """It holds merges instead of scores."""
    text = Tokenizer.from_gguf(metadata([*BEGINNING, *LLAMA_RUNS, *BYTES])).to_json()
    with pytest.raises(FormatError):
        Tokenizer.from_json(text.replace('{"version":2,"outpace":', '{"outpace":'))
