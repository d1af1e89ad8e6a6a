"""Nodes of different age in a looped torch model's cache: what a pass of theirs reads, writes and leaves.

A pass calls each of the G layers once for all nodes. Their keys go to the virtual layer of each node's loop,
and attention is over the keys of all loops in use, side by side; a mask leaves a node those of its own loop.
With U loops in use that reads U times the keys of a plain call: little beside the weights, while texts are
short. What a node has reached is held between passes; its keys move when nodes before it go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outpace.core.call import Call, Kept, Pass, check_room
from outpace.core.errors import OutpaceError
from outpace.core.products import Adapter
from outpace.targets.hf_cache import SlotCache
from outpace.targets.hf_masks import tree_masks
from outpace.targets.hf_scores import TorchScores


@dataclass(frozen=True, slots=True)
class Flight:
    """What a row has in flight: the slot of the first node, the loop that each ran, states [N or more, D]."""

    start: int
    loops: Sequence[int]
    states: Tensor


class Flights:
    """What the rows of a looped model have in flight, whose keys are in the slots behind their tokens."""

    def __init__(self, cache: SlotCache, *, num_loops: int, vocab_size: int, context_length: int) -> None:
        self._cache = cache
        self._num_loops = num_loops
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._flights: dict[int, Flight] = {}

    def check(self, passes: Sequence[Pass]) -> None:
        """Raise an OutpaceError for nodes that do not go on from where they were, or cannot run at all."""
        assert len({one.row for one in passes}) == len(passes), "different rows"
        for one in passes:
            length = self._cache.length(one.row)
            check_room(length, self._context_length, Call.on(one.row, one.tree))
            if min(one.tree.token_list) < 0 or max(one.tree.token_list) >= self._vocab_size:
                raise OutpaceError(f"token ids are not all from 0 to {self._vocab_size - 1}")
            flight = self._flights.get(one.row)
            known = [] if flight is None else flight.loops
            for loop, old in zip(one.loops, one.came, strict=True):
                begins = 0 if old < 0 else known[old] + 1 if old < len(known) else None
                if loop != begins or loop >= self._num_loops:
                    raise OutpaceError(
                        f"a node runs loop {loop} and comes from node {old} of the row's last pass, accepted "
                        f"are the loop after that node's, up to {self._num_loops - 1}, or loop 0 of a new "
                        "one (-1)"
                    )

    def begin(
        self, passes: Sequence[Pass], num_layers: int, device: torch.device, dtype: torch.dtype
    ) -> Begun:
        """Make the rows ready for a pass that `check` knows. Until it has ended they have nothing in flight.

        num_layers  G. dtype: that of the mask.
        """
        rows = [one.row for one in passes]
        before = [self._flights.pop(row, None) for row in rows]
        lengths = [self._cache.length(row) for row in rows]
        shapes = [one.tree.shape for one in passes]
        inputs = np.zeros((2, len(rows), max(shape.num_nodes for shape in shapes)), dtype=np.int64)
        loops = np.full(inputs.shape[1:], -1)  # of padding: none, it sees nothing and writes nothing
        for place, (one, length) in enumerate(zip(passes, lengths, strict=True)):
            size = one.tree.num_nodes
            inputs[:, place, :size] = one.tree.token_list, one.tree.shape.depths
            inputs[1, place, :size] += length
            loops[place, :size] = one.loops
        in_sight = self._cache.aim(rows, inputs.shape[2])
        for one, flight, length in zip(passes, before, lengths, strict=True):
            if flight is not None:
                going = [(flight.start + old, length + i) for i, old in enumerate(one.came) if old >= 0]
                self._cache.move(one.row, going)
        tokens, positions = torch.from_numpy(inputs).to(device)
        (mask,) = tree_masks(shapes, positions, in_sight, [None], dtype)
        cache = Staggered(self._cache, loops, num_layers)
        return Begun(passes, before, lengths, tokens, positions, cache.mask(mask), cache)

    def end(self, begun: Begun, states: Tensor) -> None:
        """Hold the states [B, N, D] that the nodes of a pass have reached."""
        for place, (one, length) in enumerate(zip(begun.passes, begun.lengths, strict=True)):
            self._flights[one.row] = Flight(length, list(one.loops), states[place])

    def keep(self, row: int, path: Kept) -> bool:
        """Commit the root and nodes that are through; False where the row has nothing in flight.

        An OutpaceError for other nodes.
        """
        flight = self._flights.get(row)
        if flight is None:
            return False
        kept = list(path or ())
        if path is None or any(flight.loops[node] != self._num_loops - 1 for node in (0, *kept)):
            raise OutpaceError("kept after a pass are the root and nodes that have run all loops")
        self._cache.keep([row], [kept])
        return True

    def forget(self, rows: Iterable[int]) -> None:
        """These rows have nothing in flight any more."""
        for row in rows:
            self._flights.pop(row, None)


@dataclass(frozen=True, slots=True)
class Begun:
    """A pass of B rows with up to N nodes each, padded.

    tokens, positions  i64[B, N].
    mask               [B, 1, N, slots], to be added. cache: takes the keys of layers 0 to G - 1.
    """

    passes: Sequence[Pass]
    before: Sequence[Flight | None]
    lengths: Sequence[int]
    tokens: Tensor
    positions: Tensor
    mask: Tensor
    cache: Staggered

    def resume(self, states: Tensor) -> Tensor:
        """States [B, N, D] of tokens that enter; those of nodes that have run before take their places."""
        for place, (one, flight) in enumerate(zip(self.passes, self.before, strict=True)):
            going = [(i, old) for i, old in enumerate(one.came) if old >= 0]
            if flight is not None and going:
                (new, old), count = going[0], len(going)
                if going == [(new + i, old + i) for i in range(count)]:  # a copy, not a gather
                    states[place, new : new + count] = flight.states[old : old + count]
                else:
                    places = torch.tensor(going, device=states.device)
                    states[place, places[:, 0]] = flight.states[places[:, 1]].to(states)
        return states

    def wanted(self, states: Tensor) -> Tensor:
        """[W, D]: the states of the nodes that scores are wanted of, of all rows in order."""
        wanted = [(place, node) for place, one in enumerate(self.passes) for node in one.wanted]
        places = torch.tensor(wanted, dtype=torch.long, device=states.device).view(-1, 2)
        return states[places[:, 0], places[:, 1]]

    def adapted(self, states: Tensor, heads: Mapping[int, Adapter], num_loops: int) -> Tensor:
        """Those of the wanted nodes, with what heads make of their loops' states in the place of these."""
        loops = [one.loops[node] + 1 for one in self.passes for node in one.wanted]
        for loop, head in heads.items():
            assert 0 < loop < num_loops, "after its last loop a token's output is the model's own"
            if some := [i for i, one in enumerate(loops) if one == loop]:
                states[some] = torch.from_numpy(head(states[some].float().cpu().numpy())).to(states)
        return states

    def scores(self, logits: Tensor) -> TorchScores:
        """Those of the wanted nodes, by logits [W, V]."""
        return TorchScores(logits, range(len(logits)), [[0]] * len(logits), {})


