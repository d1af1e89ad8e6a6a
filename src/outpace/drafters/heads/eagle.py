"""EAGLE: one more decoder layer drafts, from the target's own states and then from its own.

EAGLE (Li et al. 2024, arXiv:2401.15077), EAGLE-2 (2406.16858: its trees are `tree=dynamic`), EAGLE-3 (2025,
arXiv:2503.01840). What is computed: `heads/eagle.py`, `heads/eagle_layer.py`. Trained by `outpace train
eagle`.

    observe   the call that verified the last draft has the states that every committed token was chosen
              from: pairs of token and states, which the layer reads before it drafts again
    propose   a TreePolicy grows a tree, one call of the layer per level for all rows; a drafted token goes
              in with the layer's own output behind its parent

The layer has a row of keys and values for each text. It holds the committed tokens but the first, as far as
it has seen their states: of a prompt that was read in several calls, those of the last one alone.

Deviation. EAGLE's own trees have 60 nodes; here a small one is the default: on a CPU a node has its price.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from outpace.core.call import Prompt
from outpace.core.contracts import Embedded, TreePolicy
from outpace.core.errors import CacheFull
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
            pieces = range(0, len(found), CHUNK)  # of a long prompt the states are several times as wide
            state.features += [self._layer.features(found[at : at + CHUNK]) for at in pieces]
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


@dataclass(frozen=True, slots=True)
class Part:
    """A row's share of a call: `lead` nodes before the root, then those of its tree."""

    read: Floats
    residuals: Floats
    parents: list[int]
    lead: int


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
        """Nodes, their ancestors, and what is pending before roots: in one call, or more where it is full."""
        kept = [tree.shape.closure([0, *now]) for tree, now in zip(trees, nodes, strict=True)]
        self._prepare(rows, trees, kept)
        parts = [self._part(*one) for one in zip(rows, trees, kept, strict=True)]
        outputs: list[Floats | None] = [None] * len(rows)
        for places in _groups([len(part.parents) for part in parts], self._layer.rows.max_nodes):
            some = [parts[place] for place in places]
            starts = np.cumsum([0, *(len(part.parents) for part in some)]).tolist()
            try:
                found = self._layer.rows.score(
                    [self._number(rows[place]) for place in places],
                    starts,
                    [parent for part in some for parent in part.parents],
                    np.concatenate([part.read for part in some]),
                    np.concatenate([part.residuals for part in some]),
                )
            except CacheFull:  # no memory left for these rows
                continue
            for place, part, start in zip(places, some, starts, strict=False):
                at = [start + part.lead + kept[place].index(node) for node in nodes[place]]
                outputs[place] = found[at]
                self._outputs[rows[place]].update(zip(nodes[place], found[at], strict=True))
                self._commit(rows[place], part.lead)
        able = [one for one in outputs if one is not None]
        if not able:
            return [None] * len(rows)
        ends = np.cumsum([len(one) for one in able])[:-1]
        logits = iter(np.split(self._layer.logits(np.concatenate(able)), ends))
        return [None if one is None else next(logits) for one in outputs]

    def _part(self, row: int, tree: TokenTree, some: Sequence[int]) -> Part:
        """What is pending before the root, and these nodes of a tree."""
        inputs = [self._inputs[row][node] for node in some]
        read, residuals = (np.stack(both) for both in zip(*inputs, strict=True))
        lead = self._lead(row)
        if lead is not None:
            read, residuals = np.concatenate([lead[0], read]), np.concatenate([lead[1], residuals])
        before = len(read) - len(some)
        places = {node: before + at for at, node in enumerate(some)}
        below = [places[tree.shape.parent_list[node]] for node in some[1:]]
        return Part(read, residuals, [*range(-1, before), *below], before)

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


def _groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of rows that share a call of at most so many nodes; a row that is larger is in none."""
    groups: list[list[int]] = [[]]
    room = most
    for number, size in enumerate(sizes):
        if size > most:
            continue
        if size > room:
            groups.append([])
            room = most
        groups[-1].append(number)
        room -= size
    return [group for group in groups if group]
