"""Consensus: samples of one prompt that are decoded together draft for each other.

Li et al. 2025, "Speculative Decoding for Multi-Sample Inference", arXiv:2503.05330. Several samples of one
prompt (for self-consistency, best of n) reason in much the same words. The last tokens of one path are looked
up in the others, and what followed them there is drafted where they agree.

    observe   each new token continues one n-gram per n of its own row's index
    propose   the longest suffix of max_n to min_n tokens that any other row of the prompt has; what came
              after it there is counted in a trie, one vote a row; the `size` likeliest nodes are the draft
    stop      a row that has ended still votes, until the last one of its prompt ends

Deviations. Votes are counted; the paper weighs them by the probabilities of the paths. A tree replaces the
paper's graph and its single best path; its odds count one more row, which agrees with no other. If a row has
the suffix at several places, the latest is its vote.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from itertools import count

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.options import checked, sizes
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.trees.likeliest import Offer, best_first, branches

Votes = Sequence[Sequence[int]]

MAX_ENDED = 32  # rows of one prompt that are remembered after their end


class Group:
    """The rows of one prompt: how many are running, and the states of those that have ended."""

    __slots__ = ("ended", "num_running")

    def __init__(self) -> None:
        self.num_running = 0
        self.ended: deque[ConsensusState] = deque(maxlen=MAX_ENDED)


class ConsensusState:
    """One row: the end of the prompt and all output, and for every n-gram the position behind the latest."""

    __slots__ = ("group", "index", "key", "tokens")

    def __init__(self, prompt: Sequence[int], key: Hashable, group: Group, max_n: int) -> None:
        self.key = key  # of the group
        self.group = group
        self.tokens = list(prompt[-max_n:])
        self.index: dict[tuple[int, ...], int] = {}


class Consensus:
    """Trees of `size` nodes and `depth` levels that the other rows of the same prompt vote for."""

    traits = Traits(branches=True)

    @checked
    def __init__(self, *, min_n: int = 1, max_n: int = 4, size: int = 12, depth: int = 8) -> None:
        if not 1 <= min_n <= max_n:
            raise OutpaceError(
                f"consensus has min_n={min_n} and max_n={max_n}, accepted are 1 <= min_n <= max_n"
            )
        sizes("consensus", max_n=max_n, size=size, depth=depth)
        self.max_n = max_n
        self.size = size
        self.depth = depth
        self._sizes = range(max_n, min_n - 1, -1)
        # Rows vote for rows of the same prompt only: each prompt is a group.
        self._groups: dict[Hashable, Group] = {}

    def start(self, prompt: Prompt) -> ConsensusState:
        """Join the rows of the same prompt."""
        key = prompt.key
        group = self._groups.setdefault(key, Group())
        group.num_running += 1
        return ConsensusState(prompt, key, group, self.max_n)

    def propose(self, states: Sequence[ConsensusState], asks: Sequence[Ask]) -> list[TokenTree]:
        """For each row the vote of the others. logq: the log of a token's share of its parent's votes."""
        peers: dict[int, list[ConsensusState]] = {}
        for state in states:
            peers.setdefault(id(state.group), list(state.group.ended)).append(state)
        return [
            self._vote(state, peers[id(state.group)], ask) for state, ask in zip(states, asks, strict=True)
        ]

    def observe(self, states: Sequence[ConsensusState], steps: Sequence[Step]) -> list[ConsensusState]:
        """Index what was committed, in place."""
        for state, step in zip(states, steps, strict=True):
            tokens, index = state.tokens, state.index
            for token in step.tokens:
                end = len(tokens)
                for n in self._sizes:
                    if n <= end:
                        index[tuple(tokens[end - n :])] = end
                tokens.append(token)
        return list(states)

    def stop(self, state: ConsensusState) -> None:
        """Leave the row's text to those that still run; forget all of them with the last."""
        group = state.group
        group.ended.append(state)
        group.num_running -= 1
        if group.num_running == 0:
            del self._groups[state.key]

    def _vote(self, state: ConsensusState, rows: Sequence[ConsensusState], ask: Ask) -> TokenTree:
        tokens, depth = state.tokens, min(self.depth, ask.depth)
        for n in self._sizes:
            suffix = tuple(tokens[-n:]) if n <= len(tokens) else None
            ends = [(row, row.index.get(suffix)) for row in rows if suffix and row is not state]
            votes = [row.tokens[end : end + depth] for row, end in ends if end is not None]
            if votes:
                return _tree(ask.root, votes, min(self.size, ask.budget))
        return TokenTree.root(ask.root)


def _tree(root: int, votes: Votes, size: int) -> TokenTree:
    """The likeliest nodes of the votes' trie, an earlier vote first where the odds are equal.

    A child of c of the n votes at its parent has odds of c / (n + 1).
    """
    number = count()

    def children(node: int, level: int, taken: Offer[Votes]) -> list[Offer[Votes]]:
        negative, *_, votes = taken
        return [
            (negative * len(rest) / (len(votes) + 1), next(number), node, token, rest)
            for token, rest in branches(votes, level).items()
        ]

    return best_first(root, votes, children, size=size).tree()
