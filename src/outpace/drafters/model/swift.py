"""SWIFT: the target drafts without some of its sublayers, and searches for the best set while it writes.

Xia et al. 2024, "SWIFT: On-the-Fly Self-Speculative Decoding for LLM Inference Acceleration",
arXiv:2410.06916. The text written so far judges each set of sublayers:

    propose  one call of the target without a candidate set on `window` of the last tokens, all at once; the
             share that it predicts correctly is the set's score (the paper's matchness). Then the best set
             drafts
    search   random sets and a Bayesian model's (`sublayer_search.py`), to the first of: `trials` calls, a
             score of `enough`, `patience` trials without a better one
    stop     the next text begins with what this one has found

Deviations. A row of the target cannot go back, so a fork of it stays behind, `window` tokens or more, and the
candidates run there. When a later fork takes its place, what leads has to win there too (`Search.new_text`).
The paper drafts trees of a shape of its own; here a TreePolicy says, by default a chain that ends where it is
unsure.
"""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core.call import Call, Prompt
from outpace.core.contracts import Target, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.options import checked, within
from outpace.core.steps import Ask, Step
from outpace.core.tree import TokenTree
from outpace.drafters.model.own_layers import grow_on_rows, layered, traits_on_rows
from outpace.drafters.model.sublayer_search import Search, Sublayers
from outpace.trees.chain import Chain


class SwiftState:
    """A row's text and search; two forks of the row: where candidates are scored, and what comes after it."""

    __slots__ = ("next", "room", "search", "text", "window")

    def __init__(self, text: list[int], search: Search) -> None:
        self.text = text
        self.search = search
        self.window: int | None = None
        self.next: int | None = None
        self.room = True  # as far as is known, the target's cache has some for the forks


class Swift:
    """Trees of the target without the best set of sublayers known, a share `ratio` of all but two layers'.

    window    tokens that a set is scored on; the forks hold as many once or twice in the target's cache.
    trials    calls that the search makes in all, one or two in a step; 0 keeps the first set.
    patience  trials without a better set that end it; enough  a score that ends it.
    """

    @checked
    def __init__(
        self,
        *,
        ratio: float = 0.45,
        window: int = 32,
        trials: int = 100,
        patience: int = 50,
        enough: float = 0.95,
        tree: TreePolicy | None = None,
        target: Target,
    ) -> None:
        within("swift", 0, 1, ratio=ratio, enough=enough)
        within("swift", 1, window=window, patience=patience)
        within("swift", 0, trials=trials)
        self._target = layered(target, "swift")
        self.window = window
        self.trials = trials
        self.patience = patience
        self.enough = enough
        self._tree: TreePolicy = Chain(length=6, min_p=0.5) if tree is None else tree
        self.traits = traits_on_rows(self._tree, own=tree is None)
        self._search = Search(self._target.num_layers, ratio)

    def start(self, prompt: Prompt) -> SwiftState:
        """Begins where the search of the texts before has got to."""
        return SwiftState(list(prompt), self._search.copy())

    def propose(self, states: Sequence[SwiftState], asks: Sequence[Ask]) -> list[TokenTree]:
        """One trial and a tree for each row; rows with the same set are drafted for together."""
        rows_of: dict[Sublayers, list[int]] = {}
        for row, (state, ask) in enumerate(zip(states, asks, strict=True)):
            if min(ask.depth, ask.budget) < 1:
                pass  # nothing is wanted, and a trial takes a call
            elif state.room and not ask.unread and self._searches(state.search):
                self._try(state, ask)
            elif not ask.unread:
                self._close(state)
            rows_of.setdefault(state.search.best, []).append(row)
        trees: dict[int, TokenTree] = {}
        for skip, rows in rows_of.items():
            grown = grow_on_rows(self._target, [asks[row] for row in rows], self._tree, skip=skip)
            trees.update(zip(rows, grown, strict=True))
        return [trees[row] for row in range(len(asks))]

    def observe(self, states: Sequence[SwiftState], steps: Sequence[Step]) -> list[SwiftState]:
        """Remember what was written."""
        for state, step in zip(states, steps, strict=True):
            state.text += step.tokens
        return list(states)

    def stop(self, state: SwiftState) -> None:
        """Give back the forks; who has searched longest is followed."""
        self._close(state)
        if state.search.trials > self._search.trials:
            self._search = state.search

    def _searches(self, search: Search) -> bool:
        done = search.trials >= self.trials or search.stale >= self.patience or search.score >= self.enough
        return not done and not search.only

    def _try(self, state: SwiftState, ask: Ask) -> None:
        """Score the next set, if there is text enough and the target has room for a fork."""
        target, search = self._target, state.search
        try:
            if state.next is None:
                state.next = target.fork(ask.row)
            if ask.position - target.length(state.next) >= self.window:
                if state.window is not None:
                    target.free([state.window])
                state.window, state.next = state.next, None
                search.new_text(lambda skip: self._score(state, ask, skip))
                state.next = target.fork(ask.row)
            elif state.window is not None:
                candidate = search.candidate()
                search.record(candidate, self._score(state, ask, candidate))
        except OutpaceError:  # the cache is full: no reason to fail
            state.room = False
            self._close(state)

    def _score(self, state: SwiftState, ask: Ask, skip: Sublayers) -> float:
        """The share of the window's tokens that the target tells right without these sublayers."""
        assert state.window is not None
        begin = self._target.length(state.window)
        text = state.text[begin : begin + self.window + 1]
        call = Call.on(state.window, TokenTree.chain(text[0], text[1:-1]))
        scores = self._target.run([call], skip=skip)
        choices = scores.choose([ask.sampling], [begin])[0]
        return sum(map(int.__eq__, choices, text[1:])) / self.window

    def _close(self, state: SwiftState) -> None:
        forks = [row for row in (state.window, state.next) if row is not None]
        state.window = state.next = None
        if forks:
            self._target.free(forks)
