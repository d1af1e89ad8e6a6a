"""What torch targets with rows in a slot cache have in common: the rows, and what a call begins with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outpace.core.call import Call, Source, check_room
from outpace.core.contracts import Target
from outpace.core.errors import OutpaceError
from outpace.core.options import whole
from outpace.core.steps import Exactness
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.targets.hf_cache import SlotCache
from outpace.targets.hf_linears import linears_of
from outpace.targets.hf_models import ModelFacts
from outpace.targets.hf_seq2seq_models import Seq2SeqFacts
from outpace.targets.hf_taps import TappedModel, Taps


class SlotTarget(TappedModel):
    """A torch target with a `SlotCache`; `score` and `keep` are its own."""

    exactness: Exactness = "identical"
    traits = Traits(numerics="ties")  # prompts are read whole: causal calls have the quicker kernels
    vocab_size: int
    context_length: int
    eos_ids: frozenset[int]
    _cache: SlotCache

    def _take(
        self,
        model: Any,
        stack: Any,
        facts: ModelFacts | Seq2SeqFacts,
        context_length: int | None,
        kernels: str,
    ) -> None:
        """Begin with a model of transformers; `stack` is the part of it whose layers are numbered."""
        if context_length is not None:
            whole("context_length", context_length, 1, facts.context_length)
        self.model = model
        self.vocab_size = facts.vocab_size
        self.context_length = context_length or facts.context_length
        self.eos_ids = facts.eos_ids
        self._taps = Taps(model, stack, facts.num_layers)
        self._linears = linears_of(model, kernels)
        self._cache = SlotCache(self._device, max_slots=self.context_length)

    def fork(self, row: int) -> int:
        """A new row with the same cached tokens, copied, and the same source."""
        return self._cache.fork(row)

    def length(self, row: int) -> int:
        """How many tokens the row has cached."""
        return self._cache.length(row)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return self._cache.num_rows

    @property
    def cache_bytes(self) -> int:
        """Bytes allotted to keys and values."""
        return self._cache.num_bytes

    @property
    def _device(self) -> torch.device:
        """Where token ids go: asked anew in every call, as a model may be moved."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def _dtype(self) -> torch.dtype:
        """The type of masks, asked for in every call: a model may be converted."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def _check_calls(self, calls: Sequence[Call]) -> None:
        """OutpaceError for a call that its row has no room for."""
        assert len({call.row for call in calls}) == len(calls), "different rows"
        for call in calls:
            check_room(self._cache.length(call.row), self.context_length, call)

    def _check_tokens(self, trees: Sequence[TokenTree]) -> None:
        """OutpaceError for tokens that the vocabulary does not have."""
        texts = [tree.token_list for tree in trees]
        if min(map(min, texts)) < 0 or max(map(max, texts)) >= self.vocab_size:
            raise OutpaceError(f"token ids are not all from 0 to {self.vocab_size - 1}")

    def _placed(
        self,
        rows: Sequence[int],
        trees: Sequence[TokenTree],
        lengths: Sequence[int],
        known: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor, int]:
        """(tokens i64[B, N], positions i64[B, N], slots in sight) of a call, padded, at which the cache aims.

        lengths: of the rows. known: how many of each tree's first nodes the call before has run, if any.
        """
        if 0 in lengths:
            self._linears.look()
        known = known or [0] * len(rows)
        num_nodes = max(tree.num_nodes - old for tree, old in zip(trees, known, strict=True))
        inputs = np.zeros((2, len(rows), num_nodes), dtype=np.int64)
        for place, (tree, length, old) in enumerate(zip(trees, lengths, known, strict=True)):
            new = slice(tree.num_nodes - old)
            inputs[0, place, new] = tree.token_list[old:]
            inputs[1, place, new] = tree.shape.depths[old:]
            inputs[1, place, new] += length
        in_sight = self._cache.aim(rows, num_nodes, known)
        tokens, positions = torch.from_numpy(inputs).to(self._device, non_blocking=True)
        return tokens, positions, in_sight


def try_a_tree(
    target: Target,
    name: str,
    tested: Sequence[str],
    alone: Callable[[Tensor], Any],
    sources: Sequence[Source | None] = (None,),
) -> None:
    """Refuse a model whose nodes do not see their own path: all that masks and positions should do.

    name     the model's type. tested: those that need no trial.
    alone    the model's own call on token ids i64[1, N], and on the first source.
    sources  of rows in one call: the first one's tree is compared.
    """
    token = [(7 * i + 1) % target.vocab_size for i in range(6)]
    tree = TokenTree(token[2:], [-1, 0, 0, 1])
    try:
        first, *others = rows = [target.open(source) for source in sources]
        calls = [
            Call(first, [*token[:2], token[2]], tree),
            *(Call.read(row, [token[0], 0]) for row in others),
        ]
        scores = target.score(calls)
        for path in tree.paths():
            text = [*token[:2], *(tree.token_list[node] for node in path)]
            with torch.no_grad():
                expected = alone(torch.tensor([text])).logits[0, 2:].float().cpu().numpy()
            apart = np.abs(scores.logits(0, path) - expected).max()
            if not apart < 0.05 * expected.std():
                raise ValueError(f"the logits of a tree's path are off by {apart:.2g}")
        target.free(rows)
    except Exception as error:
        raise OutpaceError(
            f"the model type {name!r} cannot be a target: a tree could not be scored ({error}); tested are "
            f"{', '.join(tested)}"
        ) from error
