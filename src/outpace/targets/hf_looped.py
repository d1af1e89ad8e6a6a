"""Looped torch models as targets: nodes of different age share one pass of the layers (`hf_flights.py`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from outpace.core.call import Call, Kept, Pass
from outpace.core.products import Adapter
from outpace.targets.hf_causal import HfCausalTarget
from outpace.targets.hf_flights import Flights
from outpace.targets.hf_looped_parts import HfParts
from outpace.targets.hf_models import check_mode
from outpace.targets.hf_scores import TorchScores
from outpace.targets.hf_wrapped import plain_model


def causal_target(model: Any, **options: Any) -> HfCausalTarget:
    """The target of a decoder-only model: one that runs loops, where the model has them."""
    has_loops = callable(getattr(plain_model(model).base_model, "run_loop", None))
    return HfLoopedTarget(model, **options) if has_loops else HfCausalTarget(model, **options)


class HfLoopedTarget(HfParts):
    """A LoopedForCausalLM with its rows; see HfCausalTarget. Taps of layers are those of the last loop."""

    @cached_property
    def _flights(self) -> Flights:
        return Flights(
            self._cache,
            num_loops=self.num_loops,
            vocab_size=self.vocab_size,
            context_length=self.context_length,
        )

    def score(self, calls: Sequence[Call]) -> TorchScores:
        """As HfParts; these rows' nodes in flight are forgotten."""
        self._flights.forget(call.row for call in calls)
        return super().score(calls)

    def run(
        self, calls: Sequence[Call], *, layers: int | None = None, skip: Collection[int] = ()
    ) -> TorchScores:
        """As HfParts; these rows' nodes in flight are forgotten."""
        self._flights.forget(call.row for call in calls)
        return super().run(calls, layers=layers, skip=skip)

    def advance(self, passes: Sequence[Pass], heads: Mapping[int, Adapter] | None = None) -> TorchScores:
        """One loop for every node in flight (see `contracts.Looped`); nothing is committed.

        An OutpaceError for nodes that do not go on from where they were.
        """
        check_mode(self.model, self.vocab_size)
        self._flights.check(passes)
        for one in passes:
            self._last.pop(one.row, None)
            self._parts.pop(one.row, None)
            if self.length(one.row) == 0:
                self._linears.look()
        stack = self.model.base_model
        begun = self._flights.begin(passes, len(stack.layers), self._device, self._dtype)
        with torch.no_grad(), self._linears():
            states = begun.resume(stack.embed_tokens(begun.tokens))
            states = stack.run_loop(
                states,
                attention_mask=begun.mask,
                position_ids=begun.positions,
                position_embeddings=stack.rotary_emb(states, position_ids=begun.positions),
                past_key_values=begun.cache,
                use_cache=True,
            )
            read = begun.adapted(stack.read_out(begun.wanted(states)), heads or {}, self.num_loops)
            logits = self.model.get_output_embeddings()(read)
        self._flights.end(begun, states)
        return begun.scores(logits)

    def keep(self, rows: Sequence[int], paths: Sequence[Kept]) -> None:
        """Commit what was pending in the last `score`, of these rows, and the given nodes.

        After `advance`: the root and nodes that are through. An OutpaceError for others.
        """
        for row, path in zip(rows, paths, strict=True):
            if not self._flights.keep(row, path):
                super().keep([row], [path])

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back. Their memory stays allotted for others."""
        super().free(rows)
        self._flights.forget(rows)
