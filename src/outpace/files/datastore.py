"""A datastore: a corpus as token ids with its suffix array, in one memory-mapped file.

Layout: the header (see header.py); then, from a multiple of 64 bytes on, the tokens i32[n], every text closed
by END, and the order i32[n]: all positions, sorted by the KEY_LENGTH tokens that begin there. So the
occurrences of a string of up to KEY_LENGTH tokens are neighbours in the order, sorted by what follows them.
The header names the vocabulary that the ids belong to. All numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.header import header_bytes, read_header
from outpace.files.regular import open_regular
from outpace.files.whole import writing
from outpace.progress import Progress

MAGIC = b"OUTPDATA"
VERSION = 1
ALIGNMENT = 64
KEY_LENGTH = 16
"""The longest string that can be looked up."""
END = -1
"""Closes every text; no token."""


class Datastore:
    """An open datastore.

    tokens      i32[n]; order i32[n]: see the layout. Both read-only.
    num_texts   how many texts the corpus has.
    vocab_size  token ids are below it.
    vocabulary  `vocabulary_id` of the tokenizer that made the ids.

    FormatError for a file that is not a whole and undamaged datastore. All of it is read once to see that.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.expanduser(path))
        try:
            with open_regular(self.path) as file:
                buffer = np.memmap(file, np.uint8, "r").view(np.ndarray)
            header, end = read_header(self.path, buffer, magic=MAGIC, version=VERSION, kind="datastore")
        except FormatError as error:
            raise FormatError(f"{error}; outpace datastore build makes one") from None
        except (OSError, ValueError) as error:  # ValueError: an empty file
            reason = error.strerror if isinstance(error, OSError) else error
            raise FormatError(f"cannot read the datastore {self.path}: {reason}") from None
        kinds = {"num_tokens": int, "num_texts": int, "vocab_size": int, "data_crc": int, "vocabulary": str}
        if any(type(header.get(name)) is not kind for name, kind in kinds.items()):
            raise FormatError(f"{self.path}: damaged header; build the datastore anew")
        num_tokens, crc = header["num_tokens"], header["data_crc"]
        self.num_texts: int = header["num_texts"]
        self.vocab_size: int = header["vocab_size"]
        self.vocabulary: str = header["vocabulary"]
        start = -(-end // ALIGNMENT) * ALIGNMENT
        if len(buffer) != start + 8 * num_tokens:
            expected = start + 8 * num_tokens
            raise FormatError(f"{self.path}: {len(buffer)} bytes, not the {expected} of its header")
        if num_tokens < 1 or zlib.crc32(buffer[start:].data) != crc:
            raise FormatError(f"{self.path}: damaged data; build the datastore anew")
        self.tokens, self.order = buffer[start:].view("<i4").reshape(2, num_tokens)
        known = self.tokens.min() >= END and self.tokens.max() < self.vocab_size < 1 << 31
        inside = self.order.min() >= 0 and self.order.max() < num_tokens
        ended = self.tokens[-1] == END and np.count_nonzero(self.tokens == END) == self.num_texts
        if not (known and inside and ended):
            raise FormatError(f"{self.path}: wrong data; build the datastore anew")
        # Python ints out of these cost a fraction of what numpy's scalars do.
        self._tokens, self._order = self.tokens.data, self.order.data

    def find(self, string: Sequence[int]) -> tuple[int, int]:
        """(low, high): order[low:high] are the positions of a string of up to KEY_LENGTH tokens."""
        tokens, wanted, n = self._tokens, list(string), len(string)

        def key(at: int) -> list[int]:
            return tokens[at : at + n].tolist()

        low = bisect_left(self._order, wanted, key=key)
        if low == len(self._order) or key(self._order[low]) != wanted:
            return low, low
        return low, bisect_right(self._order, wanted, low, key=key)


def write_datastore(
    path: Path,
    texts: Iterable[Sequence[int]],
    *,
    vocab_size: int,
    vocabulary: str,
    progress: Progress | None = None,
) -> None:
    """Write the datastore of these texts, whole or not at all; needs about 40 bytes of memory per token.

    `progress(done, total, label)` follows the sorting. OutpaceError where there are no texts or the disk
    refuses.
    """
    chunks, num_texts = [], 0
    for text in texts:
        if len(text):
            chunks.append(np.array([*text, END], "<i4"))
            num_texts += 1
    if not chunks:
        raise OutpaceError("the corpus is empty, accepted are texts of one token or more")
    tokens = np.concatenate(chunks)
    assert tokens.min() >= END and tokens.max() < vocab_size, "token ids are of the vocabulary"
    data = np.concatenate([tokens, suffix_order(tokens, progress)]).view(np.uint8)
    fields = {
        "version": VERSION,
        "num_tokens": len(tokens),
        "num_texts": num_texts,
        "vocab_size": vocab_size,
        "vocabulary": vocabulary,
        "data_crc": zlib.crc32(data.data),
    }
    head = header_bytes(MAGIC, fields)
    try:
        with writing(path) as file:
            file.write(head.ljust(-(-len(head) // ALIGNMENT) * ALIGNMENT, b"\0"))
            file.write(data.data)
    except OSError as error:
        raise OutpaceError(f"cannot write the datastore {path}: {error.strerror or error}") from error


def suffix_order(tokens: NDArray[np.int32], progress: Progress | None = None) -> NDArray[np.int32]:
    """i32[n]: the positions sorted by the KEY_LENGTH tokens from there on; equal ones in ascending order.

    Prefix doubling (Manber & Myers 1990): ranks by 2k tokens are those of pairs of ranks by k tokens.
    """
    num_tokens, length = len(tokens), 1
    num_rounds = KEY_LENGTH.bit_length() - 1
    rank = tokens.astype(np.int64) + 2  # 0 is the end of the corpus, 1 that of a text
    while length < KEY_LENGTH:
        if progress is not None:
            progress(length.bit_length() - 1, num_rounds, "sorting")
        pairs = rank * (int(rank.max()) + 1)
        pairs[:-length] += rank[length:]
        order = np.argsort(pairs)
        pairs = pairs[order]
        rank[order[0]] = 1
        rank[order[1:]] = 1 + np.cumsum(pairs[1:] != pairs[:-1])
        length *= 2
    # No two keys are equal here, so the order is the same whatever sort numpy chooses on a machine.
    order = np.sort(rank * num_tokens + np.arange(num_tokens)) % num_tokens
    if progress is not None:
        progress(num_rounds, num_rounds, "sorting")
    return order.astype("<i4")


def vocabulary_id(text_bytes: Mapping[int, bytes], vocab_size: int) -> str:
    """Names a vocabulary by what its tokens stand for: 64 hex digits.

    Ids without a text behind the last that has one do not count: models round their vocabularies up.
    """
    table = [text_bytes[token] for token in range(vocab_size)]
    while table and not table[-1]:
        table.pop()
    digest = hashlib.sha256()
    for text in table:
        digest.update(struct.pack("<I", len(text)) + text)
    return digest.hexdigest()
