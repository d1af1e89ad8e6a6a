"""Looped encoder-decoders as targets: nodes of different age share one pass of the decoder's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers.cache_utils import EncoderDecoderCache

from outpace.core.call import Call, Kept, Pass
from outpace.core.products import Adapter
from outpace.core.tree import TokenTree
from outpace.targets.hf_flights import Flights
from outpace.targets.hf_looped_marian import LoopAndSource
from outpace.targets.hf_models import check_mode
from outpace.targets.hf_scores import TorchScores
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget
from outpace.targets.hf_wrapped import plain_model


def seq2seq_target(model: Any, **options: Any) -> HfSeq2SeqTarget:
    """The target of an encoder-decoder model: one that runs loops, where its decoder has them."""
    has_loops = callable(getattr(plain_model(model).get_decoder(), "run_loop", None))
    return HfLoopedSeq2SeqTarget(model, **options) if has_loops else HfSeq2SeqTarget(model, **options)


class HfLoopedSeq2SeqTarget(HfSeq2SeqTarget):
    """A LoopedMarianMTModel with its rows; see HfSeq2SeqTarget. Taps of layers are those of the last loop."""

    @cached_property
    def _flights(self) -> Flights:
        return Flights(
            self._cache,
            num_loops=self.num_loops,
            vocab_size=self.vocab_size,
            context_length=self.context_length,
        )

    @property
    def num_loops(self) -> int:
        """R."""
        loops: int = self.model.config.num_loops
        return loops

    def score(self, calls: Sequence[Call]) -> TorchScores:
        """As HfSeq2SeqTarget; these rows' nodes in flight are forgotten."""
        self._flights.forget(call.row for call in calls)
        return super().score(calls)

    def advance(self, passes: Sequence[Pass], heads: Mapping[int, Adapter] | None = None) -> TorchScores:
        """One loop for every node in flight (see `contracts.Looped`); nothing is committed.

        An OutpaceError for nodes that do not go on from where they were.
        """
        check_mode(self.model, self.vocab_size)
        self._flights.check(passes)
        rows = [one.row for one in passes]
        if new := [one for one in passes if self._sources[one.row] not in self._cross_rows]:
            # Before its first call a row's source is not cached. A call caches it, whatever the token.
            self.score([Call.on(one.row, TokenTree.root(one.tree.token_list[0])) for one in new])
        decoder = self.model.get_decoder()
        begun = self._flights.begin(passes, len(decoder.layers), self._device, self._dtype)
        source, source_mask = self._sources_of(rows, ())
        with torch.no_grad(), self._linears():
            states = decoder.placed(decoder.embed_tokens(begun.tokens), begun.positions)
            states = decoder.run_loop(
                begun.resume(states),
                attention_mask=begun.mask,
                past_key_values=LoopAndSource(EncoderDecoderCache(self._cache, self._cross), begun.cache),
                use_cache=True,
                **decoder.source_options(states, source, source_mask),
            )
            read = begun.adapted(decoder.read_out(begun.wanted(states)), heads or {}, self.num_loops)
            logits = self.model.lm_head(read) + self.model.final_logits_bias
        for row in rows:
            self._last.pop(row, None)
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
        """Give rows back, and the cached sources that no row is left of. Their memory stays allotted."""
        super().free(rows)
        self._flights.forget(rows)
