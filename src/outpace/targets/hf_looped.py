"""A looped torch model as a target: nodes of different age share one pass of its layers.

A pass calls each of the G layers once for all nodes. Their keys go to the virtual layer of each node's loop,
and attention is over the keys of all loops in use, side by side; a mask leaves a node those of its own loop.
With U loops in use that reads U times the keys of a plain call: little beside the weights, while texts are
short. What a node has reached is held between passes; its keys move when nodes before it go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outpace.core.call import Call, Kept, Pass, check_room
from outpace.core.errors import OutpaceError
from outpace.core.products import Adapter
from outpace.targets.hf_cache import SlotCache
from outpace.targets.hf_causal import HfCausalTarget
from outpace.targets.hf_masks import tree_masks
from outpace.targets.hf_models import check_mode
from outpace.targets.hf_scores import TorchScores
from outpace.targets.hf_wrapped import plain_model


def causal_target(model: Any, **options: Any) -> HfCausalTarget:
    """The target of a decoder-only model: one that runs loops, where the model has them."""
    has_loops = callable(getattr(plain_model(model).base_model, "run_loop", None))
    return HfLoopedTarget(model, **options) if has_loops else HfCausalTarget(model, **options)


class HfLoopedTarget(HfCausalTarget):
    """A LoopedForCausalLM with its rows; see HfCausalTarget. Taps of layers are those of the last loop."""

    def __init__(self, model: Any, **options: Any) -> None:
        self._flights: dict[int, Flight] = {}
        super().__init__(model, **options)

    @property
    def num_loops(self) -> int:
        """R."""
        loops: int = self.model.config.num_loops
        return loops

    def score(self, calls: Sequence[Call]) -> TorchScores:
        """As HfCausalTarget; these rows' nodes in flight are forgotten."""
        for call in calls:
            self._flights.pop(call.row, None)
        return super().score(calls)

    def advance(self, passes: Sequence[Pass], heads: Mapping[int, Adapter] | None = None) -> TorchScores:
        """One loop for every node in flight (see `contracts.Looped`); nothing is committed.

        An OutpaceError for nodes that do not go on from where they were.
        """
        rows = [one.row for one in passes]
        assert len(set(rows)) == len(rows), "different rows"
        check_mode(self.model, self.vocab_size)
        for one in passes:
            self._check(one)
        before = [self._flights.pop(row, None) for row in rows]
        for row in rows:
            self._last.pop(row, None)
        lengths = [self._cache.length(row) for row in rows]
        if 0 in lengths:
            self._linears.look()
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
        tokens, positions = torch.from_numpy(inputs).to(self._device)
        (mask,) = tree_masks(shapes, positions, in_sight, [None], self._dtype)
        stack = self.model.base_model
        with torch.no_grad(), self._linears():
            states = stack.embed_tokens(tokens)
            for place, (one, flight) in enumerate(zip(passes, before, strict=True)):
                going = [(i, old) for i, old in enumerate(one.came) if old >= 0]
                if flight is not None and going:
                    new, old = (list(numbers) for numbers in zip(*going, strict=True))
                    states[place, new] = flight.states[old].to(states)
            cache = _Staggered(self._cache, loops, len(stack.layers))
            states = stack.run_loop(
                states,
                attention_mask=cache.mask(mask),
                position_ids=positions,
                position_embeddings=stack.rotary_emb(states, position_ids=positions),
                past_key_values=cache,
                use_cache=True,
            )
            wanted = [(place, node) for place, one in enumerate(passes) for node in one.wanted]
            logits = states.new_empty(0, self.vocab_size)
            if wanted:
                read = stack.read_out(states[tuple(torch.tensor(wanted, device=states.device).T)])
                _adapt(read, [loops[place] + 1 for place in wanted], heads or {}, self.num_loops)
                logits = self.model.get_output_embeddings()(read)
        for place, (one, length) in enumerate(zip(passes, lengths, strict=True)):
            self._flights[one.row] = Flight(length, list(one.loops), states[place])
        return TorchScores(logits, range(len(wanted)), [[0]] * len(wanted), {})

    def keep(self, rows: Sequence[int], paths: Sequence[Kept]) -> None:
        """Commit what was pending in the last `score`, of these rows, and the given nodes.

        After `advance`: the root and nodes that are through. An OutpaceError for others.
        """
        for row, path in zip(rows, paths, strict=True):
            flight = self._flights.get(row)
            if flight is None:
                super().keep([row], [path])
                continue
            kept = list(path or ())
            if path is None or any(flight.loops[node] != self.num_loops - 1 for node in (0, *kept)):
                raise OutpaceError("kept after a pass are the root and nodes that have run all loops")
            self._cache.keep([row], [kept])

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back. Their memory stays allotted for others."""
        super().free(rows)
        for row in rows:
            self._flights.pop(row, None)

    def _check(self, one: Pass) -> None:
        check_room(self._cache.length(one.row), self.context_length, Call.on(one.row, one.tree))
        if min(one.tree.token_list) < 0 or max(one.tree.token_list) >= self.vocab_size:
            raise OutpaceError(f"token ids are not all from 0 to {self.vocab_size - 1}")
        flight = self._flights.get(one.row)
        known = [] if flight is None else flight.loops
        for loop, old in zip(one.loops, one.came, strict=True):
            begins = 0 if old < 0 else known[old] + 1 if old < len(known) else None
            if loop != begins or loop >= self.num_loops:
                raise OutpaceError(
                    f"a node runs loop {loop} and comes from node {old} of the row's last pass, accepted "
                    f"are the loop after that node's, up to {self.num_loops - 1}, or loop 0 of a new one (-1)"
                )


def _adapt(states: Tensor, loops: Sequence[int], heads: Mapping[int, Adapter], num_loops: int) -> None:
    """Put what heads make of their loops' states in the place of these. states [n, D], loops: n numbers."""
    for loop, head in heads.items():
        assert 0 < loop < num_loops, "after its last loop a token's output is the model's own"
        if some := [i for i, one in enumerate(loops) if one == loop]:
            states[some] = torch.from_numpy(head(states[some].float().cpu().numpy())).to(states)


@dataclass(frozen=True, slots=True)
class Flight:
    """What a row has in flight: the slot of the first node, the loop that each ran, states [N or more, D]."""

    start: int
    loops: Sequence[int]
    states: Tensor


class _Staggered:
    """A cache as the layers of a pass see it. loops: i64[B, N], the one that each node runs; -1: padding."""

    def __init__(self, cache: SlotCache, loops: np.ndarray, num_layers: int) -> None:
        self._cache = cache
        self._num_layers = num_layers
        self._loops = loops
        self._used = sorted({*loops.flatten().tolist()} - {-1})
        numbers = torch.from_numpy(loops)
        self._nodes = [torch.nonzero(numbers == loop).T for loop in self._used]

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
            self._cache.update_nodes(nodes, keys, values, loop * self._num_layers + layer_idx)
            for loop, nodes in zip(self._used, self._nodes, strict=True)
        ]
        return tuple(torch.cat(parts, dim=2) for parts in zip(*seen, strict=True))
