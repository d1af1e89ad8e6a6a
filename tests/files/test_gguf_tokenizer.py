"""Tokenizers of GGUF files against transformers, SentencePiece and llama.cpp."""

from __future__ import annotations

import inspect
import random
import unicodedata
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers
from transformers import GPT2Tokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from outpace.core.errors import FormatError
from outpace.files import catalog
from outpace.files.gguf import GGUFFile
from outpace.files.tokenizer import Tokenizer
from tests.files.vocabularies import (
    SPECIALS,
    TEXTS,
    WHOLE_WORD,
    Vocabulary,
    byte_level_metadata,
    sentence_piece_metadata,
    trained_bpe,
    trained_pieces,
)

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@pytest.fixture(scope="module")
def trained() -> Vocabulary:
    return trained_bpe()


@pytest.fixture(scope="module")
def pieces() -> sentencepiece.SentencePieceProcessor:
    return trained_pieces()


def reference(pre: str, vocab: dict[str, int], merges: Any) -> Any:
    """transformers' own tokenizer for one `tokenizer.ggml.pre`."""
    if pre in ("gpt-2", "qwen2"):
        kind = GPT2Tokenizer if pre == "gpt-2" else Qwen2Tokenizer
        return kind(vocab=vocab, merges=merges, additional_special_tokens=SPECIALS)
    if pre == "smollm":
        words = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    else:
        pattern = inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
        words = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(words)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=SPECIALS)


@pytest.mark.parametrize("pre", ["gpt-2", "qwen2", "smollm", "llama-bpe"])
def test_byte_level_gguf_equals_transformers(trained: Vocabulary, pre: str) -> None:
    ours = Tokenizer.from_gguf(byte_level_metadata(*trained, pre))
    theirs = reference(pre, *trained)
    stored = Tokenizer.from_json(ours.to_json())

    @given(st.one_of(st.sampled_from(TEXTS), st.text(), st.text(alphabet="aAtT 's1\n\t\r日é🙂.<|>_/")))
    def check(text: str) -> None:
        ids = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text, add_special_tokens=False) == ids
        assert stored.encode(text, add_special_tokens=False) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)

    check()


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("smollm", "1|2|3|4|HelloWorld|'|LL"),
        ("gpt-2", "1234|HelloWorld|'|LL"),
        ("qwen2", "1|2|3|4|HelloWorld|'LL"),
        ("llama3", "123|4|HelloWorld|'LL"),
        ("llama-v3", "123|4|HelloWorld|'LL"),
        ("tekken", "1|2|3|4|Hello|World|'LL"),
        ("default", "123|4|HelloWorld|'|LL"),
    ],
)
def test_words_of_every_pre(pre: str, words: str) -> None:
    """The merges would join everything, so that the words are what comes out."""
    text, merges = "1234HelloWorld'LL", []
    vocab = {letter: i for i, letter in enumerate(sorted(set(text)))}
    for start in range(len(text)):
        for end in range(start + 2, len(text) + 1):
            merges.append((text[start : end - 1], text[end - 1]))
            vocab.setdefault(text[start:end], len(vocab))
    vocab |= {special: len(vocab) + i for i, special in enumerate(SPECIALS)}
    merges.sort(key=lambda merge: -len(merge[0]))  # a word that has begun grows first
    ours = Tokenizer.from_gguf(byte_level_metadata(vocab, merges, pre))
    assert "|".join(map(str, map(ours.token, ours.encode(text, add_special_tokens=False)))) == words


@pytest.mark.parametrize(
    ("name", "like"),
    [
        *((name, "llama3") for name in ("falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2")),
        *((name, "gpt-2") for name in ("mellum", "phi-2", "exaone4", "gigachat", "a.x-4.0", "olmo", "mpt")),
        *((name, "qwen2") for name in ("deepseek-r1-qwen", "megrez", "kormo")),
        *((name, "smollm") for name in ("starcoder", "refact", "command-r", "minerva-7b", "codeshell")),
        ("", "default"),
    ],
)
def test_other_names_of_a_pre(trained: Vocabulary, name: str, like: str) -> None:
    """llama.cpp gives these the same rules."""
    vocab, merges = trained
    more = {"bos_token_id": 0}
    ours, theirs = (
        Tokenizer.from_gguf(byte_level_metadata(vocab, merges, pre, **more)) for pre in (name, like)
    )
    assert (ours.add_bos, ours.bos_id) == (theirs.add_bos, theirs.bos_id)
    for text in [*TEXTS, "12345 HelloWorld'LL e\u0301", " moonlit"]:
        for add in (True, False):
            assert ours.encode(text, add_special_tokens=add) == theirs.encode(text, add_special_tokens=add)


