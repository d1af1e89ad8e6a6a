"""Forced tokens first: what a grammar leaves no choice about is drafted for nothing, before any other draft.

Zheng et al. 2023, "SGLang: Efficient Execution of Structured Language Model Programs", arXiv:2312.07104: an
automaton jumps over such tokens. Here they are drafts like others, which a call of the model commits.

    known    the tokens that the row's edit forces behind the root (`Ask.known`), as deep as may be drafted
    propose  these, and behind them what the inner drafter adds if it `goes_on`; without any, its tree
    prune    nodes that the edit's mask forbids are not scored: they could never be kept
    others   rows without a grammar have the inner drafter's own trees, and its states are those of all rows

Deviations. Nothing is written without the model, so no text is tokenised anew. An inner drafter that does not
go on is not asked in a step with forced tokens: it would have to walk along them first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter
from outpace.core.edits import EditAfter, Forcing
from outpace.core.steps import Ask, Step
from outpace.core.tree import TokenTree
from outpace.core.turns import turns_of
from outpace.decode.pipelined import Pipelined
from outpace.drafters.none import NoDraft


def with_forced(drafter: Drafter) -> Drafter:
    """The drafter behind tokens that grammars force; itself if it is plain decoding, or a pipeline's.

    Rows with and without a grammar may share what comes back. It has no state of its own, so it may be made
    anew for every call; `pace_of` the inner drafter goes with it.
    """
    return drafter if isinstance(drafter, NoDraft | Pipelined | Forced) else Forced(drafter)


class Forced:
    """An inner drafter, and in front of its drafts what is certain."""

    def __init__(self, inner: Drafter) -> None:
        self._inner = inner
        self.traits = inner.traits

    def start(self, prompt: Prompt) -> Any:
        """The inner drafter's state."""
        with turns_of(self._inner):  # others may use it without this one
            return self._inner.start(prompt)

    def propose(self, states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        """For each row its forced tokens with what the inner drafter hangs on them, or the inner tree."""
        known = [ask.known for ask in asks]
        own = [
            replace(ask, depth=0) if chain and not self.traits.goes_on else ask
            for ask, chain in zip(asks, known, strict=True)
        ]
        if any(min(one.budget, one.depth) > len(chain) for one, chain in zip(own, known, strict=True)):
            with turns_of(self._inner):
                trees = self._inner.propose(states, own)
        else:
            trees = [TokenTree.root(ask.root) for ask in asks]
        return [_joined(*row) for row in zip(asks, known, trees, strict=True)]

    def observe(self, states: Sequence[Any], steps: Sequence[Step]) -> list[Any]:
        """The inner drafter sees the whole steps."""
        with turns_of(self._inner):
            return self._inner.observe(states, steps)

    def stop(self, state: Any) -> None:
        """Give back what the inner drafter holds."""
        with turns_of(self._inner):
            self._inner.stop(state)


def _joined(ask: Ask, known: Sequence[int], tree: TokenTree) -> TokenTree:
    if not isinstance(ask.edit, Forcing):
        return tree
    if tree.token_list[0] != ask.root:
        tree = TokenTree.root(ask.root)
    if known and not _begins(tree, known):
        tree = TokenTree.merge(TokenTree.chain(ask.root, known), tree)
    return _allowed(tree, ask.edit, ask.budget)


def _begins(tree: TokenTree, known: Sequence[int]) -> bool:
    """Whether these tokens are the tree's first path."""
    node = 0
    for token in known:
        node = tree.child(node, token)
        if node < 0:
            return False
    return True


def _allowed(tree: TokenTree, edit: EditAfter, most: int) -> TokenTree:
    """The tree without what the edit's masks forbid; at most so many nodes are looked at."""
    paths: dict[int, tuple[int, ...]] = {0: ()}
    for node, parent in enumerate(tree.shape.parent_list[1:], 1):
        if parent not in paths or len(paths) > most:
            continue
        token, after = tree.token_list[node], edit(paths[parent])
        if after is None or after.allows(token):
            paths[node] = (*paths[parent], token)
    return tree if len(paths) == tree.num_nodes else tree.prune(paths)
