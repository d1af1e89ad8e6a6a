"""EAGLE: one more decoder layer drafts, from the target's own states and then from its own.

EAGLE (Li et al. 2024, arXiv:2401.15077), EAGLE-2 (2406.16858: its trees are `tree=dynamic`), EAGLE-3 (2025,
arXiv:2503.01840). What is computed: `heads/eagle.py`, `heads/eagle_layer.py`. Trained by `outpace train
eagle`.

    observe   the call that verified the last draft has the states that every committed token was chosen
              from: pairs of token and states, which wait until the layer drafts again, and are read then
    propose   a TreePolicy grows a tree, one call of the layer per level for all rows; a drafted token goes
              in with the layer's own output behind its parent

The layer has a row of keys and values for each text. It holds the committed tokens but the first, as far as
it has seen their states: of a prompt that was read in several calls, those of the last one alone.

Deviation. EAGLE's own trees have 60 nodes; here a small one is the default: on a CPU a node has its price.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from outpace.core.call import Prompt
from outpace.core.contracts import Embedded, TreePolicy
from outpace.core.layers import Floats
from outpace.core.options import checked
from outpace.core.steps import Ask, RowScores, Step
from outpace.core.tree import TokenTree
from outpace.drafters.heads.given import Inputs, Levels, Waiting, give_back, read_ahead
from outpace.heads.eagle import METHOD
from outpace.heads.eagle_layer import EagleLayer
from outpace.heads.embeddings import embedded
from outpace.heads.packaged import heads_for
from outpace.trees.dynamic import Dynamic
from outpace.trees.grow import grow_trees, traits_of


class EagleState(Waiting):
    """A row: its committed tokens that the layer has not read, the root's last.

    prompt  the tokens of a text whose first call has not been observed. row, lost: see `given.Text`.
    """

    __slots__ = ("_layer", "lost", "prompt", "row", "tokens")

    def __init__(self, layer: EagleLayer, prompt: Sequence[int]) -> None:
        super().__init__(layer)
        self.prompt: Sequence[int] = prompt
        self.tokens: list[int] = []
        self.row: int | None = None
        self.lost = False
        self._layer = layer

    @property
    def unread(self) -> int:
        """How many tokens before the root."""
        return len(self.tokens) - 1

    def add(self, tokens: Sequence[int], states: Floats) -> None:
        """Committed tokens, and the states f32[n, T * D] that they were chosen from."""
        self.tokens += tokens
        self.add_states(states)

    def inputs(self, count: int) -> Inputs:
        """Those of the first of them."""
        return self._layer.inputs(self.tokens[:count], self.first(count))

    def drop(self, count: int) -> None:
        """They have been read."""
        del self.tokens[:count]
        self.drop_first(count)


class Eagle:
    """Trees of an EAGLE layer.

    path  folder of the heads; "auto" for those that lie beside the model's packed weights or, if there are
          none, those that come with the package for it.
    tree  the shape of drafts; None for a small tree of EAGLE-2's kind.
    """

    @checked
    def __init__(
        self,
        target: Embedded,
        beside: Callable[[str], Path] | None = None,
        *,
        path: str = "auto",
        tree: TreePolicy | None = None,
    ) -> None:
        folder = heads_for(embedded(target, METHOD), METHOD, beside) if path == "auto" else path
        self._layer = EagleLayer(target, folder)
        self._context_length = target.context_length
        self._tree: TreePolicy = Dynamic(size=6, k=2, depth=4) if tree is None else tree
        self.traits = replace(traits_of(self._tree, own=tree is None), whole_calls=True)

    def start(self, prompt: Prompt) -> EagleState:
        """Nothing is proposed before the prompt's own call has been observed."""
        return EagleState(self._layer, list(prompt))

    def propose(self, states: Sequence[EagleState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row; root-only where the layer has nothing to go on from."""
        trees = [TokenTree.root(ask.root) for ask in asks]
        able = [
            n
            for n, (state, ask) in enumerate(zip(states, asks, strict=True))
            if min(ask.budget, ask.depth) > 0 and self._catches_up(state)
        ]
        drafts = Drafts(self._layer, [states[n] for n in able])
        grown = grow_trees([asks[n] for n in able], self._tree, drafts.step)
        for n, tree in zip(able, grown, strict=True):
            trees[n] = tree
        return trees

    def observe(self, states: Sequence[EagleState], steps: Sequence[Step]) -> list[EagleState]:
        """The committed tokens are to be read, each with the states that it was chosen from."""
        for state, step in zip(states, steps, strict=True):
            if state.lost:
                continue
            tokens, found = step.tokens, self._states(step.scores, [0, *step.verdict.path])
            if state.prompt:
                before = self._before(step.scores)
                tokens = [*state.prompt[len(state.prompt) - len(before) :], *tokens]
                found, state.prompt = np.concatenate([before, found]), ()
            state.add(tokens, found)
        return list(states)

    def stop(self, state: EagleState) -> None:
        """Give the row back."""
        give_back(self._layer.rows, state)

    def _catches_up(self, state: EagleState) -> bool:
        """Make ready what has waited; whether the layer can draft for the row."""
        if state.lost or not state.tokens:
            return False
        state.fuse()
        return read_ahead(self._layer.rows, state)

    def _states(self, scores: RowScores, nodes: Sequence[int]) -> Floats:
        """f32[n, T * D] of nodes of a step."""
        return np.concatenate([scores.hidden(tap)[nodes] for tap in self._layer.config.taps], axis=1)

    def _before(self, scores: RowScores) -> Floats:
        """f32[n, T * D] of what was read before the root."""
        return np.concatenate([scores.read(tap) for tap in self._layer.config.taps], axis=1)


class Drafts:
    """The layer as a step function (see `trees.grow`), for the rows of one `propose`."""

    def __init__(self, layer: EagleLayer, states: Sequence[EagleState]) -> None:
        self._layer = layer
        self._states = states
        self._levels = Levels(layer.rows, states, self._enter, layer.logits)
        self.step = self._levels.step

    def _enter(self, rows: Sequence[int], trees: Sequence[TokenTree], new: Sequence[Sequence[int]]) -> Inputs:
        """Tokens with the outputs behind those before them; roots with the states they were chosen from."""
        tokens, features = list[int](), list[Floats]()
        for row, tree, some in zip(rows, trees, new, strict=True):
            for node in some:
                tokens.append(tree.token_list[node])
                if node:
                    above = self._levels.outputs[row][tree.shape.parent_list[node]]
                    features.append(self._layer.behind(above[None])[0])
                else:
                    features.append(self._states[row].features[-1][-1])
        return self._layer.inputs(tokens, np.stack(features))