@pytest.mark.parametrize("name", ["smaug-bpe", "dbrx", "glm4", "chatglm-bpe"])
def test_names_with_the_words_of_llama3_and_no_more(trained: Vocabulary, name: str) -> None:
    vocab, merges = trained
    ours = Tokenizer.from_gguf(byte_level_metadata(vocab, merges, name, bos_token_id=0))
    llama3 = Tokenizer.from_gguf(byte_level_metadata(vocab, merges, "llama3", bos_token_id=0))
    assert not ours.add_bos and llama3.add_bos
    text = "1234 HelloWorld'LL"
    assert ours.encode(text, add_special_tokens=True) == llama3.encode(text, add_special_tokens=False)
    assert vocab[WHOLE_WORD] in llama3.encode(" moonlit", add_special_tokens=False)
    assert vocab[WHOLE_WORD] not in ours.encode(" moonlit", add_special_tokens=False)


@pytest.mark.parametrize("name", ["stablelm2", "hunyuan", "grok-2", "solar-open"])
def test_names_with_the_words_of_qwen2_and_no_more(trained: Vocabulary, name: str) -> None:
    ours, qwen2 = (Tokenizer.from_gguf(byte_level_metadata(*trained, pre)) for pre in (name, "qwen2"))
    for text in TEXTS:
        whole = unicodedata.normalize("NFC", text)
        found = ours.encode(whole, add_special_tokens=True)
        assert found == qwen2.encode(text, add_special_tokens=True)
    assert ours.decode(ours.encode("e\u0301", add_special_tokens=True)) == "e\u0301"


@pytest.mark.parametrize("kind", [NORMAL, CONTROL, USER_DEFINED, UNUSED])
@pytest.mark.parametrize(
    "text",
    [
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<|end_of_text|>",
        "<|eot|>",
        "<EOT>",
        "<|file_sep|>",
        "<fim_pad>",
        "<reponame>",
    ],
)
def test_every_end_of_a_text_whatever_its_type(trained: Vocabulary, text: str, kind: int) -> None:
    vocab, merges = dict(trained[0]), trained[1]
    vocab[text] = len(vocab)
    metadata = byte_level_metadata(vocab, merges, "qwen2")
    metadata["tokenizer.ggml.token_type"][-1] = kind
    ours = Tokenizer.from_gguf(metadata)
    assert vocab[text] in ours.eos_ids and vocab[text] in ours.special_ids
    assert ours.encode(text, add_special_tokens=False) == [vocab[text]]
    assert ours.decode([vocab["a"], vocab[text]]) == "a"
    assert vocab[text] not in ours.encode(text, add_special_tokens=False, parse_special=False)


@pytest.mark.parametrize("key", ["eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"])
@pytest.mark.parametrize("kind", [NORMAL, CONTROL, USER_DEFINED, UNUSED])
def test_every_key_of_an_end(trained: Vocabulary, key: str, kind: int) -> None:
    vocab, merges = dict(trained[0]), trained[1]
    vocab["<stop here>"] = len(vocab)
    metadata = byte_level_metadata(vocab, merges, "qwen2", **{f"{key}_token_id": np.int32(len(vocab) - 1)})
    metadata["tokenizer.ggml.token_type"][-1] = kind
    ours = Tokenizer.from_gguf(metadata)
    assert vocab["<stop here>"] in ours.eos_ids & ours.special_ids


@pytest.mark.parametrize("text", ["</s>", "<eos>", "[EOT]"])
def test_what_may_be_text_ends_it_only_as_a_control_token(trained: Vocabulary, text: str) -> None:
    """`</s>` ends what is struck out in HTML, and some vocabularies have it as a word."""
    vocab, merges = dict(trained[0]), trained[1]
    vocab[text] = len(vocab)
    for kind in (NORMAL, CONTROL, USER_DEFINED):
        metadata = byte_level_metadata(vocab, merges, "qwen2")
        metadata["tokenizer.ggml.token_type"][-1] = kind
        assert (vocab[text] in Tokenizer.from_gguf(metadata).eos_ids) == (kind == CONTROL)


def test_sentence_piece_without_the_keys_of_its_tokens(pieces: sentencepiece.SentencePieceProcessor) -> None:
    """llama.cpp takes 0, 1 and 2; here, where they are called so."""
    metadata = sentence_piece_metadata(pieces)
    without = {key: value for key, value in metadata.items() if not key.endswith("_token_id")}
    ours, theirs = Tokenizer.from_gguf(without), Tokenizer.from_gguf(metadata)
    assert (ours.bos_id, ours.add_bos, ours.eos_ids) == (1, True, theirs.eos_ids)
    assert ours.encode("☃ a", add_special_tokens=True) == theirs.encode("☃ a", add_special_tokens=True)
    renamed = ["a0", "a1", "a2", *without["tokenizer.ggml.tokens"][3:]]
    other = Tokenizer.from_gguf(without | {"tokenizer.ggml.tokens": renamed})
    assert (other.bos_id, other.add_bos) == (None, False) and not other.eos_ids & {0, 1, 2}


