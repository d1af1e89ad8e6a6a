"""Parts of a looped torch model: its first layers draft, and a whole call goes on from what they have.

Layer l of loop r is layer r G + l of R G. What a row's last `run` has reached stays with the target: its keys
and values in the cache, the residual stream here. A call that has the same first nodes runs the other layers
for them, and all layers for nodes that are new. Sublayers that are left out add nothing to the stream.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outpace.core.call import Call, check_room
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree
from outpace.targets.hf_cache import SlotCache
from outpace.targets.hf_causal import HfCausalTarget, Known, num_known
from outpace.targets.hf_detours import Detour, Forward, detour_of, replaced
from outpace.targets.hf_looped_model import LoopCache
from outpace.targets.hf_masks import tree_masks
from outpace.targets.hf_models import check_mode
from outpace.targets.hf_scores import LOGITS, TorchScores


@dataclass(frozen=True, slots=True)
class Part:
    """What a row's last `run` has run: all its tokens, as a tree, and the states [N or more, D] reached."""

    tree: TokenTree
    layers: int
    skip: frozenset[int]
    states: Tensor

    def num_known(self, call: Call, layers: int, skip: frozenset[int]) -> int:
        """How many of a call's first tokens it has run through these layers; the last is always new."""
        same = (self.layers, self.skip) == (layers, skip)
        return num_known(self.tree, call.joined) if same else 0


class HfParts(HfCausalTarget):
    """A LoopedForCausalLM that can run a part of itself (see `contracts.Layered`)."""

    def __init__(self, model: Any, **options: Any) -> None:
        self._parts: dict[int, Part] = {}
        super().__init__(model, **options)

    @property
    def num_loops(self) -> int:
        """R."""
        loops: int = self.model.config.num_loops
        return loops

    @property
    def num_layers(self) -> int:
        """R G: layer l of loop r is layer r G + l."""
        return self.num_loops * len(self.model.base_model.layers)

    def score(self, calls: Sequence[Call]) -> TorchScores:
        """As HfCausalTarget; it goes on from the rows' last `run`, unless states are tapped."""
        parts = self._taken(calls)
        depth = max((part.layers for part in parts.values() if not part.skip), default=0)
        known = _known(calls, parts, depth, frozenset())
        if self._taps.names or not any(known):
            return super().score(calls)
        for call in calls:
            check_room(self._cache.length(call.row), self.context_length, call)
            self._last.pop(call.row, None)
        states = self._first_layers(calls, known, parts, depth, frozenset())
        states = self._run_layers(calls, [0] * len(calls), (depth, self.num_layers), frozenset(), states)
        logits = self._logits(calls, states, self.num_layers)
        self._last |= {call.row: Known(call, {LOGITS: one}) for call, one in zip(calls, logits, strict=True)}
        return _scores(calls, logits)

    def run(
        self, calls: Sequence[Call], *, layers: int | None = None, skip: Collection[int] = ()
    ) -> TorchScores:
        """`score` by a part of the model (see `contracts.Layered`)."""
        without = frozenset(skip)
        depth = self.num_layers if layers is None else layers
        for call in calls:
            check_room(self._cache.length(call.row), self.context_length, call)
            self._last.pop(call.row, None)
        parts = self._taken(calls)
        known = _known(calls, parts, depth, without)
        states = self._first_layers(calls, known, parts, depth, without)
        for place, call in enumerate(calls):
            self._parts[call.row] = Part(call.joined, depth, without, states[place])
        return _scores(calls, self._logits(calls, states, depth))

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back. Their memory stays allotted for others."""
        super().free(rows)
        for row in rows:
            self._parts.pop(row, None)

    def _taken(self, calls: Sequence[Call]) -> dict[int, Part]:
        """What the rows' last calls were parts of; whatever comes now is not a part of it any more."""
        return {call.row: self._parts.pop(call.row) for call in calls if call.row in self._parts}

    def _first_layers(
        self,
        calls: Sequence[Call],
        known: Sequence[int],
        parts: Mapping[int, Part],
        depth: int,
        skip: frozenset[int],
    ) -> Tensor:
        """States [B, N, D] of all nodes after the first layers, which run for those alone that are new."""
        new = self._run_layers(calls, known, (0, depth), skip)
        rows = []
        for place, (call, old) in enumerate(zip(calls, known, strict=True)):
            one = new[place, : call.lead + call.tree.num_nodes - old]
            rows.append(torch.cat([parts[call.row].states[:old].to(new), one]) if old else one)
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _run_layers(
        self,
        calls: Sequence[Call],
        known: Sequence[int],
        layers: tuple[int, int],
        skip: frozenset[int],
        states: Tensor | None = None,
    ) -> Tensor:
        """States [B, N, D] of the nodes after the `known` ones, through some layers; None: from the first."""
        trees = [call.joined for call in calls]
        texts = [tree.token_list[old:] for tree, old in zip(trees, known, strict=True)]
        check_mode(self.model, self.vocab_size)
        if min(map(min, texts)) < 0 or max(map(max, texts)) >= self.vocab_size:
            raise OutpaceError(f"token ids are not all from 0 to {self.vocab_size - 1}")
        rows, shapes = [call.row for call in calls], [tree.shape for tree in trees]
        lengths = [self._cache.length(row) for row in rows]
        if 0 in lengths:
            self._linears.look()
        inputs = np.zeros((2, len(rows), max(map(len, texts))), dtype=np.int64)
        for place, (text, shape, length, old) in enumerate(zip(texts, shapes, lengths, known, strict=True)):
            inputs[0, place, : len(text)] = text
            inputs[1, place, : len(text)] = shape.depths[old:]
            inputs[1, place, : len(text)] += length
        in_sight = self._cache.aim(rows, inputs.shape[2], known)
        tokens, positions = torch.from_numpy(inputs).to(self._device)
        (mask,) = tree_masks(shapes, positions, in_sight, [None], self._dtype, known=known)
        stack = self.model.base_model
        with torch.no_grad(), self._linears():
            states = stack.embed_tokens(tokens) if states is None else states
            return run_layers(
                stack,
                states,
                self._cache,
                layers,
                skip,
                attention_mask=mask,
                position_ids=positions,
                position_embeddings=stack.rotary_emb(states, position_ids=positions),
                use_cache=True,
            )

    def _logits(self, calls: Sequence[Call], states: Tensor, depth: int) -> list[Tensor]:
        """Of states [B, N, D] after `depth` layers, the logits [n, V] after each call's tree."""
        stack = self.model.base_model
        read_out = stack.norm if depth % len(stack.layers) else stack.read_out
        with torch.no_grad(), self._linears():
            trees = [
                state[call.lead : call.lead + call.tree.num_nodes]
                for call, state in zip(calls, states, strict=True)
            ]
            logits = self.model.get_output_embeddings()(read_out(torch.cat(trees)))
            return list(logits.split([len(tree) for tree in trees]))


