"""The corpus as token ids: a small vocabulary of byte-level BPE, and an array of each part.

The folder `tokens-N` has the tokenizer as transformers and `outpace.load` read it, and `train.npy`,
`dev.npy`, `test.npy`. It depends on the text and the number of tokens alone, so all scales share it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.speed import corpus
from outpace.core.errors import OutpaceError

NUM_TOKENS = 4096
END, END_ID = "<|end|>", 0  # after each document
SAMPLE = 30_000_000  # characters of train that the vocabulary is made of
_BATCH = 500  # documents
_BYTES = pre_tokenizers.ByteLevel.alphabet()


def token_folder(work: Path, num_tokens: int = NUM_TOKENS) -> Path:
    """The folder of a vocabulary. OutpaceError if uint16 cannot hold its ids, or it cannot hold all bytes."""
    if not len(_BYTES) < num_tokens <= 1 << 16:
        raise OutpaceError(f"num_tokens is {num_tokens}, accepted: {len(_BYTES) + 1} to {1 << 16}")
    return work / f"tokens-{num_tokens}"


def token_array(work: Path, name: str, num_tokens: int = NUM_TOKENS) -> NDArray[np.uint16]:
    """The ids of a part (train, dev, test), memory-mapped; what is missing is made first.

    Shape (ids,). Each document ends with `END_ID`. OutpaceError for another part, or one that has no text.
    """
    corpus.path(work, name)
    path = token_folder(work, num_tokens) / f"{name}.npy"
    if not path.exists():
        ids = _encoded(tokenizer(work, num_tokens), corpus.read(work, name), name)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, ids)
        part.replace(path)
    array: NDArray[np.uint16] = np.load(path, mmap_mode="r")
    return array


def tokenizer(work: Path, num_tokens: int = NUM_TOKENS) -> Tokenizer:
    """The tokenizer of train's text. It is trained and saved if it is missing."""
    folder = token_folder(work, num_tokens)
    path = folder / "tokenizer.json"
    if not path.exists():
        made = train_tokenizer(_sample(corpus.read(work, "train")), num_tokens)
        folder.mkdir(parents=True, exist_ok=True)
        save_tokenizer(made, folder)
    return Tokenizer.from_file(str(path))


def train_tokenizer(documents: Sequence[str] | Iterator[str], num_tokens: int) -> Tokenizer:
    """The `num_tokens` commonest pieces of these texts, and all bytes. The same texts give the same."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=num_tokens, special_tokens=[END], initial_alphabet=sorted(_BYTES), show_progress=False
        ),
    )
    if made.get_vocab_size() < num_tokens:
        raise OutpaceError(f"the text is enough for {made.get_vocab_size()} tokens, not for {num_tokens}")
    return made


def save_tokenizer(made: Tokenizer, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json. Nothing goes around a text: it may begin anywhere."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    part = folder / "tokenizer.part"
    made.save(str(part))
    part.replace(folder / "tokenizer.json")


def _sample(documents: Sequence[str]) -> Iterator[str]:
    room = SAMPLE
    for document in documents:
        yield document[:room]
        room -= len(document)
        if room <= 0:
            return


def _encoded(made: Tokenizer, documents: Sequence[str], name: str) -> NDArray[np.uint16]:
    made.encode_special_tokens = True  # END in a text is text
    pieces, texts = [], iter(documents)
    for _ in track(range(0, len(documents), _BATCH), description=f"tokens of {name}"):
        for one in made.encode_batch_fast(list(islice(texts, _BATCH)), add_special_tokens=False):
            pieces.append(np.array([*one.ids, END_ID], np.uint16))
    return np.concatenate(pieces)