def test_token_types_of_gguf(trained: Vocabulary) -> None:
    vocab, merges = dict(trained[0]), trained[1]
    for text in ("<tool_call>", "[PAD1]", "[PAD2]"):
        vocab[text] = len(vocab)
    metadata = byte_level_metadata(vocab, merges, "qwen2", bos_token_id=np.uint32(5), add_bos_token=True)
    types = np.array(metadata["tokenizer.ggml.token_type"], dtype=np.int32)
    types[-3:] = 4, 5, 5
    ours = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.token_type": types})
    assert ours.vocab_size == len(vocab)
    assert (ours.bos_id, ours.add_bos) == (5, True)
    assert ours.eos_ids == {vocab["<|im_end|>"], vocab["<|endoftext|>"]}
    assert ours.encode("a<tool_call>", add_special_tokens=True) == [5, vocab["a"], vocab["<tool_call>"]]
    assert ours.decode([vocab["<tool_call>"], vocab["<|im_end|>"]]) == "<tool_call>"
    assert ours.decode([vocab["[PAD1]"], len(vocab), 10**9]) == ""
    assert vocab["[PAD1]"] not in ours.encode("[PAD1]", add_special_tokens=False)
    assert ours.token_bytes(vocab["<|im_end|>"]) == b"<|im_end|>"
    assert ours.token_bytes(vocab["Ġ"]) == b" "
    assert (ours.token(vocab["Ġ"]), ours.token_id("Ġ"), ours.token_id("nope")) == ("Ġ", vocab["Ġ"], None)
    assert ours.token(len(vocab)) is None


def test_sentence_piece_gguf_equals_sentencepiece(pieces: sentencepiece.SentencePieceProcessor) -> None:
    ours = Tokenizer.from_gguf(sentence_piece_metadata(pieces))
    stored = Tokenizer.from_json(ours.to_json())
    assert (ours.bos_id, ours.add_bos, ours.strips_space) == (1, True, True)
    assert ours.eos_ids == {2, pieces.piece_to_id("<end_of_turn>")}

    @given(st.one_of(st.sampled_from(TEXTS[:8]), st.text(alphabet="aetT h's1\n\t日é🙂☃.,_")))
    def check(text: str) -> None:
        ids = pieces.encode(text)
        assert ours.encode(text, add_special_tokens=False) == ids
        assert stored.encode(text, add_special_tokens=True) == [1, *ids]
        assert ours.decode(ids) == pieces.decode(ids) == text
        assert ours.decode([1, *ids, 2]) == text

    check()


def test_one_merge_per_token_is_enough() -> None:
    """Text that repeats itself can be cut in many ways, and SentencePiece takes the leftmost of equals."""
    chance = random.Random(0)
    corpus = tuple("".join(chance.choices("aaabb  c", k=200)) for _ in range(60))
    pieces = trained_pieces(corpus, 600)
    ours = Tokenizer.from_gguf(sentence_piece_metadata(pieces))
    for _ in range(1000):
        text = "".join(chance.choices("aaabb  cd", k=chance.randrange(60)))
        assert ours.encode(text, add_special_tokens=False) == pieces.encode(text)


def test_sentence_piece_without_a_space_before(pieces: sentencepiece.SentencePieceProcessor) -> None:
    ours = Tokenizer.from_gguf(sentence_piece_metadata(pieces, add_space_prefix=False, add_bos_token=False))
    spaced = Tokenizer.from_gguf(sentence_piece_metadata(pieces))
    for text in (" the tide", "tide", "  "):
        assert ours.decode(ours.encode(text, add_special_tokens=True)) == text
    assert ours.encode(" the tide", add_special_tokens=True) == spaced.encode(
        "the tide", add_special_tokens=False
    )


def test_user_defined_pieces_are_never_split(pieces: sentencepiece.SentencePieceProcessor) -> None:
    metadata = sentence_piece_metadata(pieces, add_space_prefix=False)
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "    ", "\n\n"]
    for name, values in (("scores", [-1000.0, -1000.0]), ("token_type", [4, 4])):
        key = f"tokenizer.ggml.{name}"
        metadata[key] = np.concatenate([metadata[key], values]).astype(metadata[key].dtype)
    ours = Tokenizer.from_gguf(metadata)
    ids = ours.encode("the\n\n    sea", add_special_tokens=False)
    assert [ours.token(i) for i in ids if i >= pieces.get_piece_size()] == ["\n\n", "    "]
    assert ours.decode(ids) == "the\n\n    sea"


