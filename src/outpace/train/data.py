"""Training data: JSON lines of an input and the output that belongs to it, checked before training.

Accepted are, one kind a file: {"source": text, "target": text}; {"prompt": text, "answer": text}; and
{"prompt_ids": ids, "token_ids": ids}, which `outpace datastore write` writes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import OutpaceError
from outpace.files.json_files import json_value
from outpace.files.regular import open_regular

KINDS = (("source", "target"), ("prompt", "answer"), ("prompt_ids", "token_ids"))
MAX_TOKENS = 512
"""Of an example: what is longer is cut, and inputs that leave no place for an output are left out."""
_EXPECTED = (
    "an object with source and target (texts), prompt and answer (texts), or prompt_ids and token_ids (ids)"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """An input and its output, both texts or both token ids.

    ended      whether an end token follows a text.
    token_ids  a text's tokens as the model has said them, the end included; None where it has not. Encoding
               the text again may give others.
    """

    given: str | list[int]
    wanted: str | list[int]
    ended: bool = True
    token_ids: list[int] | None = None


def read_pairs(paths: Sequence[Path]) -> list[Pair]:
    """All lines of the files; OutpaceError, with file and line, for the first that is empty or malformed."""
    pairs: list[Pair] = []
    for path in paths:
        try:
            with open_regular(os.path.expanduser(path)) as file:
                pairs += [_pair(line, f"{path}, line {number}") for number, line in enumerate(file, start=1)]
        except OSError as error:
            raise OutpaceError(f"cannot read {path}: {error.strerror or error}") from error
    if not pairs:
        raise OutpaceError(f"{', '.join(map(str, paths))}: no lines; expected {_EXPECTED} a line")
    return pairs


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that was written line by line, but one that an interruption has cut off."""
    with open_regular(path) as file:
        return [line for line in file if line.endswith(b"\n")]


def data_hash(pairs: Iterable[Pair]) -> str:
    """Names the data: of all pairs in their order."""
    digest = hashlib.sha256()
    for pair in pairs:
        said = [] if pair.token_ids is None else [pair.token_ids]
        digest.update(json.dumps([pair.given, pair.wanted, *([] if pair.ended else [False]), *said]).encode())
    return f"sha256:{digest.hexdigest()}"


def frequent_tokens(outputs: Iterable[Sequence[int]], count: int) -> NDArray[np.int32]:
    """The ids of the `count` tokens that are in outputs most often, ascending; fewer where there are fewer.

    A head's output matrix over these alone costs a fraction of the whole (FR-Spec: Zhao et al. 2025,
    arXiv:2502.14856).
    """
    counts = Counter(token for output in outputs for token in output)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    return np.array(sorted(ranked[:count]), np.int32)


def by_length(lengths: Sequence[int], tokens: int, seed: int) -> Callable[[int], list[int]]:
    """A step's batch: numbers of examples of like length, about `tokens` tokens with their padding.

    Every epoch has all examples once, batches in an order of its own; a function of the step alone.
    """
    order = sorted(range(len(lengths)), key=lambda number: (lengths[number], number))
    batches: list[list[int]] = [[]]
    for number in order:
        if batches[-1] and lengths[number] * (len(batches[-1]) + 1) > tokens:
            batches.append([])
        batches[-1].append(number)

    def batch(step: int) -> list[int]:
        epoch, place = divmod(step, len(batches))
        return batches[np.random.default_rng((seed, epoch)).permutation(len(batches))[place]]

    return batch


def _pair(line: bytes, where: str) -> Pair:
    if not line.strip():
        raise OutpaceError(f"{where}: empty; expected {_EXPECTED}")
    try:
        item = json_value(line)
    except ValueError as error:
        raise OutpaceError(f"{where}: not JSON ({error}); expected {_EXPECTED}") from None
    for given, wanted in KINDS:
        if isinstance(item, dict) and given in item and wanted in item:
            pair = Pair(item[given], item[wanted])
            check = are_ids if given == "prompt_ids" else _is_text
            if check(pair.given) and check(pair.wanted):
                return pair
    raise OutpaceError(f"{where}: expected {_EXPECTED}, none of them empty")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def are_ids(value: Any) -> bool:
    """Whether it is a list of token ids, one or more."""
    return (
        isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)
    )
