"""A Markov table as a target: the law of every output is known exactly, so it is the oracle of the tests.

The logits of the next token are a look-up by the last `order` tokens. A row's cache is its list of tokens,
so a node scored after the wrong prefix, or a path kept wrongly, shows in the law.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from outpace.core import sampling as sampling_
from outpace.core.call import Call, Kept, Source, check_room, refuse_source
from outpace.core.edits import Edit, edited
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, warp
from outpace.core.steps import Exactness
from outpace.core.traits import UNBOUNDED, Traits
from outpace.core.tree import TokenTree


class TableTarget:
    """Logits from a table f32[V, ..., V]: the last axis is the next token, the others those before it.

    A text shorter than the order is read as if tokens 0 stood before it.
    """

    exactness: Exactness = "identical"
    traits = Traits()
    cache_tokens = UNBOUNDED

    def __init__(
        self,
        logits: NDArray[np.floating],
        *,
        eos_ids: frozenset[int] = frozenset(),
        context_length: int = 4096,
    ) -> None:
        self.table = np.asarray(logits, dtype=np.float32)
        self.vocab_size = self.table.shape[-1]
        self.order = self.table.ndim - 1
        self.context_length = context_length
        self.eos_ids = eos_ids
        self._rows: dict[int, list[int]] = {}
        self._scored: dict[int, Call] = {}
        self._ids = itertools.count()
        if self.order < 1 or set(self.table.shape) != {self.vocab_size}:
            raise OutpaceError(f"a table needs two or more axes of one length, got shape {self.table.shape}")

    @classmethod
    def random(
        cls,
        *,
        vocab_size: int = 12,
        order: int = 2,
        spread: float = 1.5,
        seed: int = 0,
        eos_ids: frozenset[int] = frozenset(),
        context_length: int = 4096,
    ) -> Self:
        """Normal logits of standard deviation `spread`: a larger one makes the text more predictable."""
        shape = (vocab_size,) * (order + 1)
        logits = np.random.default_rng(seed).normal(scale=spread, size=shape)
        return cls(logits, eos_ids=eos_ids, context_length=context_length)

    def after(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """f32[V]: the logits of the token after these."""
        context = [0] * self.order + list(tokens[-self.order :])
        logits: NDArray[np.float32] = self.table[tuple(context[-self.order :])]
        return logits

    def law_of(self, prompt: Sequence[int], length: int, sampling: Sampling) -> dict[tuple[int, ...], float]:
        """The exact law of the first `length` tokens after a prompt, those of probability 0 left out."""
        laws: dict[tuple[int, ...], float] = {(): 1.0}
        for _ in range(length):
            laws = {
                (*tokens, token): mass * p
                for tokens, mass in laws.items()
                for token, p in enumerate(warp(self.after([*prompt, *tokens]), sampling).tolist())
                if p > 0
            }
        return laws

    def open(self, source: Source | None = None) -> int:
        """A new row without tokens."""
        refuse_source(source)
        row = next(self._ids)
        self._rows[row] = []
        return row

    def score(self, calls: Sequence[Call]) -> TableScores:
        """Look up every node of every tree; nothing is committed."""
        assert len({call.row for call in calls}) == len(calls), "different rows"
        logits = []
        for call in calls:
            cached, tree = self._rows[call.row], call.tree
            check_room(len(cached), self.context_length, call)
            self._check_tokens(call.pending)
            self._check_tokens(tree.token_list)
            before, tokens = [*cached, *call.pending[:-1]], tree.token_list
            texts = [[*before, *(tokens[i] for i in tree.path_to(node))] for node in range(tree.num_nodes)]
            if call.wanted:
                logits.append(np.stack([self.after(text) for text in texts]))
        self._scored = {call.row: call for call in calls}
        return TableScores([call.tree for call in calls if call.wanted], logits)

    def keep(self, rows: Sequence[int], paths: Sequence[Kept]) -> None:
        """Commit what was pending in the last `score`, of these rows, and the given nodes."""
        for row, path in zip(rows, paths, strict=True):
            call = self._scored.pop(row)
            tree = call.tree
            assert not path or tree.path_to(path[-1])[1:] == list(path), "a path leads down from the root"
            self._rows[row] += call.pending[:-1]
            if path is not None:
                self._rows[row] += [tree.token_list[node] for node in (0, *path)]

    def fork(self, row: int) -> int:
        """A new row with the same cached tokens."""
        copy = next(self._ids)
        self._rows[copy] = list(self._rows[row])
        return copy

    def fork_at(self, row: int, length: int) -> int:
        """A new row with the first `length` cached tokens."""
        assert 0 <= length <= len(self._rows[row]), "a row is cut to a part of what it holds"
        copy = self.fork(row)
        del self._rows[copy][length:]
        return copy

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back."""
        for row in rows:
            del self._rows[row]
            self._scored.pop(row, None)

    def length(self, row: int) -> int:
        """How many tokens the row has cached."""
        return len(self._rows[row])

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return len(self._rows)

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        if min(tokens) < 0 or max(tokens) >= self.vocab_size:
            raise OutpaceError(f"token ids {list(tokens)} are not all from 0 to {self.vocab_size - 1}")


class TableScores:
    """The scores of one call: logits f32[N, V] per row."""

    def __init__(self, trees: Sequence[TokenTree], logits: Sequence[NDArray[np.float32]]) -> None:
        self._trees = trees
        self._logits = logits

    def choose(
        self,
        samplings: Sequence[Sampling],
        positions: Sequence[int],
        edits: Sequence[Sequence[Edit | None] | None] | None = None,
        top: int = 0,
    ) -> list[list[int]]:
        """Per row, the choice after every node."""
        choices = []
        for row, (tree, sampling, position) in enumerate(zip(self._trees, samplings, positions, strict=True)):
            logits, row_edits = self._logits[row], edits and edits[row]
            if row_edits:
                logits = np.stack([edited(*pair) for pair in zip(logits, row_edits, strict=True)])
            noise_positions = [position + 1 + depth for depth in tree.shape.depths]
            choices.append(sampling_.choose(logits, sampling, noise_positions))
        return choices

    def logits(self, row: int, nodes: Sequence[int]) -> NDArray[np.float32]:
        """f32[n, V]: raw logits after these nodes."""
        return self._logits[row][list(nodes)]

    def law(self, row: int, node: int, sampling: Sampling) -> NDArray[np.float64]:
        """f64[V]: the law of the choice after a node."""
        return warp(self._logits[row][node], sampling)

    def top(self, row: int, nodes: Sequence[int], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """([n, k] ids, [n, k] raw logits), best first, lower id on ties."""
        logits = self.logits(row, nodes)
        ids = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        return ids, np.take_along_axis(logits, ids, axis=1)

    def hidden(self, tap: str) -> NDArray[np.float32]:
        """An OutpaceError: a table has no layers to tap."""
        raise OutpaceError(f"the table target has no tap {tap!r}, accepted are none")

    def read(self, row: int, tap: str) -> NDArray[np.float32]:
        """As `hidden`."""
        return self.hidden(tap)