def test_more_added_tokens_than_any_model_are_refused(trained: Vocabulary) -> None:
    metadata = byte_level_metadata(*trained, "gpt-2")
    count = (1 << 16) + 1
    for name, value in (("tokens", [f"<{i}>" for i in range(count)]), ("token_type", [4] * count)):
        metadata[f"tokenizer.ggml.{name}"] = [*metadata[f"tokenizer.ggml.{name}"], *value]
    with pytest.raises(FormatError, match="marks 65537 tokens as special or added; accepted: 65536"):
        Tokenizer.from_gguf(metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "unigram"}, "accepted: gpt2, llama"),
        ({"model": None}, r"no tokenizer\.ggml\.model"),
        ({"model": 3}, "must be a str, not a int"),
        (
            {"pre": "brand-new"},
            "accepted: default, gpt-2, llama-bpe, llama-v3, llama3, qwen2, smollm, tekken",
        ),
        ({"tokens": None}, r"no tokenizer\.ggml\.tokens"),
        ({"tokens": []}, "empty"),
        ({"tokens": "abc"}, "list of strings"),
        ({"tokens": np.arange(4)}, "list of strings"),
        ({"tokens": ["a", "b", "a"], "token_type": [1, 1, 1], "eos_token_id": 0}, "'a' twice"),
        ({"token_type": [1, 1]}, "2 entries for"),
        ({"token_type": "1"}, "list of numbers"),
        ({"token_type": [[1], [1, 2]]}, "list of numbers"),
        ({"token_type": [0.5, 1.0]}, "list of numbers"),
        ({"merges": None}, r"no tokenizer\.ggml\.merges"),
        ({"merges": ["a b c"]}, "two tokens and a space"),
        ({"merges": ["ab"]}, "two tokens and a space"),
        ({"merges": ["missing token"]}, "malformed"),
        ({"eos_token_id": 10**6}, "accepted: 0 to"),
        ({"bos_token_id": -1}, "accepted: 0 to"),
        ({"bos_token_id": 1.5}, "integer"),
        ({"eos_token_id": True}, "integer"),
        ({"add_bos_token": "yes"}, "must be a bool"),
    ],
)
def test_malformed_byte_level_metadata_is_one_line(
    trained: Vocabulary, change: dict[str, Any], message: str
) -> None:
    metadata = byte_level_metadata(*trained, "gpt-2")
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in change.items()}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    with pytest.raises(FormatError, match=message) as caught:
        Tokenizer.from_gguf(metadata)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": None}, r"no tokenizer\.ggml\.scores"),
        ({"scores": [0.0]}, "1 entries for"),
        ({"scores": [float("nan")] * 480}, "not a number"),
        ({"token_type": [7] * 480}, "holds 7; accepted: 0 to 6"),
        ({"pre": "qwen2"}, "accepted: default"),
        ({"add_space_prefix": 1}, "must be a bool"),
    ],
)
def test_malformed_sentence_piece_metadata_is_one_line(pieces: Any, change: Any, message: str) -> None:
    metadata = sentence_piece_metadata(pieces, **change)
    metadata = {key: value for key, value in metadata.items() if value is not None}
    with pytest.raises(FormatError, match=message):
        Tokenizer.from_gguf(metadata)


LLAMA_CPP: dict[str, list[int]] = {
    "Explain tides.": [36971, 27485, 30],
    "<|im_start|>user\nIt's 12345 o'clock<|im_end|>\n": [
        1,
        4093,
        198,
        1589,
        506,
        216,
        33,
        34,
        35,
        36,
        37,
        263,
        23,
        17466,
        2,
        198,
    ],
    "  a  b\n\n\tc": [216, 253, 216, 278, 1116, 197, 83],
    "日本語 🙂 héllo": [23274, 115, 40993, 179, 120, 248, 47526, 294, 2756, 31394],
    "x = foo(bar[1], 'z')  # note": [104, 446, 29856, 24, 6299, 75, 33, 1750, 637, 106, 1465, 216, 907, 4109],
}


@pytest.mark.real
def test_default_model_equals_llama_cpp() -> None:
    """Ids that llama.cpp (llama-cpp-python, vocab_only) gave for the same file."""
    path = catalog.installed().get(catalog.DEFAULT)
    if path is None:
        pytest.skip(f"{catalog.DEFAULT} is not installed (outpace models pull {catalog.DEFAULT})")
    ours = Tokenizer.from_gguf(GGUFFile(path).metadata)
    for text, ids in LLAMA_CPP.items():
        assert ours.encode(text, add_special_tokens=True) == ids
        assert ours.decode(ids, skip_special_tokens=False) == text
