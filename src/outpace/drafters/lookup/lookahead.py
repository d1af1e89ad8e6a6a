"""Lookahead decoding: Jacobi iteration over a window makes n-grams, and the pool of them drafts.

Fu, Bailis, Stoica & Zhang 2024, "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding",
arXiv:2402.02057. The window has W columns of N - 1 guesses; each was the target's choice after the guesses
below it in an earlier call. One call checks n-grams of the pool and advances the window, in one tree:

    window    the columns' first tokens are a chain below the root; on each hangs the rest of its column, so a
              guess of column j sees the chain up to j and its own column below it
    pool      n-grams that begin with the root's token, as branches from the root
    observe   the choice at the top of a column completes an n-gram for the pool, and is the column's new top
              when its lowest token falls out; columns that the text has passed are replaced

It stays exact under sampling: a choice is a function of (seed, position, token) and its prefix, and a drafted
token, of the window or the pool, is kept only where it is that choice.

Deviations. New columns begin as runs of the prompt at full height, where the paper lets the first ones grow.
The prompt's n-grams are in the pool from the start (an option of the original). The window is verified, too:
its chain is part of the tree.
"""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core.call import Prompt
from outpace.core.options import MOST_SIZE, checked, sizes, within
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree


class LookaheadState:
    """The window and the pool of a row.

    columns  N - 1 tokens each, the lowest first; column j (from 0) begins j + 1 tokens behind the root.
    pool     token -> the latest n-grams that begin with it, without it, newest last.
    drawn    how many tokens of the prompt the window has taken.
    """

    __slots__ = ("columns", "drawn", "pool", "prompt")

    def __init__(self, prompt: Sequence[int]) -> None:
        self.prompt = list(prompt)
        self.columns: list[list[int]] = []
        self.pool: dict[int, list[list[int]]] = {}
        self.drawn = 0


class Lookahead:
    """A window of `window` columns that makes n-grams of `ngram` tokens; `candidates` of them are tried."""

    traits = Traits(branches=True, paced="always")

    @checked
    def __init__(self, *, window: int = 4, ngram: int = 4, candidates: int = 4) -> None:
        sizes("lookahead", window=window, candidates=candidates)
        within("lookahead", 2, max(2, MOST_SIZE // window), ngram=ngram)
        self.window = window
        self.height = ngram - 1
        self.candidates = candidates

    def start(self, prompt: Prompt) -> LookaheadState:
        """A pool of the prompt's n-grams."""
        state = LookaheadState(prompt)
        for at in range(len(prompt) - self.height):
            self._remember(state, state.prompt[at : at + self.height + 1])
        return state

    def propose(self, states: Sequence[LookaheadState], asks: Sequence[Ask]) -> list[TokenTree]:
        """Candidates and window in one tree; where it has to be cut, the last columns go first."""
        trees = []
        for state, ask in zip(states, asks, strict=True):
            while len(state.columns) < self.window:
                state.columns.append(self._fresh_column(state))
            found = [TokenTree.chain(ask.root, rest) for rest in reversed(state.pool.get(ask.root, []))]
            tree = TokenTree.merge(*found, _window_tree(ask.root, state.columns))
            trees.append(tree.fit(ask.root, vocab_size=2**31, budget=ask.budget, depth=ask.depth))
        return trees

    def observe(self, states: Sequence[LookaheadState], steps: Sequence[Step]) -> list[LookaheadState]:
        """Advance the window by one iteration and by the tokens kept; its n-grams go to the pool."""
        for state, step in zip(states, steps, strict=True):
            if step.tree.num_nodes == 1:  # the window was not asked for; its guesses are better than new ones
                continue
            advanced = []
            for column, top in zip(state.columns, _tops(step.tree, state.columns), strict=False):
                ngram = [*column, step.scores.choices[top]]
                self._remember(state, ngram)
                advanced.append(ngram[1:])
            # Without its lowest token a column has moved one position, which is what a step moves at least.
            state.columns = advanced[len(step.verdict.path) :]
        return list(states)

    def stop(self, state: LookaheadState) -> None:
        """There is nothing to give back."""

    def _remember(self, state: LookaheadState, ngram: list[int]) -> None:
        kept = state.pool.setdefault(ngram[0], [])
        rest = ngram[1:]
        if rest in kept:
            kept.remove(rest)
        kept.append(rest)
        del kept[: -self.candidates]

    def _fresh_column(self, state: LookaheadState) -> list[int]:
        first, prompt = state.drawn, state.prompt
        state.drawn += self.height
        return [prompt[at % len(prompt)] for at in range(first, state.drawn)]


def _window_tree(root: int, columns: Sequence[Sequence[int]]) -> TokenTree:
    tokens, parents, last = [root], [-1], 0
    for column in columns:
        first = len(tokens)
        tokens += column
        parents += [last, *range(first, first + len(column) - 1)]
        last = first
    return TokenTree(tokens, parents)


def _tops(tree: TokenTree, columns: Sequence[Sequence[int]]) -> list[int]:
    """The nodes at the top of the first columns, as far as all of their tokens have been scored."""
    tops: list[int] = []
    last = 0
    for column in columns:
        node = last
        for level, token in enumerate(column):
            node = tree.child(node, token)
            if node < 0:
                return tops
            if level == 0:
                last = node
        tops.append(node)
    return tops
