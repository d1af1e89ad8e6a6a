"""Tokenizers of folders, decoding and storing, against transformers and the `tokenizers` library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import GPT2Tokenizer, LlamaTokenizer, Qwen2Tokenizer
from transformers.tokenization_utils_base import generate_merges

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.tokenizer import Tokenizer
from tests.files.vocabularies import (
    SPECIALS,
    TEXTS,
    Vocabulary,
    byte_level_metadata,
    trained_bpe,
    trained_pieces,
)


@pytest.fixture(scope="module")
def trained() -> Vocabulary:
    return trained_bpe()


@pytest.fixture(scope="module")
def pieces() -> sentencepiece.SentencePieceProcessor:
    return trained_pieces()


@given(ids=st.lists(st.integers(0, 499)))
def test_byte_level_decoding_equals_the_library(ids: list[int]) -> None:
    """Bytes that are no UTF-8 included."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.decoder = decoders.ByteLevel()
    assert Tokenizer(backend).decode(ids) == backend.decode(ids)


@pytest.mark.parametrize("add_bos", [True, False])
def test_folder_of_transformers(trained: Vocabulary, tmp_path: Path, add_bos: bool) -> None:
    """The beginning-of-text token, the end tokens of all three files, and every id."""
    vocab, merges = trained
    theirs = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIALS,
        add_bos_token=add_bos,
    )
    theirs.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 5}))
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.eos_ids == {3, 4, 5, vocab["<|im_end|>"], vocab["<|endoftext|>"]}
    assert (ours.bos_id, ours.add_bos, ours.vocab_size) == (vocab["<|im_start|>"], add_bos, len(vocab))
    for text in TEXTS:
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            doubled = special and add_bos and text.startswith("<|im_start|>")  # by transformers alone
            assert ours.encode(text, add_special_tokens=special) == ids[doubled:]
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_folder_of_a_llama(pieces: Any, tmp_path: Path) -> None:
    """The SentencePiece pipeline as transformers writes it, decoded by our table."""
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    normal = [text for text, i in vocab.items() if not (pieces.is_control(i) or pieces.is_byte(i))]
    merges = generate_merges(vocab, {text: pieces.get_score(vocab[text]) for text in normal})
    theirs = LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    assert (ours.bos_id, ours.add_bos, ours.strips_space) == (1, True, True)
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text, add_special_tokens=True) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("special", [True, False])
def test_the_ends_that_a_folder_names(trained: Vocabulary, tmp_path: Path, special: bool) -> None:
    """By the names of its added tokens, special or not, and in four files."""
    vocab, merges = trained
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges))
    backend.decoder = decoders.ByteLevel()
    names = ["<|eot_id|>", "<end_of_turn>", "<first>", "<second>", "<third>"]
    backend.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    backend.save(str(tmp_path / "tokenizer.json"))
    files = {
        "special_tokens_map.json": {"eos_token": {"content": "<first>"}},
        "tokenizer_config.json": {"eot_token": "<second>"},
        "config.json": {"text_config": {"eos_token_id": [backend.token_to_id("<third>")]}},
        "generation_config.json": {"eos_token_id": 7},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.eos_ids == {7, *map(backend.token_to_id, names)}


def test_folder_whose_specials_are_declared_elsewhere(trained: Vocabulary, tmp_path: Path) -> None:
    vocab, merges = trained
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges))
    backend.decoder = decoders.ByteLevel()
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    ids = [vocab["<|im_end|>"], len(vocab)]
    declared: dict[str, Any] = {str(ids[0]): {"content": "<|im_end|>", "special": True}}
    declared[str(ids[1])] = {"content": "<extra>", "special": False}
    config = {"added_tokens_decoder": declared, "eos_token": {"content": "<|im_end|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.encode("<extra><|im_end|>ab", add_special_tokens=True)[:2] == ids[::-1]
    assert ours.decode(ids) == "<extra>"
    assert ours.eos_ids == {ids[0]} and ours.bos_id is None
    assert ours.decode(ours.encode("qwxz", add_special_tokens=True)) == "qwxz"

    declared[str(10**6)] = {"content": "<far>", "special": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="'<far>' cannot have the id 1000000"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, r"no tokenizer\.json"),
        ("tokenizer.json", "{", "not a tokenizer"),
        ("tokenizer_config.json", "[1]", "JSON object"),
        ("tokenizer_config.json", "{", "tokenizer_config.json"),
        ("generation_config.json", '{"eos_token_id": "x"}', "eos_token_id must be an integer"),
        ("config.json", '{"eos_token_id": 99999}', "99999 is outside"),
    ],
)
def test_malformed_folders(
    trained: Vocabulary, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    GPT2Tokenizer(vocab=trained[0], merges=trained[1]).save_pretrained(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=message):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"version":2,"outpace":{}}',
        '{"version":2,"outpace":{"x":1},"tokenizer":{}}',
        '{"version":1,"outpace":',
    ],
)
def test_damaged_stored_tokenizers(text: str) -> None:
    with pytest.raises(FormatError):
        Tokenizer.from_json(text)


@pytest.mark.parametrize(
    "damage",
    [
        {"vocab_size": "9"},
        {"eos_ids": [[1]]},
        {"eos_ids": [1.5]},
        {"eos_ids": 3},
        {"eos_ids": [2**70]},
        {"bos_id": 1.5},
        {"bos_id": "a"},
        {"bos_id": -1},
        {"pieces": 3},
        {"brand": "new"},
    ],
)
def test_stored_tokenizers_of_other_content(trained: Vocabulary, damage: dict[str, Any]) -> None:
    stored = json.loads(Tokenizer.from_gguf(byte_level_metadata(*trained, "llama3")).to_json())
    stored["outpace"] |= damage
    with pytest.raises(FormatError):
        Tokenizer.from_json(json.dumps(stored, separators=(",", ":")))
    nested = json.dumps(stored, separators=(",", ":")).replace('"bos_id":', '"bos_id":' + "[" * 100_000)
    with pytest.raises(FormatError, match="damaged"):
        Tokenizer.from_json(nested)


def test_stored_tokenizers_are_json_and_keep_everything(trained: Vocabulary) -> None:
    more: dict[str, Any] = {"bos_token_id": 7, "add_bos_token": True, "eot_token_id": 9}
    ours = Tokenizer.from_gguf(byte_level_metadata(*trained, "llama3", **more))
    json.loads(ours.to_json())
    stored = Tokenizer.from_json(ours.to_json())
    names = ("vocab_size", "bos_id", "add_bos", "bos_in_chats", "eos_ids", "special_ids", "strips_space")
    for name in names:
        assert getattr(stored, name) == getattr(ours, name)
    assert 9 in ours.eos_ids and stored.to_json() == ours.to_json()
    with pytest.raises(FormatError):
        Tokenizer.from_json(ours.to_json()[:-9])


def test_half_a_surrogate_pair_is_refused(trained: Vocabulary) -> None:
    with pytest.raises(OutpaceError, match="not valid Unicode"):
        Tokenizer.from_gguf(byte_level_metadata(*trained, "gpt-2")).encode("\ud83d", add_special_tokens=False)
