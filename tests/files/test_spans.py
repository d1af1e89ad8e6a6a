"""Special tokens in plain text, against the `tokenizers` library told to take none of them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from outpace.files import spans
from outpace.files.tokenizer import Tokenizer
from tests.files.vocabularies import (
    SPECIALS,
    byte_level_metadata,
    sentence_piece_metadata,
    trained_bpe,
    trained_pieces,
)


def byte_level() -> tokenizers.Tokenizer:
    ours = Tokenizer.from_gguf(byte_level_metadata(*trained_bpe(), "qwen2"))
    backend = tokenizers.Tokenizer.from_str(json.dumps(json.loads(ours.to_json())["tokenizer"]))
    backend.add_tokens([AddedToken("<tool>", normalized=False)])
    backend.add_special_tokens([AddedToken("<|pad|>", special=True, lstrip=True, rstrip=True)])
    return backend


def words() -> tokenizers.Tokenizer:
    """A special token that is a word of the vocabulary as well."""
    backend = tokenizers.Tokenizer(models.WordLevel({"[U]": 0, "tide": 1, "[E]": 2, "pad": 3}, "[U]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["[U]", "[E]", AddedToken("pad", special=True, single_word=True)])
    return backend


def merged() -> tokenizers.Tokenizer:
    """A special token that merges lead to."""
    letters = {letter: i for i, letter in enumerate("<s>▁ab")}
    vocab = letters | {"<s": 6, "<s>": 7, "ab": 8}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [("<", "s"), ("<s", ">"), ("a", "b")]))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    return backend


def unigram() -> tokenizers.Tokenizer:
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("a", -1.0), ("▁", -1.5), ("<", -2.0), ("s", -2.0), (">", -2.0)]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    return backend


KINDS = {
    "byte_level": (byte_level(), [*SPECIALS, "<|pad|>"]),
    "words": (words(), ["[E]", "pad"]),
    "merged": (merged(), ["<s>"]),
    "unigram": (unigram(), ["<s>"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_plain_text_has_no_special_token(kind: str) -> None:
    backend, specials = KINDS[kind]
    ours = Tokenizer(backend)
    special_ids = {backend.token_to_id(text) for text in specials}
    told = tokenizers.Tokenizer.from_str(backend.to_str())
    told.encode_special_tokens = True
    part = st.sampled_from([*specials, "a", "tide", " ", "\n", "<tool>", "<", "é", "\ufdd0"])

    @given(st.lists(part, max_size=8).map("".join))
    def check(text: str) -> None:
        ids = ours.encode(text, add_special_tokens=False, parse_special=False)
        assert special_ids.isdisjoint(ids)
        theirs = told.encode(text, add_special_tokens=False).ids
        if special_ids.isdisjoint(theirs):  # the library's vocabulary itself may lead to one
            assert ids == theirs
        assert (
            ours.encode(text, add_special_tokens=False) == backend.encode(text, add_special_tokens=False).ids
        )

    check()


@pytest.mark.parametrize("kind", ["byte_level", "merged"])
def test_spans_are_the_whole_text(kind: str) -> None:
    """Between the special tokens of the parsed spans, everything is what the library makes of plain text."""
    backend, specials = KINDS[kind]
    ours = Tokenizer(backend)
    name = specials[0]
    special = backend.token_to_id(name)
    assert special is not None
    part = st.sampled_from(["a", "b", "tide", " ", "\n", "<tool>", "\ufdd0"])
    plain = st.lists(st.one_of(part, st.sampled_from(specials)), max_size=4).map("".join)
    parsed = st.lists(part, max_size=3).map("".join)

    @given(st.lists(st.tuples(parsed, plain, parsed), max_size=4))
    def check(turns: list[tuple[str, str, str]]) -> None:
        spans = [
            span for turn in turns for span in zip((*turn, name), (True, False, True, True), strict=True)
        ]
        expected: list[int] = []
        for turn in turns:
            expected += ours.encode("".join(turn), add_special_tokens=False, parse_special=False)
            expected.append(special)
        assert ours.encode_spans(spans) == expected

    check()


def test_only_the_first_segment_of_a_text_has_a_space() -> None:
    """Metaspace looks at the place in the whole text, so that no span may be encoded by itself."""
    ours = Tokenizer(KINDS["unigram"][0])
    assert ours.encode_spans([("a<s>", True), ("<s>", False), ("<s>a", True)]) == [3, 2, 1, 4, 5, 6, 1, 2]


def test_a_special_token_over_the_end_of_a_span_is_text() -> None:
    ours = Tokenizer.from_gguf(byte_level_metadata(*trained_bpe(), "qwen2"))
    whole = "<|im_end|>"
    text = ours.encode(whole, add_special_tokens=False, parse_special=False)
    assert len(text) > 1
    for cut in range(len(whole)):
        assert ours.encode_spans([(whole[:cut], True), (whole[cut:], False)]) == text
        assert ours.encode_spans([(whole[: cut + 1], False), (whole[cut + 1 :], True)]) == text
    assert ours.encode_spans([(whole[:5], True), ("", False), (whole[5:], True)]) == [ours.token_id(whole)]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_bos_is_neither_doubled_nor_lost(kind: str) -> None:
    metadata: dict[str, Any]
    if kind == "llama":
        metadata, bos = sentence_piece_metadata(trained_pieces()), "<s>"
    else:
        vocab, merges = trained_bpe()
        bos = "<|endoftext|>"
        more = {"bos_token_id": vocab[bos], "add_bos_token": True}
        metadata = byte_level_metadata(vocab, merges, "qwen2", **more)
    ours = Tokenizer.from_gguf(metadata)
    assert ours.bos_id is not None
    rest = ours.encode("tide", add_special_tokens=False)
    for text, begins in (("tide", False), (f"{bos}tide", True)):
        assert ours.encode(text, add_special_tokens=True) == [ours.bos_id, *rest]
        assert ours.begins_with_bos(text) is begins
    assert (
        ours.encode(bos, add_special_tokens=True) == [ours.bos_id] == ours.encode("", add_special_tokens=True)
    )
    plain = ours.encode(f"{bos}tide", add_special_tokens=True, parse_special=False)
    assert plain.count(ours.bos_id) == 1 and plain[0] == ours.bos_id and len(plain) > 1 + len(rest)
    spans = [(f"{bos}a", True), (bos, False)]
    assert ours.encode_spans(spans, add_special_tokens=True).count(ours.bos_id) == 1
    assert ours.encode_spans(spans[1:], add_special_tokens=True)[0] == ours.bos_id
    without = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.add_bos_token": False})
    assert not without.begins_with_bos(f"{bos}tide") and ours.bos_id not in without.encode(
        "tide", add_special_tokens=True
    )


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_have_the_same_tokens(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, names = KINDS[kind]
    specials = frozenset(backend.token_to_id(name) or 0 for name in names)
    encoder = spans.LibraryEncoder(backend, specials)
    text = "a b the cat " + " ".join(names) * 3
    usual = encoder.encode(text)
    monkeypatch.setattr(spans, "LONG", 1)
    assert encoder.encode(text) == usual and usual[1]


def test_long_texts_are_read_beside_other_threads() -> None:
    """`encode` of tokenizers keeps them waiting, `encode_batch` does not."""

    class Backend:
        def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[Any]:
            return [SimpleNamespace(ids=[len(text)]) for text in texts]

    encoder = spans.LibraryEncoder(cast(Any, Backend()), frozenset())
    assert encoder.encode("a" * spans.LONG) == ([spans.LONG], [])
