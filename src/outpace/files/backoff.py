"""A back-off table: for every context of 1 to `order` tokens seen in some text, its likeliest next tokens.

Witten & Bell 1991, "The zero-frequency problem": a context of n tokens that was seen `total` times with
`types` different next tokens mixes its own counts with the context one token shorter,

    p_n(x) = w c(x) / total + (1 - w) p_(n-1)(x),    w = total / (total + types),    p_0 = counts of all
    tokens.

The counts are mixed once, when the table is made, so that a look-up only has to find the longest known
context. A context is left out where a look-up finds nearly the same without it: the same likeliest token, of
a probability within `PRUNED` binary digits (after Stolcke 1998, "Entropy-based pruning of backoff language
models"). A file holds the `NUM_NEXT` best tokens of every context that was seen `min_count` times, found
through a hash index: keys u64, index i32 (open addressing), tokens i32[C, NUM_NEXT], log2 p in steps of 1/16
as u8[C, NUM_NEXT].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.npz import read_npz
from outpace.files.whole import writing

VERSION = 1
NUM_NEXT = 6
MAX_ORDER = 8
STEPS_PER_BIT = 16
PRUNED = 0.5  # binary digits of probability: half of all contexts differ by less from those without them
_PROBABILITY = [2.0 ** (-step / STEPS_PER_BIT) for step in range(256)]
_MULTIPLIER = 0x9E3779B97F4A7C15
_U64 = (1 << 64) - 1
_GAP = np.uint64(0xFFFFFFFF)  # stands before a text; no token has this id


class BackoffTable:
    """A table in memory. `order` is the longest context, `vocabulary` names what its ids mean."""

    def __init__(
        self, order: int, vocabulary: str, keys: NDArray, index: NDArray, tokens: NDArray, steps: NDArray
    ) -> None:
        self.order = order
        self.vocabulary = vocabulary
        self.num_contexts = len(keys)
        self.max_token = int(tokens.max(initial=-1))
        # A memoryview gives Python ints at once, where an array would make a scalar object first.
        self._keys, self._index = keys.data, index.data
        self._tokens, self._steps = tokens.reshape(-1).data, steps.reshape(-1).data
        self._mask = len(index) - 1

    def next(self, context: Sequence[int]) -> list[tuple[int, float]]:
        """(token, probability) of the likeliest tokens after a text, best first; [] if its last is new."""
        keys, key = [], 0
        for token in context[: -self.order - 1 : -1]:
            key = ((key ^ token) + 1) * _MULTIPLIER & _U64
            key ^= key >> 29
            keys.append(key)
        for key in reversed(keys):
            slot = key & self._mask
            while (entry := self._index[slot]) >= 0:
                if self._keys[entry] == key:
                    first = entry * NUM_NEXT
                    found = zip(
                        self._tokens[first : first + NUM_NEXT].tolist(),
                        self._steps[first : first + NUM_NEXT].tolist(),
                        strict=True,
                    )
                    return [(token, _PROBABILITY[step]) for token, step in found if token >= 0]
                slot = (slot + 1) & self._mask
        return []


def read_backoff(path: str | Path) -> BackoffTable:
    """The table in a file; FormatError for anything else."""
    try:
        stored = read_npz(Path(path))
        version, order = _scalar(stored["version"], "iu"), _scalar(stored["order"], "iu")
        if version != VERSION:
            raise FormatError(f"{path}: a back-off table of version {version}, accepted is {VERSION}")
        arrays = [stored[name] for name in ("keys", "index", "tokens", "steps")]
        if not 1 <= order <= MAX_ORDER or not _fit_together(*arrays):
            raise ValueError
        return BackoffTable(order, _scalar(stored["vocabulary"], "U"), *arrays)
    except FormatError:
        raise
    except OSError as error:
        raise FormatError(f"cannot read the back-off table {path}: {error.strerror or error}") from None
    except (ValueError, KeyError):
        raise FormatError(f"{path} is not a back-off table; `outpace datastore count` makes one") from None


def _scalar(array: NDArray, kinds: str) -> Any:
    if array.shape or array.dtype.kind not in kinds:
        raise ValueError
    return array.item()


def _fit_together(keys: NDArray, index: NDArray, tokens: NDArray, steps: NDArray) -> bool:
    """Whether every look-up in these arrays ends, inside them: half of the slots or more are free."""
    count = len(keys) if keys.ndim == 1 else -1
    types = [array.dtype.name for array in (keys, index, tokens, steps)]
    shapes = index.shape == (_num_slots(count),) and tokens.shape == steps.shape == (count, NUM_NEXT)
    if types != ["uint64", "int32", "int32", "uint8"] or not shapes or tokens.min(initial=-1) < -1:
        return False
    entries = index[index != -1]
    return np.array_equal(np.sort(entries), np.arange(count))


def write_backoff(
    path: str | Path,
    texts: Iterable[Sequence[int]],
    *,
    vocabulary: str,
    order: int = 5,
    min_count: int = 2,
    pruned: float | None = PRUNED,
) -> BackoffTable:
    """Count texts into a file, which appears whole or not at all; `vocabulary` is that of `vocabulary_id`.

    pruned  see the module; None keeps every context.

    An OutpaceError if it cannot be written.
    """
    keys, tokens, steps = _count(texts, order, min_count, pruned)
    arrays = {"keys": keys, "index": _hash_index(keys), "tokens": tokens, "steps": steps}
    try:
        with writing(Path(path)) as file:
            np.savez(file, allow_pickle=False, version=VERSION, order=order, vocabulary=vocabulary, **arrays)
    except OSError as error:
        raise OutpaceError(f"cannot write {path}: {error.strerror or error}") from error
    return BackoffTable(order, vocabulary, **arrays)


def _count(
    texts: Iterable[Sequence[int]], order: int, min_count: int, pruned: float | None
) -> tuple[NDArray, NDArray, NDArray]:
    """keys u64[C], tokens i32[C, NUM_NEXT] (-1: none), steps u8[C, NUM_NEXT]."""
    gap = np.full(order, _GAP, np.uint32)
    text = np.concatenate([part for one in texts for part in (gap, np.asarray(one, np.uint32))] or [gap])
    text = text.astype(np.uint64)
    events = np.flatnonzero(text != _GAP)
    if not len(events):
        return np.zeros(0, np.uint64), np.zeros((0, NUM_NEXT), np.int32), np.zeros((0, NUM_NEXT), np.uint8)
    following = text[events].astype(np.int64)
    key = np.zeros(len(events), np.uint64)
    unigram = np.bincount(following) / max(1, len(following))
    shorter = np.zeros(len(events), np.int64)  # each event's context one token shorter, as a row of `lists`
    lists = _best(np.zeros(len(unigram), np.int64), np.arange(len(unigram)), unigram, 1)
    p_event = unigram[following]
    kept: list[tuple[NDArray, NDArray, NDArray]] = []
    found = np.full(1, -1), np.ones(1)  # by context of the length before: what a look-up would find likeliest
    for n in range(1, order + 1):
        key = _mixed(key, text[events - n])
        pairs = np.lexsort((following, key))
        new_context = np.r_[True, np.diff(key[pairs]) != 0]
        new_pair = new_context | np.r_[True, np.diff(following[pairs]) != 0]
        context, pair = np.cumsum(new_context) - 1, np.cumsum(new_pair) - 1
        first = pairs[new_pair]  # an event of each pair
        context_of_pair = context[new_pair]
        total, types = np.bincount(context), np.bincount(context_of_pair)
        weight = total / (total + types)
        w = weight[context_of_pair]
        p_pair = w * np.bincount(pair) / total[context_of_pair] + (1 - w) * p_event[first]
        below = shorter[pairs[new_context]]
        lower_tokens, lower_p = (part[below] for part in lists)
        lower_p = lower_p * (1 - weight)[:, None]
        known = lower_tokens >= 0
        rows = np.repeat(np.arange(len(total)), NUM_NEXT).reshape(-1, NUM_NEXT)[known]
        lists = _best(
            np.r_[context_of_pair, rows],
            np.r_[following[first], lower_tokens[known]],
            np.r_[p_pair, lower_p[known]],
            len(total),
        )
        enough = total >= (1 if n == 1 else min_count)
        best, best_p = lists[0][:, 0], lists[1][:, 0]
        token, p = (part[below] for part in found)
        if pruned is not None:
            enough &= (best != token) | (np.abs(np.log2(best_p / p)) > pruned)
        found = np.where(enough, best, token), np.where(enough, best_p, p)
        kept.append((key[pairs[new_context]][enough], lists[0][enough], lists[1][enough]))
        p_event = np.empty(len(events))
        p_event[pairs] = p_pair[pair]
        shorter = np.empty(len(events), np.int64)
        shorter[pairs] = context
    keys, tokens, p = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    steps = np.clip(np.rint(-np.log2(np.maximum(p, 1e-30)) * STEPS_PER_BIT), 0, 255).astype(np.uint8)
    return keys, tokens.astype(np.int32), steps


def _best(rows: NDArray, tokens: NDArray, p: NDArray, num_rows: int) -> tuple[NDArray, NDArray]:
    """tokens i64[num_rows, NUM_NEXT] (-1: none) and their p: the best of each row, every token once."""
    entry = np.lexsort((-p, tokens, rows))
    rows, tokens, p = rows[entry], tokens[entry], p[entry]
    fresh = np.r_[True, (np.diff(rows) != 0) | (np.diff(tokens) != 0)]
    rows, tokens, p = rows[fresh], tokens[fresh], p[fresh]
    entry = np.lexsort((tokens, -p, rows))
    rows, tokens, p = rows[entry], tokens[entry], p[entry]
    starts = np.searchsorted(rows, np.arange(num_rows))
    rank = np.arange(len(rows)) - starts[rows]
    chosen = rank < NUM_NEXT
    best_tokens, best_p = np.full((num_rows, NUM_NEXT), -1), np.zeros((num_rows, NUM_NEXT))
    best_tokens[rows[chosen], rank[chosen]] = tokens[chosen]
    best_p[rows[chosen], rank[chosen]] = p[chosen]
    return best_tokens, best_p


def _mixed(key: NDArray, token: NDArray) -> NDArray:
    """The hash of a context with one token more in front; `BackoffTable.next` has the same in Python ints."""
    key = ((key ^ token) + np.uint64(1)) * np.uint64(_MULTIPLIER)
    return key ^ (key >> np.uint64(29))


def _num_slots(num_keys: int) -> int:
    return 1 << max(4, (2 * num_keys).bit_length())


def _hash_index(keys: NDArray) -> NDArray:
    """i32[S]: per slot an entry or -1; an entry lies in the first free slot from its key's low bits on."""
    size = _num_slots(len(keys))
    index = np.full(size, -1, np.int32)
    slots = (keys & np.uint64(size - 1)).astype(np.int64)
    waiting = np.arange(len(keys))
    while len(waiting):
        free = index[slots[waiting]] < 0
        wanting = waiting[free]
        slot, winner = np.unique(slots[wanting], return_index=True)
        index[slot] = wanting[winner]
        lost = np.ones(len(keys), bool)
        lost[wanting[winner]] = False
        waiting = waiting[lost[waiting]]
        slots[waiting] = (slots[waiting] + 1) & (size - 1)
    return index