class Staggered:
    """A cache as the layers of a pass see it. loops: i64[B, N], the one that each node runs; -1: padding."""

    def __init__(self, cache: SlotCache, loops: np.ndarray, num_layers: int) -> None:
        self._cache = cache
        self._num_layers = num_layers
        self._loops = loops
        self._used = sorted({*loops.flatten().tolist()} - {-1})
        nodes = [(int(row), int(node), loops[row, node]) for row, node in np.ndindex(loops.shape)]
        self._spots = [cache.spots([(r, n) for r, n, its in nodes if its == loop]) for loop in self._used]

    def mask(self, trees: Tensor) -> Tensor:
        """[B, 1, N, U * S] of a mask [B, 1, N, S]: a node sees the slots of its own loop."""
        lowest = torch.finfo(trees.dtype).min
        parts = []
        for loop in self._used:
            others = torch.from_numpy(self._loops != loop).to(trees.device)
            parts.append(trees.masked_fill(others[:, None, :, None], lowest))
        return torch.cat(parts, dim=-1)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Called by the layers: [B, heads, N, dim] in, [B, heads, U * S, dim] out."""
        seen = [
            self._cache.update_nodes(spots, keys, values, loop * self._num_layers + layer_idx)
            for loop, spots in zip(self._used, self._spots, strict=True)
        ]
        return tuple(torch.cat(parts, dim=2) for parts in zip(*seen, strict=True))
