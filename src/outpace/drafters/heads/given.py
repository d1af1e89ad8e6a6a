"""Trees of a layer beside the target (`core.layers.GivenLayer`), on rows of keys and values of its own.

eagle and the adapter of early_exit share this, and dflash what reads ahead. A level of a tree is one call of
the layer for all rows: the nodes of the level with their ancestors, and before them what has been committed
since the row's last call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from outpace.core.errors import CacheFull
from outpace.core.layers import Floats, GivenLayer
from outpace.core.tree import TokenTree
from outpace.trees.grow import Logits

CHUNK = 256  # tokens that a layer reads in one call

Inputs = tuple[Floats, Floats]
"""Of n tokens: what the attention is made of f32[n, W], and what the layer adds to f32[n, D]."""

Enter = Callable[[Sequence[int], Sequence[TokenTree], Sequence[Sequence[int]]], Inputs]
"""(rows, their trees, per tree its nodes that are new to the layer) -> inputs of all of them, in order."""


class Text(Protocol):
    """A row, and what of its text before the root the layer has not read yet.

    row   its place in the layer; None before it has one.
    lost  there was no memory for it.
    """

    row: int | None
    lost: bool

    @property
    def unread(self) -> int:
        """How many tokens that is."""

    def inputs(self, count: int) -> Inputs:
        """Those of the first `count` of them."""

    def drop(self, count: int) -> None:
        """The layer has read the first `count` of them."""


class Reader(Protocol):
    """A layer, or several, with rows of the same numbers; see `GivenLayer`."""

    def open(self) -> int: ...
    def free(self, row: int) -> None: ...
    def keep(self, row: int, path: Iterable[int]) -> None: ...
    def score(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        parents: Sequence[int],
        read: Floats,
        residuals: Floats,
    ) -> Floats | None: ...


class Fusing(Protocol):
    """Makes what is read of states: `features`, f32[n, T * D] -> f32[n, D]."""

    def features(self, states: Floats) -> Floats: ...


class Waiting:
    """States of committed tokens that a layer has not read, and what it reads of the first of them.

    features  arrays [n, D]. states: of the tokens after these, arrays [n, T * D].
    """

    __slots__ = ("_by", "features", "states", "waiting")

    def __init__(self, by: Fusing) -> None:
        self.features: list[Floats] = []
        self.states: list[Floats] = []
        self.waiting = 0  # how many tokens have states and no features
        self._by = by

    def add_states(self, states: Floats) -> None:
        """f32[n, T * D], of the tokens that come next."""
        self.states.append(states)
        self.waiting += len(states)
        if self.waiting >= CHUNK:  # states are several times as wide as features
            self.fuse()

    def fuse(self) -> None:
        """Make features of the states that wait, by chunks."""
        if self.waiting:
            found, pieces = np.concatenate(self.states), range(0, self.waiting, CHUNK)
            self.features += [self._by.features(found[at : at + CHUNK]) for at in pieces]
            self.states, self.waiting = [], 0

    def first(self, count: int) -> Floats:
        """f32[count, D], the first features."""
        self.features = [np.concatenate(self.features)]
        return self.features[0][:count]

    def drop_first(self, count: int) -> None:
        """They have been read."""
        self.features = [np.concatenate(self.features)[count:]]


def read_ahead(layer: Reader, text: Text) -> bool:
    """Read what is unread, all but the last chunk of it; whether the layer can draft for the row."""
    if text.lost:
        return False
    try:
        if text.row is None:
            text.row = layer.open()
        while text.unread >= CHUNK:
            layer.score([text.row], [0, CHUNK], range(-1, CHUNK - 1), *text.inputs(CHUNK))
            layer.keep(text.row, range(1, CHUNK))
            text.drop(CHUNK)
    except CacheFull:
        give_back(layer, text)
        text.lost = True
        return False
    return True


def give_back(layer: Reader, text: Text) -> None:
    """The row's place in the layer."""
    if text.row is not None:
        layer.free(text.row)
        text.row = None


@dataclass(frozen=True, slots=True)
class Part:
    """A row's share of a call: `lead` nodes before the root, then those of its tree."""

    read: Floats
    residuals: Floats
    parents: list[int]
    lead: int


class Levels:
    """The layer as a step function (see `trees.grow`), for the rows of one `propose`.

    enter    makes the inputs of nodes. logits: f32[n, D], outputs of the layer -> f32[n, V].
    outputs  by row and node: what stands behind the layer there, f32[D].
    """

    def __init__(
        self, layer: GivenLayer, texts: Sequence[Text], enter: Enter, logits: Callable[[Floats], Floats]
    ) -> None:
        self.outputs: list[dict[int, Floats]] = [{} for _ in texts]
        self._layer = layer
        self._texts = texts
        self._enter = enter
        self._logits = logits
        self._inputs: list[dict[int, Inputs]] = [{} for _ in texts]  # by row and node

    def step(
        self, rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
    ) -> list[Logits | None]:
        """Nodes, their ancestors, and what is unread before roots: in one call, or more where it is full."""
        kept = [tree.shape.closure([0, *now]) for tree, now in zip(trees, nodes, strict=True)]
        self._prepare(rows, trees, kept)
        parts = [self._part(*one) for one in zip(rows, trees, kept, strict=True)]
        outputs: list[Floats | None] = [None] * len(rows)
        for places in groups([len(part.parents) for part in parts], self._layer.max_nodes):
            some = [parts[place] for place in places]
            starts = np.cumsum([0, *(len(part.parents) for part in some)]).tolist()
            try:
                found = self._layer.score(
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
                self.outputs[rows[place]].update(zip(nodes[place], found[at], strict=True))
                self._commit(rows[place], part.lead)
        able = [one for one in outputs if one is not None]
        if not able:
            return [None] * len(rows)
        ends = np.cumsum([len(one) for one in able])[:-1]
        logits = iter(np.split(self._logits(np.concatenate(able)), ends))
        return [None if one is None else next(logits) for one in outputs]

    def _prepare(
        self, rows: Sequence[int], trees: Sequence[TokenTree], kept: Sequence[Sequence[int]]
    ) -> None:
        """The inputs of nodes that are new, all in one go."""
        new = [
            [node for node in some if node not in self._inputs[row]]
            for row, some in zip(rows, kept, strict=True)
        ]
        if any(new):
            inputs = zip(*self._enter(rows, trees, new), strict=True)
            for row, some in zip(rows, new, strict=True):
                self._inputs[row].update(zip(some, inputs, strict=False))

    def _part(self, row: int, tree: TokenTree, some: Sequence[int]) -> Part:
        """What is unread before the root, and these nodes of a tree."""
        inputs = [self._inputs[row][node] for node in some]
        read, residuals = (np.stack(both) for both in zip(*inputs, strict=True))
        text, lead = self._texts[row], self._texts[row].unread
        if lead:
            before = text.inputs(lead)
            read, residuals = np.concatenate([before[0], read]), np.concatenate([before[1], residuals])
        places = {node: lead + at for at, node in enumerate(some)}
        below = [places[tree.shape.parent_list[node]] for node in some[1:]]
        return Part(read, residuals, [*range(-1, lead), *below], lead)

    def _commit(self, row: int, lead: int) -> None:
        """What was unread before the root has been read; the root stays to be read."""
        if lead:
            self._layer.keep(self._number(row), range(1, lead))
            self._texts[row].drop(lead)

    def _number(self, row: int) -> int:
        number = self._texts[row].row
        assert number is not None, "a row that has been read"
        return number


def groups(sizes: Sequence[int], most: int) -> list[list[int]]:
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