def _known(calls: Sequence[Call], parts: Mapping[int, Part], layers: int, skip: frozenset[int]) -> list[int]:
    return [parts[call.row].num_known(call, layers, skip) if call.row in parts else 0 for call in calls]


def _scores(calls: Sequence[Call], logits: Sequence[Tensor]) -> TorchScores:
    wanted = [one for one in zip(calls, logits, strict=True) if one[0].wanted]
    firsts, depths = [0], []
    for call, _ in wanted:
        firsts.append(firsts[-1] + call.tree.num_nodes)
        depths.append(call.tree.shape.depths)
    every = [one for _, one in wanted]
    return TorchScores(torch.cat(every) if every else logits[0][:0], firsts[:-1], depths, {})


def run_layers(
    stack: Any,
    states: Tensor,
    cache: SlotCache,
    layers: tuple[int, int],
    skip: Collection[int],
    **options: Any,
) -> Tensor:
    """States [B, N, D] after the layers from the first number up to the second, without these sublayers."""
    num_layers, num_loops = len(stack.layers), stack.config.num_loops
    for number in range(*layers):
        loop, place = divmod(number, num_layers)
        layer = stack.layers[place]
        with _without(layer, {0, 1}.intersection(sub - 2 * number for sub in skip)):
            one = LoopCache(cache, loop, num_layers, num_loops)
            states = layer(states, past_key_values=one, **options)
        if place == num_layers - 1 and stack.config.loop_norm:
            states = stack.norm(states)
    return states


def _without(layer: Any, halves: Collection[int]) -> AbstractContextManager[None]:
    """Within, the attention (0) or feed-forward (1) of a layer adds nothing to the residual stream."""
    ways: list[tuple[Detour, Forward]] = []
    if 0 in halves:
        ways.append((detour_of(layer.self_attn), _no_attention))
    if 1 in halves:
        ways.append((detour_of(layer.mlp), torch.zeros_like))
    return replaced(ways)


def _no_attention(hidden_states: Tensor, *others: Any, **options: Any) -> tuple[Tensor, None]:
    return torch.zeros_like(hidden_states), None
