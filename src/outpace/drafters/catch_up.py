"""A target whose rows may lag behind: what a row owes runs in the same call as its next tree.

A draft model hears of committed tokens one step late. Run on their own they would cost a call; run as a chain
in front of the tree that is scored anyway they cost next to nothing.

    owe     tokens that a row has still to read
    score   puts them in front of the tree: root and all hang on the last of them
    keep    commits them with the path; of a row that a later call has made the target forget, the path is
            owed again
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Exactness, Scores, Target
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Edit, Sampling
from outpace.core.tree import TokenTree

MAX_OWED = 64
"""A row that owes more reads the rest in calls of its own."""


class CatchUp:
    """Wraps a target that nobody else uses. Rows, trees, paths and scores are those of any target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.vocab_size: int = target.vocab_size
        self.context_length: int = target.context_length
        self.eos_ids: frozenset[int] = target.eos_ids
        self.exactness: Exactness = target.exactness
        self.max_nodes: int = getattr(target, "max_nodes", 2**31)
        # A target that need not run again what its last call ran (transformers) pays nothing for it twice.
        self._score_grown: Callable[..., Scores] | None = getattr(target, "score_grown", None)
        self._owed: dict[int, list[int]] = {}
        self._scored: dict[int, tuple[TokenTree, int]] = {}  # by the last call: tree, tokens owed before it
        self._forgotten: dict[int, TokenTree] = {}  # what earlier calls scored

    def prefill(
        self, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]] | None = None
    ) -> tuple[list[int], Scores]:
        """Cache the prompts in new rows, which owe nothing."""
        self._forget()
        rows, scores = self.target.prefill(prompts, drafts)
        for row in rows:
            self._owed[row] = []
        for row, prompt, draft in zip(rows, prompts, drafts or (), strict=False):
            self._scored[row] = (TokenTree.chain(prompt[-1], draft), 0)
        return rows, scores

    def extend(self, rows: Sequence[int | None], unread: Sequence[Sequence[int]]) -> list[int | None]:
        """All but the last of each row's unread tokens become its own; the last is the root of its next tree.

        They are cached at once in a new row where there is none (None), else owed. Returns the rows, and None
        for those given back because their text does not fit or has tokens outside the vocabulary.
        """
        extended = list(rows)
        new = []
        for place, (row, tokens) in enumerate(zip(rows, unread, strict=True)):
            length = 0 if row is None else self.length(row)
            if length + len(tokens) > self.context_length or max(tokens) >= self.vocab_size:
                if row is not None:
                    self.free([row])
                extended[place] = None
            elif row is None:
                new.append(place)
            else:
                self.owe(row, tokens[:-1])
        try:
            opened, _ = self.prefill([unread[place][:-1] for place in new]) if new else ([], None)
        except OutpaceError:  # no memory left for so many rows
            return extended
        for place, row in zip(new, opened, strict=True):
            extended[place] = row
        return extended

    def owe(self, row: int, tokens: Sequence[int]) -> None:
        """Tokens that come after all that the row has, for its next call."""
        self._owed[row] += tokens

    def owed(self, row: int) -> int:
        """How many tokens the next call will read first."""
        return min(MAX_OWED, len(self._owed[row]))

    def settle(self, row: int) -> None:
        """Read what a row owes, in a call of its own."""
        if owed := self._owed[row]:
            last = owed.pop()
            try:
                self.score([row], [TokenTree.root(last)])
            except BaseException:
                self.owe(row, [last])
                raise
            self.keep([row], [[]])

    def score(self, rows: Sequence[int], trees: Sequence[TokenTree]) -> Scores:
        """Run every node of every tree, and what the rows owe, in one call."""
        if self._score_grown is None:
            self._pay([row for row in rows if row in self._scored and self._scored[row][1]])
        self._forget()
        for row in rows:
            while len(self._owed[row]) > MAX_OWED:
                some = self._owed[row][:MAX_OWED]
                self.target.score([row], [TokenTree.chain(some[0], some[1:])])
                self.target.keep([row], [list(range(1, MAX_OWED))])
                del self._owed[row][:MAX_OWED]
        leads = [len(self._owed[row]) for row in rows]
        joined = [_behind(self._owed[row], tree) for row, tree in zip(rows, trees, strict=True)]
        scores = (self._score_grown or self.target.score)(rows, joined)
        for row, tree, lead in zip(rows, trees, leads, strict=True):
            self._forgotten.pop(row, None)
            self._scored[row] = (tree, lead)
        return _LateScores(scores, leads, trees) if any(leads) else scores

    def keep(self, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        """Commit what was owed, the roots of each row's last `score`, and the nodes after them."""
        known = {row: path for row, path in zip(rows, paths, strict=True) if row in self._scored}
        whole = []
        for row, path in known.items():
            _, lead = self._scored.pop(row)
            del self._owed[row][:lead]
            whole.append([*range(1, lead + 1), *(node + lead for node in path)])
        self.target.keep(list(known), whole)
        for row, path in zip(rows, paths, strict=True):
            if row not in known:
                tokens = self._forgotten.pop(row).token_list
                self.owe(row, [tokens[node] for node in (0, *path)])

    def fork(self, row: int) -> int:
        """A new row with the same cached tokens, which owes the same."""
        twin = self.target.fork(row)
        self._owed[twin] = list(self._owed[row])
        return twin

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back."""
        self.target.free(rows)
        for row in rows:
            del self._owed[row]
            self._scored.pop(row, None)
            self._forgotten.pop(row, None)

    def length(self, row: int) -> int:
        """How many tokens the row has, those that it owes included."""
        return self.target.length(row) + len(self._owed[row])

    def _pay(self, rows: Sequence[int]) -> None:
        """Commit what these rows owed in the last call, and nothing of its trees."""
        self.target.keep(rows, [list(range(1, self._scored[row][1])) for row in rows])
        for row in rows:
            self._forgotten[row], lead = self._scored.pop(row)
            del self._owed[row][:lead]

    def _forget(self) -> None:
        self._forgotten |= {row: tree for row, (tree, _) in self._scored.items()}
        self._scored = {}


def _behind(owed: Sequence[int], tree: TokenTree) -> TokenTree:
    """The tree behind a chain of tokens."""
    if not owed:
        return tree
    tokens = [*owed, *tree.token_list]
    if tree.is_chain:
        return TokenTree.chain(tokens[0], tokens[1:])
    lead = len(owed)
    return TokenTree(tokens, [*range(-1, lead), *(parent + lead for parent in tree.shape.parent_list[1:])])


class _LateScores:
    """Scores of a call without the first `leads[row]` nodes of each row."""

    def __init__(self, scores: Scores, leads: Sequence[int], trees: Sequence[TokenTree]) -> None:
        self._scores = scores
        self._leads = leads
        self._sizes = [tree.num_nodes for tree in trees]

    def choose(
        self,
        samplings: Sequence[Sampling],
        positions: Sequence[int],
        edits: Sequence[Sequence[Edit | None] | None] | None = None,
        top: int = 0,
    ) -> list[list[int]]:
        """Per row, the choice after every node of its tree."""
        first = [position - lead for position, lead in zip(positions, self._leads, strict=True)]
        if edits is not None:
            edits = [row and [None] * lead + list(row) for row, lead in zip(edits, self._leads, strict=True)]
        choices = self._scores.choose(samplings, first, edits, top)
        return [row[lead:] for row, lead in zip(choices, self._leads, strict=True)]

    def logits(self, row: int, nodes: Sequence[int]) -> NDArray[np.float32]:
        """f32[n, V]: raw logits after these nodes."""
        return self._scores.logits(row, list(self._late(row, nodes)))

    def law(self, row: int, node: int, sampling: Sampling) -> NDArray[np.floating]:
        """[V]: the law of the choice after a node."""
        return self._scores.law(row, node + self._leads[row], sampling)

    def top(self, row: int, nodes: Sequence[int], k: int) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
        """([n, k] ids, [n, k] raw logits) of the likeliest tokens after nodes."""
        return self._scores.top(row, list(self._late(row, nodes)), k)

    def hidden(self, tap: str) -> NDArray[np.float32]:
        """f32[sum of N_r, D]: hidden states at a tap, rows after one another."""
        every, end, parts = self._scores.hidden(tap), 0, []
        for lead, size in zip(self._leads, self._sizes, strict=True):
            parts.append(every[end + lead : end + lead + size])
            end += lead + size
        return np.concatenate(parts)

    def _late(self, row: int, nodes: Sequence[int]) -> Iterator[int]:
        return (node + self._leads[row] for node in nodes)
