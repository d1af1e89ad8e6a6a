"""Small vocabularies for the tokenizer tests: trained here, and written as the metadata of a GGUF file."""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

CORPUS = [
    "The tide is the rise and fall of sea levels, caused by the Moon and the Sun.",
    "It's 1234567 steps; I'LL go, they've gone, we'd stay: 12.50 + 3 = 15.50!",
    "def tide(hour: int) -> float:\n    return 2 * math.cos(hour / 6.2)  # metres\n\n\n",
    "Größe, naïve café, Übermut; 日本語のテキスト、潮の満ち引き。 Приливы и отливы.",
    "emoji 🙂 🌊🌙, tabs\t\tand   spaces  \r\n and camelCase HelloWorld ÀÉ",
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WHOLE_WORD = "Ġmoonlit"
TEXTS = [
    *CORPUS,
    "",
    " ",
    "\n",
    "   leading and trailing   ",
    "<|im_start|>user\nWhat causes tides?<|im_end|>\n",
    "e\u0301 is decomposed, ﬁ ½ ² ① are not letters",
    "👨‍👩‍👧 १२३ ١٢٣ \u00a0\u2003",
    "a moonlit, moonlit night",
    "never seen: ☃ ∀x∃y",
]

Vocabulary = tuple[dict[str, int], Any]
"""Tokens with their numbers, and merges as pairs (which transformers takes, and its annotations do not)."""


@cache
def trained_bpe() -> Vocabulary:
    """Vocabulary and merges of a byte-level BPE, then a word that no merge makes, then the special tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    model = json.loads(backend.to_str())["model"]
    vocab = model["vocab"]
    vocab |= {text: len(vocab) + i for i, text in enumerate([WHOLE_WORD, *SPECIALS])}
    return vocab, [tuple(merge) for merge in model["merges"]]


def byte_level_metadata(
    vocab: dict[str, int], merges: list[tuple[str, str]], pre: str, **more: Any
) -> dict[str, Any]:
    tokens = sorted(vocab, key=vocab.__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if text in SPECIALS else 1 for text in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.eos_token_id": vocab["<|im_end|>"],
    } | {f"tokenizer.ggml.{name}": value for name, value in more.items()}


@cache
def trained_pieces(
    corpus: tuple[str, ...] = tuple(CORPUS) * 3, vocab_size: int = 480
) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece BPE with byte fallback, its text untouched but for the space before it."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        control_symbols=["<end_of_turn>"],
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentence_piece_metadata(pieces: sentencepiece.SentencePieceProcessor, **more: Any) -> dict[str, Any]:
    ids = range(pieces.get_piece_size())
    types = [
        2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1
        for i in ids
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [pieces.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([pieces.get_score(i) for i in ids], dtype=np.float32),
        "tokenizer.ggml.token_type": np.array(types, dtype=np.int32),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    } | {f"tokenizer.ggml.{name}": value for name, value in more.items()}
