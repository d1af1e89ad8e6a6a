"""EAGLE: one more decoder layer drafts, from the target's own states and then from its own.

EAGLE (Li et al. 2024, arXiv:2401.15077), EAGLE-2 (2406.16858: its trees are `tree=dynamic`), EAGLE-3 (2025,
arXiv:2503.01840). What is computed: `heads/eagle.py`, `heads/eagle_layer.py`. Trained by `outpace train
eagle`.

    observe   the call that verified the last draft has the states that every committed token was chosen
              from: pairs of token and states, which the layer reads before it drafts again
    propose   a TreePolicy grows a tree, one call of the layer per level for all rows; a drafted token goes
              in with the layer's own output behind its parent

The layer has a row of keys and values for each text. It holds the committed tokens but the first, as far as
it has seen their states: of a prompt that was read in several calls, those of the last one.

Deviation. EAGLE's own trees have 60 nodes; here a small one is the default: on a CPU a node has its price.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from outpace.core.call import Prompt
from outpace.core.contracts import Embedded, TreePolicy
from outpace.core.errors import CacheFull, OutpaceError
from outpace.core.layers import Floats
from outpace.core.options import checked
from outpace.core.steps import Ask, RowScores, Step
from outpace.core.tree import TokenTree
from outpace.heads.eagle import METHOD
from outpace.heads.eagle_layer import EagleLayer, embedded
from outpace.heads.packaged import heads_for
from outpace.trees.dynamic import Dynamic
from outpace.trees.grow import Logits, grow_trees, traits_of

CHUNK = 256  # tokens that the layer reads in one call


class EagleState:
    """A row: committed tokens that the layer has not read, with their features; and its place there.

    prompt  the tokens of a text whose first call has not been observed.
    """

    __slots__ = ("features", "lost", "prompt", "row", "tokens")

    def __init__(self, prompt: Sequence[int]) -> None:
        self.prompt: Sequence[int] = prompt
        self.tokens: list[int] = []
        self.features: list[Floats] = []  # arrays [n, D], of as many tokens in all
        self.row: int | None = None
        self.lost = False  # there was no memory for it


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
        folder = heads_for(embedded(target), METHOD, beside) if path == "auto" else path
        self._layer = EagleLayer(target, folder)
        self._context_length = target.context_length
        self._tree: TreePolicy = Dynamic(size=6, k=2, depth=4) if tree is None else tree
        self.traits = replace(traits_of(self._tree, own=tree is None), whole_calls=True)

    def start(self, prompt: Prompt) -> EagleState:
        """Nothing is proposed before the prompt's own call has been observed."""
        return EagleState(list(prompt))

    def propose(self, states: Sequence[EagleState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row; root-only where the layer has nothing to go on from."""
        trees = [TokenTree.root(ask.root) for ask in asks]
        able = [n for n, ask in enumerate(asks) if min(ask.budget, ask.depth) > 0 and self._read(states[n])]
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
            state.tokens += tokens
            state.features.append(self._layer.features(found))
        return list(states)

    def stop(self, state: EagleState) -> None:
        """Give the row back."""
        if state.row is not None:
            self._layer.rows.free(state.row)
            state.row = None

    def _states(self, scores: RowScores, nodes: Sequence[int]) -> Floats:
        """f32[n, T * D] of nodes of a step."""
        return np.concatenate([scores.hidden(tap)[nodes] for tap in self._layer.config.taps], axis=1)

    def _before(self, scores: RowScores) -> Floats:
        """f32[n, T * D] of what was read before the root."""
        return np.concatenate([scores.read(tap) for tap in self._layer.config.taps], axis=1)

    def _read(self, state: EagleState) -> bool:
        """Read what is pending, all but the last chunk of it; whether the layer can draft for the row."""
        if state.lost or not state.tokens:
            return False
        layer, features = self._layer, np.concatenate(state.features)
        try:
            if state.row is None:
                state.row = layer.rows.open()
            while len(state.tokens) > CHUNK:
                read, residuals = layer.inputs(state.tokens[:CHUNK], features[:CHUNK])
                layer.rows.score([state.row], [0, CHUNK], range(-1, CHUNK - 1), read, residuals)
                layer.rows.keep(state.row, range(1, CHUNK))
                del state.tokens[:CHUNK]
                features = features[CHUNK:]
        except CacheFull:
            self.stop(state)
            state.lost = True
            return False
        state.features = [features]
        return True


class Drafts:
    """The layer as a step function (see `trees.grow`), for the rows of one `propose`."""

    def __init__(self, layer: EagleLayer, states: Sequence[EagleState]) -> None:
        self._layer = layer
        self._states = states
        # By row and node: the token's inputs, and the layer's output behind it.
        self._inputs: list[dict[int, tuple[Floats, Floats]]] = [{} for _ in states]
        self._outputs: list[dict[int, Floats]] = [{} for _ in states]

    def step(
        self, rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
    ) -> list[Logits | None]:
        """One call on the nodes and their ancestors, and on what is pending before the root."""
        kept = [tree.shape.closure([0, *now]) for tree, now in zip(trees, nodes, strict=True)]
        self._prepare(rows, trees, kept)
        starts, parents, leads = [0], list[int](), list[int]()
        read, residuals = list[Floats](), list[Floats]()
        for row, tree, some in zip(rows, trees, kept, strict=True):
            lead = self._lead(row)
            leads.append(0 if lead is None else len(lead[0]))
            if lead is not None:
                read.append(lead[0])
                residuals.append(lead[1])
            read += [self._inputs[row][node][0][None] for node in some]
            residuals += [self._inputs[row][node][1][None] for node in some]
            places = {node: leads[-1] + at for at, node in enumerate(some)}
            parents += range(-1, leads[-1])
            parents += [places[tree.shape.parent_list[node]] for node in some[1:]]
            starts.append(len(parents))
        try:
            numbers = [self._number(row) for row in rows]
            outputs = self._layer.rows.score(
                numbers, starts, parents, np.concatenate(read), np.concatenate(residuals)
            )
        except OutpaceError:  # no memory left for these rows, or more nodes than a call has
            return [None] * len(rows)
        wanted = []
        for place, (row, some, now) in enumerate(zip(rows, kept, nodes, strict=True)):
            first = starts[place] + leads[place]
            at = [first + some.index(node) for node in now]
            self._outputs[row].update(zip(now, outputs[at], strict=True))
            wanted += at
            self._commit(row, leads[place])
        logits = self._layer.logits(outputs[wanted])
        return list(np.split(logits, np.cumsum([len(now) for now in nodes])[:-1]))

    def _prepare(
        self, rows: Sequence[int], trees: Sequence[TokenTree], kept: Sequence[Sequence[int]]
    ) -> None:
        """The inputs of nodes that are new, all in one go."""
        places, tokens, features = list[tuple[int, int]](), list[int](), list[Floats]()
        for row, tree, some in zip(rows, trees, kept, strict=True):
            for node in some:
                if node in self._inputs[row]:
                    continue
                places.append((row, node))
                tokens.append(tree.token_list[node])
                if node:
                    above = self._outputs[row][tree.shape.parent_list[node]]
                    features.append(self._layer.behind(above[None])[0])
                else:
                    features.append(self._states[row].features[0][-1])
        if places:
            read, residuals = self._layer.inputs(tokens, np.stack(features))
            for at, (row, node) in enumerate(places):
                self._inputs[row][node] = read[at], residuals[at]

    def _lead(self, row: int) -> tuple[Floats, Floats] | None:
        """The inputs of what is pending before the root."""
        state = self._states[row]
        if len(state.tokens) == 1:
            return None
        return self._layer.inputs(state.tokens[:-1], state.features[0][:-1])

    def _commit(self, row: int, lead: int) -> None:
        """What was pending before the root has been read; the root stays to be read."""
        if lead:
            state = self._states[row]
            self._layer.rows.keep(self._number(row), range(1, lead))
            del state.tokens[:-1]
            state.features = [state.features[0][-1:]]

    def _number(self, row: int) -> int:
        number = self._states[row].row
        assert number is not None, "a row that has been read"
        return number
