"""The joint vocabulary of both languages: a sentencepiece model, which MarianTokenizer can read too.

Ids are as in Marian: </s> is 0, <unk> is 1, and <pad>, which begins every output, is the last one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from outpace.core.errors import OutpaceError

MODEL = "pieces.model"
VOCABULARY = "vocab.json"
EOS_ID = 0


class Pieces:
    """Text to ids and back."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise OutpaceError(f"{path.name} is missing in {path.parent}; `base` makes it")
        self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.path = path
        self.pad_id: int = self._model.vocab_size()
        self.num_ids = self.pad_id + 1

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, </s> at the end."""
        return [[*ids, EOS_ID] for ids in self._model.encode(list(texts))]

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """The text of each row up to its first </s>; <pad> is skipped."""
        ended = [list(row)[: list(row).index(EOS_ID)] if EOS_ID in row else list(row) for row in rows]
        return [str(self._model.decode([i for i in row if i != self.pad_id])) for row in ended]

    def tokens(self, rows: Iterable[Sequence[int]]) -> list[list[str]]:
        """Ids as the strings by which CTranslate2 knows them."""
        return [[self._model.id_to_piece(i) for i in row] for row in rows]

    def ids(self, row: Sequence[str]) -> list[int]:
        """And back to ids."""
        return [int(self._model.piece_to_id(piece)) for piece in row]

    def join(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """The text of each row of such strings."""
        return [str(self._model.decode_pieces(list(row))) for row in rows]

    def save(self, folder: Path) -> None:
        """Write what MarianTokenizer.from_pretrained needs."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("source.spm", "target.spm"):
            (folder / name).write_bytes(self.path.read_bytes())
        vocabulary = {self._model.id_to_piece(i): i for i in range(self.pad_id)} | {"<pad>": self.pad_id}
        (folder / VOCABULARY).write_text(json.dumps(vocabulary, ensure_ascii=False))
        settings = {"source_lang": "en", "target_lang": "de", "tokenizer_class": "MarianTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def train_pieces(texts: Iterable[str], path: Path, *, num_pieces: int) -> Pieces:
    """Find the pieces of these texts (of a million of them at most) and keep them at `path`."""
    part = path.with_name(path.stem + ".part")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(part),
        vocab_size=num_pieces,
        hard_vocab_limit=False,
        model_type="unigram",
        character_coverage=0.9999,
        input_sentence_size=1_000_000,
        eos_id=0,
        unk_id=1,
        bos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    Path(f"{part}.vocab").unlink()
    Path(f"{part}.model").replace(path)
    return Pieces(path)
